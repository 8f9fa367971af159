// A process that has a machine's TAP open, and what drivers make of such a process: from its command line alone, so
// that machines are found that nobody has configured.

import type { SnapswitchError } from '../errors/errors.js'

/** A unix socket that the process listens on. */
export interface ListeningSocket {
  /** Where it is for this process; its own path where another one leads there, too. */
  readonly here: string
  /** Somebody is connected to it. */
  readonly busy: boolean
}

export interface HolderProcess {
  readonly pid: number
  /** Clock ticks after boot, proc_pid_stat(5) field 22. */
  readonly startTicks: string
  /** What the kernel calls it (comm): programs may change it. */
  readonly program: string
  /** The name of its program file. */
  readonly binary: string
  readonly argv: readonly string[]
  /** Its effective user. */
  readonly uid: number
  /** What the process listens on under this name of its own; null when it does not, or no path leads there. */
  socketAt(name: string): ListeningSocket | null
  /** The name that a socket among its descriptors is bound to; null when it is none, or has no path. */
  socketBehind(descriptor: number): string | null
}

/** What a driver makes of a process. */
export interface Recognized<Address = unknown> {
  /** What the machine calls itself; null when it has no name. */
  readonly title: string | null
  /** What tells the machine from all others, also when it is started again; null: its title and its TAP. */
  readonly identity: string | null
  /** By which it can be reached, the best first; empty when `problem` says why it cannot. */
  readonly addresses: readonly Address[]
  readonly problem: SnapswitchError | null
}
