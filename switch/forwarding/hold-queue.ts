// Frames that wait for a gate or for their destination's cut: copies, in order of arrival, bounded in frames and bytes.

import { copyFrame, type Frame, type FrameCopy } from '../../src/frame/frame.js'

export interface HoldBounds {
  readonly frames: number
  readonly bytes: number
}

export class HoldQueue {
  private readonly bounds: HoldBounds
  private frames: FrameCopy[] = []
  private bytes = 0

  constructor(bounds: HoldBounds) {
    this.bounds = bounds
  }

  get length(): number {
    return this.frames.length
  }

  /** Copies the frame into the queue; false when a bound is reached. */
  push(frame: Frame): boolean {
    if (this.frames.length >= this.bounds.frames || this.bytes + frame.length > this.bounds.bytes) return false
    const copy = copyFrame(frame)
    this.frames.push(copy)
    this.bytes += copy.bytes.length
    return true
  }

  /** Puts frames before all others: a restored channel state. Not bounded: it was when it was recorded. */
  prepend(copies: readonly FrameCopy[]): void {
    this.frames = [...copies, ...this.frames]
    for (const copy of copies) this.bytes += copy.bytes.length
  }

  /** Visits in order; frames for which `keep` says true stay, in order. */
  sift(keep: (copy: FrameCopy) => boolean): void {
    const waiting = this.frames
    this.frames = []
    this.bytes = 0
    for (const copy of waiting) {
      if (!keep(copy)) continue
      this.frames.push(copy)
      this.bytes += copy.bytes.length
    }
  }

  clear(): number {
    const dropped = this.frames.length
    this.frames = []
    this.bytes = 0
    return dropped
  }
}
