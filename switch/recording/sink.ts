// Where the blocks of a recording are written to: memory that somebody else takes them from, or that grows.

import type { RingWriter } from '../capture/record-ring.js'
import type { Memory } from './format.js'

export interface RecordSink extends Memory {
  /** Room for a whole block: where to write it, or -1. Nothing else may be asked for before `commit`. */
  reserve(length: number): number
  /** The block that was asked for last is whole. */
  commit(): void
}

/** Memory of this process, for recordings that nobody takes while they are made. */
export class GrowingSink implements RecordSink {
  bytes = new Uint8Array(1 << 16)
  view = new DataView(this.bytes.buffer)
  #length = 0
  #reserved = 0

  reserve(length: number): number {
    const needed = this.#length + length
    if (needed > this.bytes.length) {
      const grown = new Uint8Array(Math.max(needed, this.bytes.length * 2))
      grown.set(this.bytes.subarray(0, this.#length))
      this.bytes = grown
      this.view = new DataView(grown.buffer)
    }
    this.#reserved = length
    return this.#length
  }

  commit(): void {
    this.#length += this.#reserved
  }

  /** Of blocks that were written elsewhere. */
  append(bytes: Uint8Array): void {
    const at = this.reserve(bytes.length)
    this.bytes.set(bytes, at)
    this.commit()
  }

  /** What was written so far. */
  written(): Uint8Array {
    return this.bytes.slice(0, this.#length)
  }
}

/** Memory that another thread takes the blocks from. */
export class RingSink implements RecordSink {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly #ring: RingWriter

  constructor(ring: RingWriter) {
    this.#ring = ring
    this.bytes = ring.bytes
    this.view = new DataView(ring.bytes.buffer)
  }

  reserve(length: number): number {
    return this.#ring.reserve(length)
  }

  commit(): void {
    this.#ring.publish()
  }
}
