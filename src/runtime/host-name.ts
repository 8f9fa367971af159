// What this host is called among the hosts of a network, where its configuration does not say it.

import { hostname } from 'node:os'
import { isName } from '../api/names.js'

/** Null: what the kernel calls it is no name for it. */
export function hostName(): string | null {
  const name = hostname()
  return isName(name) ? name : null
}
