// What the forwarder knows of a port. A member port belongs to a VM of the network and has an epoch; a plain one leads to
// the outside; a trunk leads to a peer switch and carries colors.

import type { PortKind } from '../../src/api/schemas.js'
import { PeerChannel } from '../../src/epoch/channel.js'
import type { Frame } from '../../src/frame/frame.js'
import { type HoldBounds, HoldQueue } from './hold-queue.js'
import type { ArmedCopies } from './recorder.js'

/** Where a forwarder's frames go. Implemented by ports; it never throws, it counts. */
export interface Output {
  /** Queues the frame for the next flush. `serviceTci` >= 0 pushes an 802.1ad tag with that TCI. False: dropped, counted by the port. */
  send(frame: Frame, serviceTci: number): boolean
}

export interface PortSpec {
  /** Unique in the daemon, below MAX_PORTS; also the row of its counters. */
  readonly index: number
  readonly name: string
  readonly kind: PortKind
  readonly vm: string | null
  /** Initial epoch of a member. */
  readonly epoch: number
  /** The device's own address: source of control frames on a trunk. */
  readonly mac: Uint8Array
}

export class PortState {
  readonly spec: PortSpec
  readonly index: number
  readonly isMember: boolean
  readonly isTrunk: boolean
  readonly output: Output
  /** Offset of this port's row in the counter table. */
  readonly row: number
  epoch: number
  fence = 0
  /** What comes waits in the hold queue. */
  closed = false
  /** Closed still, but what waits is being let out in portions: it opens when the last one has gone. */
  opening = false
  armed: ArmedCopies | null = null
  /** Highest early color the agent has been told of. */
  earlyNotified = -1
  readonly hold: HoldQueue
  readonly channel: PeerChannel | null

  constructor(spec: PortSpec, output: Output, hold: HoldBounds, rowLength: number) {
    this.spec = spec
    this.index = spec.index
    this.isMember = spec.kind === 'member'
    this.isTrunk = spec.kind === 'trunk'
    this.output = output
    this.row = spec.index * rowLength
    this.epoch = spec.epoch
    this.hold = new HoldQueue(hold)
    this.channel = this.isTrunk ? new PeerChannel() : null
  }
}
