// What a snapshot remembers of frames: those that were in transit at the cut, and those that lay unread. They are the
// channel state.

import { copyFrame, type Frame, type FrameCopy, NO_COLOR } from '../../../src/frame/frame.js'
import type { HoldBounds } from '../hold-queue.js'

export interface RecordedFrame {
  readonly port: number
  readonly verdict: 'in-transit' | 'residue'
  readonly copy: FrameCopy
  /** Unix time in milliseconds, with fractions. */
  readonly at: number
}

/** The channel state of one host for one snapshot, in order of delivery. */
export class ChannelRecorder {
  readonly frames: RecordedFrame[] = []
  readonly #bounds: HoldBounds
  #bytes = 0

  constructor(bounds: HoldBounds) {
    this.#bounds = bounds
  }

  /** False when a bound is reached: the frame is delivered all the same, but counts as lost to the channel state. */
  record(port: number, frame: Frame, at: number): boolean {
    if (this.frames.length >= this.#bounds.frames || this.#bytes + frame.length > this.#bounds.bytes) return false
    this.#append(port, 'in-transit', copyFrame(frame), at)
    return true
  }

  /** Residue; frames from outside the network are no part of a snapshot. Returns how many were taken. */
  recordResidue(port: number, copies: readonly FrameCopy[], at: number): number {
    let taken = 0
    for (const copy of copies) {
      if (copy.color === NO_COLOR) continue
      this.#append(port, 'residue', copy, at)
      taken++
    }
    return taken
  }

  #append(port: number, verdict: RecordedFrame['verdict'], copy: FrameCopy, at: number): void {
    this.frames.push({ port, verdict, copy, at })
    this.#bytes += copy.bytes.length
  }
}
