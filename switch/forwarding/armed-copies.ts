// The last frames delivered to a port that is about to cut: some may still lie unread in its TAP queue (the residue).

import { type Frame, type FrameCopy, VNET_HEADER_LENGTH, writeCopy } from '../../src/frame/frame.js'
import type { HoldBounds } from './hold-queue.js'

/**
 * Copies of the latest frames delivered to one port, oldest overwritten first. They lie one behind the other in memory
 * that is set aside once: under bulk traffic a thousand frames of 64 KiB come between arming and cut, and the garbage
 * of as many copies would be collected in the middle of it.
 */
export class ArmedCopies {
  readonly bounds: HoldBounds
  readonly #memory: Uint8Array
  readonly #maxFrames: number
  /** Per frame kept, a ring: where it lies, and what a FrameCopy has beside its bytes. */
  readonly #offsets: Int32Array
  readonly #lengths: Int32Array
  readonly #tags: Int32Array
  readonly #colors: Float64Array
  /** Where the next frame goes. */
  #end = 0
  #oldest = 0
  #count = 0

  /**
   * The memory is not touched before it is needed. Shared, it does not count as the engine's own: no collection comes
   * of it.
   */
  constructor(bounds: HoldBounds) {
    this.bounds = bounds
    this.#memory = new Uint8Array(new SharedArrayBuffer(bounds.bytes))
    this.#maxFrames = bounds.frames
    this.#offsets = new Int32Array(bounds.frames)
    this.#lengths = new Int32Array(bounds.frames)
    this.#tags = new Int32Array(bounds.frames * 2)
    this.#colors = new Float64Array(bounds.frames)
  }

  /** Nothing is kept any more. */
  clear(): void {
    this.#end = 0
    this.#oldest = 0
    this.#count = 0
  }

  push(frame: Frame): void {
    const memory = this.#memory
    const offsets = this.#offsets
    const lengths = this.#lengths
    const length = VNET_HEADER_LENGTH + frame.length
    // What is not kept ends the run of latest frames: those before it are no longer the latest.
    if (length > memory.length) {
      this.clear()
      return
    }
    if (this.#count === this.#maxFrames) this.#forgetOldest()
    let at = this.#end
    if (at + length > memory.length) {
      // The rest of the memory stays empty: the frames in it are the oldest.
      while (this.#count > 0 && offsets[this.#oldest] >= at) this.#forgetOldest()
      at = 0
    }
    while (this.#count > 0 && offsets[this.#oldest] >= at && offsets[this.#oldest] < at + length) this.#forgetOldest()
    writeCopy(frame, memory, at)
    const slot = (this.#oldest + this.#count) % this.#maxFrames
    offsets[slot] = at
    lengths[slot] = length
    this.#tags[slot * 2] = frame.tagTpid
    this.#tags[slot * 2 + 1] = frame.tagTci
    this.#colors[slot] = frame.color
    this.#count++
    this.#end = at + length
  }

  /** The last `wanted` frames, oldest first; fewer when fewer were kept. */
  last(wanted: number): FrameCopy[] {
    const taken = Math.min(wanted, this.#count)
    const copies: FrameCopy[] = []
    for (let i = this.#count - taken; i < this.#count; i++) {
      const slot = (this.#oldest + i) % this.#maxFrames
      copies.push({
        bytes: this.#memory.slice(this.#offsets[slot], this.#offsets[slot] + this.#lengths[slot]),
        tagTpid: this.#tags[slot * 2],
        tagTci: this.#tags[slot * 2 + 1],
        color: this.#colors[slot],
      })
    }
    return copies
  }

  #forgetOldest(): void {
    this.#oldest = (this.#oldest + 1) % this.#maxFrames
    this.#count--
  }
}
