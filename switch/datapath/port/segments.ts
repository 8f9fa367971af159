// Where a port keeps the frames that it has cut a GSO frame into (src/frame/segmenter.ts, fragmenter.ts), until every
// port has sent its share.

import { Fragmenter } from '../../../src/frame/fragmenter.js'
import type { Frame } from '../../../src/frame/frame.js'
import { Segmenter } from '../../../src/frame/segmenter.js'
import { type Arena, mapArena, releaseArena } from '../../../src/linux/arena.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'

/** Room for some 300 segments: what other ports wait at most while this one's are sent. One frame always fits. */
const MEMORY = 512 * 1024

export class Segments {
  readonly #segmenter = new Segmenter(kernelIsAtLeast(6, 2))
  readonly #fragmenter = new Fragmenter()
  /** Mapped when the first frame is cut: most ports never see one. */
  #arena: Arena | null = null
  #free = 0

  /** The frame that was begun has segments left. */
  get more(): boolean {
    return this.#segmenter.more || this.#fragmenter.more
  }

  /** True when `frame` is cut: its segments follow, and its own memory must stay as it is until there are no more. */
  begin(frame: Frame): boolean {
    return this.#segmenter.begin(frame)
  }

  /** The same for a datagram that its sender wants in fragments. */
  beginDatagram(frame: Frame, size: number, mtu: number, unfinished: boolean): boolean {
    return this.#fragmenter.begin(frame, size, mtu, unfinished)
  }

  /** Points `frame` at the next segment; false when there is no room before `release`. */
  next(frame: Frame): boolean {
    this.#arena ??= mapArena(MEMORY)
    const cutter = this.#segmenter.more ? this.#segmenter : this.#fragmenter
    const free = cutter.next(frame, this.#arena, this.#free)
    if (free < 0) return false
    this.#free = free
    return true
  }

  /** What was cut has been sent or copied. */
  release(): void {
    this.#free = 0
  }

  close(): void {
    if (this.#arena !== null) releaseArena(this.#arena)
  }
}
