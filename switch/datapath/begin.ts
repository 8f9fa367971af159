// The forwarding thread begins before anything else is known: it takes as long to load as all the rest, and touches no
// device until it is told of one.

import { Datapath } from './datapath.js'

/** Until the configuration is read. */
const POLLING = { poll: 'sleep', spinUs: 0 } as const

export interface Begun {
  readonly datapath: Datapath
  /** Rejects when it cannot run; somebody else must wait for it. */
  readonly started: Promise<void>
}

export function beginDatapath(): Begun {
  const datapath = new Datapath(POLLING)
  const started = datapath.start()
  started.catch(() => undefined)
  return { datapath, started }
}
