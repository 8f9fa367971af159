// How many files this process may have open, and has.

import { readdirSync, readFileSync } from 'node:fs'

/** Null: the kernel does not tell. Node.js has raised the soft limit to the hard one. */
export function fileLimit(): { readonly limit: number; readonly open: number } | null {
  try {
    const limit = readFileSync('/proc/self/limits', 'latin1').match(/^Max open files\s+(\d+)/m)
    // The directory that is read is one of them.
    return limit === null ? null : { limit: Number(limit[1]), open: readdirSync('/proc/self/fd').length - 1 }
  } catch {
    return null
  }
}
