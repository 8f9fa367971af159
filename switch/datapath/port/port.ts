// What the datapath asks of a port. A port moves frames between a device and memory; it decides nothing.

import type { Frame } from '../../../src/frame/frame.js'
import type { SocketPrograms } from '../../../src/linux/handover.js'
import type { Output } from '../../forwarding/port-state.js'

/** Takes each received frame while its bytes are valid: until the port's `release`. */
export interface FrameSink {
  receive(port: number, frame: Frame, now: number): void
}

/** What whoever runs the switch should hear of, once per port. */
export type PortTrouble = 'ring-jammed' | 'gso-unsupported'

export interface Port extends Output {
  readonly index: number
  readonly name: string
  readonly ifindex: number
  /** For poll; -1 when there is nothing to wait on. */
  readonly fd: number
  /**
   * Hands at most one batch to the sink; returns how many frames that were. Then `flush` of all ports, then `release`.
   */
  receive(sink: FrameSink, now: number): number
  /** Sends what was queued, one system call per batch; what the device does not take is dropped and counted. */
  flush(): void
  /** All ports have flushed: the memory of the frames received may be used again. */
  release(): void
  /** At least every 100 ms; every 500 ms when it is calm, and nothing comes. */
  tick(now: number): void
  readonly isCalm: boolean
  /** Once a second: reads counters that the kernel keeps. */
  housekeeping(): void
  /** poll reported an error condition. */
  failed(): void
  /** False: its device has left it for good, though one of that index may be there. */
  isBound(): boolean
  /** Its sockets take frames when these say so; null: always. */
  handOver(programs: SocketPrograms | null): void
  /** Its socket that holds what the ring must not get is ready. */
  woken(): void
  close(): void
}
