// What a snapshot remembers of frames: the last ones delivered to a port that is about to cut (some may still lie unread
// in its TAP queue: the residue), and the in-transit ones, which are the channel state.

import { copyFrame, type Frame, type FrameCopy, NO_COLOR } from '../../src/frame/frame.js'
import type { HoldBounds } from './hold-queue.js'

export interface RecordedFrame {
  readonly port: number
  readonly verdict: 'in-transit' | 'residue'
  readonly copy: FrameCopy
  /** Unix time in milliseconds, with fractions. */
  readonly at: number
}

/** Copies of the latest frames delivered to one port, oldest overwritten first. */
export class ArmedCopies {
  private readonly ring: (FrameCopy | undefined)[]
  private readonly maxBytes: number
  private bytes = 0
  private oldest = 0
  private count = 0

  constructor(bounds: HoldBounds) {
    this.ring = new Array(bounds.frames)
    this.maxBytes = bounds.bytes
  }

  push(frame: Frame): void {
    while (this.count > 0 && (this.count === this.ring.length || this.bytes + frame.length > this.maxBytes))
      this.forgetOldest()
    const copy = copyFrame(frame)
    this.ring[(this.oldest + this.count) % this.ring.length] = copy
    this.count++
    this.bytes += copy.bytes.length
  }

  /** The last `wanted` frames, oldest first; fewer when fewer were kept. */
  last(wanted: number): FrameCopy[] {
    const taken = Math.min(wanted, this.count)
    const copies: FrameCopy[] = []
    for (let i = this.count - taken; i < this.count; i++) copies.push(this.ring[(this.oldest + i) % this.ring.length]!)
    return copies
  }

  private forgetOldest(): void {
    this.bytes -= this.ring[this.oldest]!.bytes.length
    this.ring[this.oldest] = undefined
    this.oldest = (this.oldest + 1) % this.ring.length
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
