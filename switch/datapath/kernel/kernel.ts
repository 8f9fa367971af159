// What the fast path needs of the kernel: memory that its programs share, the table of verdicts, and ways to wait for
// what is under way. linux-kernel.ts has the real one; the simulation has one of its own (test/simulation/kernel.ts),
// and runs everything else as it is.

import type { FrontFilter } from '../../../src/linux/ring-filters.js'
import type { PacketPort } from '../port/packet-port.js'

/** Memory that the programs share with us, as layout.ts says. */
export interface KernelMemory {
  readonly ports: Int32Array
  readonly devices: Int32Array
  readonly runs: Int32Array
  readonly counters: Uint32Array
}

/** See BpfHash. */
export interface VerdictTable {
  readonly key: DataView
  readonly value: DataView
  readonly keyBytes: Uint8Array
  readonly keys: DataView
  readonly values: DataView
  readonly isAtEnd: boolean
  put(): boolean
  removeSwept(i: number): void
  sweep(): number
}

/** What was received and waits on a processor; see Backlogs. */
export interface Waiting {
  mark(): boolean
  readonly passed: boolean
  drained(limitMs: number): boolean
}

/** A port whose frames may be fast. */
export type FastPort = Pick<
  PacketPort,
  'index' | 'ifindex' | 'inBridge' | 'fd' | 'isEmpty' | 'putFilterBefore' | 'takeFilterAway'
>

export interface Kernel {
  /** How many there may be. */
  readonly processors: number
  readonly memory: KernelMemory
  readonly verdicts: VerdictTable
  /** Milliseconds. Asked for again and again while something is waited for. */
  now(): number
  /** See visit in src/linux/processors.ts, and waitForReaders. */
  visit(processors: readonly number[]): boolean
  waitForReaders(): boolean
  /** Each `mark` is its own. Throws where the kernel does not tell. */
  waiting(): Waiting
  /** What `decide` is to a port's socket. */
  front(port: number): FrontFilter
  mtu(port: FastPort): number | null
  /** It is up and has a carrier. */
  isRunning(port: FastPort): boolean
  close(): void
}
