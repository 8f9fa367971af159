// A network's open snapshot: its channel state, from the first in-transit frame until every channel is closed by its
// peer's marker and counts, and after that what still comes late. Which ports have cut it reads from their epochs.

import type { Policy } from '../../../src/api/schemas.js'
import { type Closure, UNCOUNTED } from '../../../src/epoch/peer-channel.js'
import type { Frame, FrameCopy } from '../../../src/frame/frame.js'
import type { Network } from '../network.js'
import type { PortState } from '../port-state.js'
import { ChannelRecorder, type RecordedFrame } from './channel-recorder.js'
import { HeldFrames } from './held-frames.js'

export interface ChannelClosed extends Closure {
  readonly port: number
  readonly host: string | null
  /**
   * Frames from before the cut that came after the closure: they were missing when the deadline passed, or copies that
   * the network has made had been counted in their place; or they are copies.
   */
  readonly late: number
}

/** What a snapshot has of this host's channels in the end. */
export interface ChannelState {
  readonly frames: readonly RecordedFrame[]
  /** Frames that did not fit, per port index. */
  readonly overflow: ReadonlyMap<number, number>
  /** As told when the channels were closed, with what came later. */
  readonly closures: readonly ChannelClosed[]
}

export class OpenSnapshot {
  readonly epoch: number
  readonly policy: Policy
  readonly held = new HeldFrames()
  readonly #network: Network
  /** When markers stop being repeated, whatever happens. */
  readonly #until: number
  readonly #recorder: ChannelRecorder
  readonly #sendMarkers: (now: number) => void
  /** All local members have flipped and the peers are being told. */
  #announced = false
  /** Trunks that have our marker, or are being sent it. */
  readonly #told = new Set<number>()
  /** Frames that did not fit the channel state, per port index. */
  readonly #overflow = new Map<number, number>()
  readonly #closures = new Map<number, ChannelClosed>()
  #complete = false
  /** The channel state as it is to be kept: nothing goes into it any more. */
  #kept: ChannelState | null = null

  /** `sendMarkers`: called when some have become due. */
  constructor(network: Network, epoch: number, policy: Policy, until: number, sendMarkers: (now: number) => void) {
    this.#network = network
    this.#sendMarkers = sendMarkers
    this.epoch = epoch
    this.policy = policy
    this.#until = until
    this.#recorder = new ChannelRecorder(network.options.record)
  }

  /**
   * Whether a frame that is in transit to `port` is part of the channel state: also a late one, as long as that is not
   * kept.
   */
  takes(port: PortState, frame: Frame): boolean {
    return frame.color < this.epoch && this.epoch <= port.epoch && this.#kept === null
  }

  /** False, and counted, when the channel state has no room. */
  record(port: PortState, frame: Frame, now: number): boolean {
    if (this.#recorder.record(port.index, frame, now)) return true
    this.#overflow.set(port.index, (this.#overflow.get(port.index) ?? 0) + 1)
    return false
  }

  /** Frames that lay unread at the port's cut. Returns how many were of the network. */
  recordResidue(port: PortState, copies: readonly FrameCopy[], now: number): number {
    return this.#recorder.recordResidue(port.index, copies, now)
  }

  /** Whether every local member has cut, and every channel is closed. From here on, frames from before it are late. */
  get isComplete(): boolean {
    return this.#complete
  }

  /** Whether the channel that comes in at `port` is still to be closed. */
  awaits(port: PortState): boolean {
    return !this.#complete && !this.#closures.has(port.index)
  }

  /** Once every local member has flipped, the peers are told what we sent before. */
  announceCut(now: number): void {
    if (this.#announced) return
    for (const port of this.#network.ports) if (port.isMember && port.epoch < this.epoch) return
    this.#announced = true
    this.#tellPeers(now)
  }

  /**
   * Closes the channels that can be. Returns all closures, once: when the last channel is closed and all gates are
   * open.
   */
  tick(now: number): ChannelClosed[] | null {
    if (this.#complete || !this.#announced) return null
    let waiting = false
    for (const port of this.#network.ports) {
      if (port.isMember && port.closed) waiting = true
      if (port.channel === null || this.#closures.has(port.index)) continue
      const closure = port.channel.closure(this.epoch, this.#network.options.closureDeadline, now)
      if (closure === null) waiting = true
      else this.#closures.set(port.index, { ...closure, port: port.spec.index, host: port.channel.host, late: 0 })
    }
    this.#tellPeers(now)
    if (waiting) return null
    this.#complete = true
    return inOrder(this.#closures.values())
  }

  /**
   * Starts the markers that are due. A peer to which we pass on what comes over other trunks is told only when those
   * are closed: before, frames from before the cut may still come through us to it. Trunks form a tree then, so the
   * leaves begin.
   */
  #tellPeers(now: number): void {
    const { ports, options } = this.#network
    let started = false
    for (const port of ports) {
      // Nothing to count before the peer has said how: it has just been met.
      if (port.channel === null || port.channel.sends === UNCOUNTED || this.#told.has(port.index)) continue
      const through = (other: PortState) =>
        other.channel !== null &&
        other !== port &&
        (other.blocked & port.side) === 0 &&
        !this.#closures.has(other.index)
      if (options.transit && ports.some(through)) continue
      this.#told.add(port.index)
      port.channel.startMarker(this.epoch, now, this.#until)
      started = true
    }
    if (started) this.#sendMarkers(now)
  }

  /** The recording has ended: a channel state that is complete must not have what its recording has not. */
  recordingEnded(): void {
    if (this.#complete) this.#kept ??= this.channelState()
  }

  /** As it is now, or as it was kept. */
  channelState(): ChannelState {
    if (this.#kept !== null) return this.#kept
    const final = [...this.#closures].map(([index, closure]): ChannelClosed => {
      // Of a channel that has begun anew since, nothing more is known.
      const received = this.#network.byIndex[index]?.channel?.received.below(this.epoch) ?? 0
      const late = Math.max(0, received - closure.received)
      return { ...closure, late, lost: Math.max(0, closure.lost - late) }
    })
    return { frames: this.#recorder.frames, overflow: this.#overflow, closures: inOrder(final) }
  }
}

function inOrder(closures: Iterable<ChannelClosed>): ChannelClosed[] {
  return [...closures].sort((a, b) => a.port - b.port || (a.host ?? '').localeCompare(b.host ?? ''))
}
