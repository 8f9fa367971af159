// What a snapshot remembers of frames: the last ones delivered to a port that is about to cut (some may still lie unread
// in its TAP queue: the residue), and the in-transit ones, which are the channel state.

import {
  copyFrame,
  type Frame,
  type FrameCopy,
  NO_COLOR,
  VNET_HEADER_LENGTH,
  writeCopy,
} from '../../src/frame/frame.js'
import type { HoldBounds } from './hold-queue.js'

export interface RecordedFrame {
  readonly port: number
  readonly verdict: 'in-transit' | 'residue'
  readonly copy: FrameCopy
  /** Unix time in milliseconds, with fractions. */
  readonly at: number
}

/**
 * Copies of the latest frames delivered to one port, oldest overwritten first. They lie one behind the other in memory that is
 * set aside once: under bulk traffic a thousand frames of 64 KiB come between arming and cut, and the garbage of as many
 * copies would be collected in the middle of it.
 */
export class ArmedCopies {
  private readonly memory: Uint8Array
  private readonly maxFrames: number
  /** Per frame kept, a ring: where it lies, and what a FrameCopy has beside its bytes. */
  private readonly offsets: Int32Array
  private readonly lengths: Int32Array
  private readonly tags: Int32Array
  private readonly colors: Float64Array
  /** Where the next frame goes. */
  private end = 0
  private oldest = 0
  private count = 0

  /** The memory is not touched before it is needed. Shared, it does not count as the engine's own: no collection comes of it. */
  constructor(bounds: HoldBounds) {
    this.memory = new Uint8Array(new SharedArrayBuffer(bounds.bytes))
    this.maxFrames = bounds.frames
    this.offsets = new Int32Array(bounds.frames)
    this.lengths = new Int32Array(bounds.frames)
    this.tags = new Int32Array(bounds.frames * 2)
    this.colors = new Float64Array(bounds.frames)
  }

  /** Nothing is kept any more. */
  clear(): void {
    this.end = 0
    this.oldest = 0
    this.count = 0
  }

  push(frame: Frame): void {
    const { memory, offsets, lengths } = this
    const length = VNET_HEADER_LENGTH + frame.length
    // What is not kept ends the run of latest frames: those before it are no longer the latest.
    if (length > memory.length) {
      this.clear()
      return
    }
    if (this.count === this.maxFrames) this.forgetOldest()
    let at = this.end
    if (at + length > memory.length) {
      // The rest of the memory stays empty: the frames in it are the oldest.
      while (this.count > 0 && offsets[this.oldest] >= at) this.forgetOldest()
      at = 0
    }
    while (this.count > 0 && offsets[this.oldest] >= at && offsets[this.oldest] < at + length) this.forgetOldest()
    writeCopy(frame, memory, at)
    const slot = (this.oldest + this.count) % this.maxFrames
    offsets[slot] = at
    lengths[slot] = length
    this.tags[slot * 2] = frame.tagTpid
    this.tags[slot * 2 + 1] = frame.tagTci
    this.colors[slot] = frame.color
    this.count++
    this.end = at + length
  }

  /** The last `wanted` frames, oldest first; fewer when fewer were kept. */
  last(wanted: number): FrameCopy[] {
    const taken = Math.min(wanted, this.count)
    const copies: FrameCopy[] = []
    for (let i = this.count - taken; i < this.count; i++) {
      const slot = (this.oldest + i) % this.maxFrames
      copies.push({
        bytes: this.memory.slice(this.offsets[slot], this.offsets[slot] + this.lengths[slot]),
        tagTpid: this.tags[slot * 2],
        tagTci: this.tags[slot * 2 + 1],
        color: this.colors[slot],
      })
    }
    return copies
  }

  private forgetOldest(): void {
    this.oldest = (this.oldest + 1) % this.maxFrames
    this.count--
  }
}

/** The channel state of one host for one snapshot, in order of delivery. */
export class ChannelRecorder {
  readonly frames: RecordedFrame[] = []
  private readonly bounds: HoldBounds
  private bytes = 0

  constructor(bounds: HoldBounds) {
    this.bounds = bounds
  }

  /** False when a bound is reached: the frame is delivered all the same, but counts as lost to the channel state. */
  record(port: number, frame: Frame, at: number): boolean {
    if (this.frames.length >= this.bounds.frames || this.bytes + frame.length > this.bounds.bytes) return false
    this.append(port, 'in-transit', copyFrame(frame), at)
    return true
  }

  /** Residue; frames from outside the network are no part of a snapshot. Returns how many were taken. */
  recordResidue(port: number, copies: readonly FrameCopy[], at: number): number {
    let taken = 0
    for (const copy of copies) {
      if (copy.color === NO_COLOR) continue
      this.append(port, 'residue', copy, at)
      taken++
    }
    return taken
  }

  private append(port: number, verdict: RecordedFrame['verdict'], copy: FrameCopy, at: number): void {
    this.frames.push({ port, verdict, copy, at })
    this.bytes += copy.bytes.length
  }
}
