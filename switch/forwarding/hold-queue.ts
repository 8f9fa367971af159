// Frames that wait for a gate or for their destination's cut: copies, in order of arrival, bounded in frames and bytes,
// by themselves and together with the other queues of their network.

import type { StateExchange } from '../../src/epoch/state.js'
import { copyFrame, type Frame, type FrameCopy } from '../../src/frame/frame.js'

export interface HoldBounds {
  readonly frames: number
  readonly bytes: number
}

/** What all queues of a network hold together, and may. */
export class HoldRoom {
  readonly #bounds: HoldBounds
  #frames = 0
  #bytes = 0

  constructor(bounds: HoldBounds) {
    this.#bounds = bounds
  }

  has(bytes: number): boolean {
    return this.#frames < this.#bounds.frames && this.#bytes + bytes <= this.#bounds.bytes
  }

  take(frames: number, bytes: number): void {
    this.#frames += frames
    this.#bytes += bytes
  }
}

export class HoldQueue {
  readonly #bounds: HoldBounds
  readonly #room: HoldRoom
  #frames: FrameCopy[] = []
  #bytes = 0

  constructor(bounds: HoldBounds, room = new HoldRoom(bounds)) {
    this.#bounds = bounds
    this.#room = room
  }

  get length(): number {
    return this.#frames.length
  }

  /** Copies the frame into the queue; false when a bound, its own or the network's, is reached. */
  push(frame: Frame): boolean {
    if (this.#frames.length >= this.#bounds.frames || this.#bytes + frame.length > this.#bounds.bytes) return false
    if (!this.#room.has(frame.length)) return false
    const copy = copyFrame(frame)
    this.#frames.push(copy)
    this.#take(1, copy.bytes.length)
    return true
  }

  /** Puts frames before all others: a restored channel state. Not bounded: it was when it was recorded. */
  prepend(copies: readonly FrameCopy[]): void {
    this.#frames = [...copies, ...this.#frames]
    for (const copy of copies) this.#take(1, copy.bytes.length)
  }

  /**
   * Visits in order until `most` frames have gone; frames for which `keep` says true stay, in order. Returns how many
   * went.
   */
  sift(keep: (copy: FrameCopy) => boolean, most = Number.POSITIVE_INFINITY): number {
    const waiting = this.#frames
    const kept: FrameCopy[] = []
    let gone = 0
    let at = 0
    for (; at < waiting.length && gone < most; at++) {
      const copy = waiting[at]
      if (keep(copy)) kept.push(copy)
      else {
        gone++
        this.#take(-1, -copy.bytes.length)
      }
    }
    this.#frames = at === waiting.length ? kept : kept.concat(waiting.slice(at))
    return gone
  }

  some(wanted: (copy: FrameCopy) => boolean): boolean {
    return this.#frames.some(wanted)
  }

  clear(): number {
    const dropped = this.#frames.length
    this.#frames = []
    this.#take(-dropped, -this.#bytes)
    return dropped
  }

  /** Loaded into an empty queue. */
  exchange(state: StateExchange): void {
    const frames = state.value<readonly FrameCopy[]>('held', this.#frames)
    if (state.isLoading) this.prepend(frames)
  }

  #take(frames: number, bytes: number): void {
    this.#bytes += bytes
    this.#room.take(frames, bytes)
  }
}
