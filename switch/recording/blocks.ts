// Reads the blocks of a recording one after the other out of pieces of any size, without an object per block. What the
// file says is trusted in nothing; the only thing thrown is TRACE_INVALID, with the offset.

import { crc32 } from 'node:zlib'
import { SnapswitchError } from '../../src/errors/errors.js'
import { BLOCK, BYTE_ORDER_MAGIC } from '../../src/trace/pcapng.js'
import { RECORD_MAGIC } from '../../src/trace/records.js'

/** Type, length, and length again. */
const FRAMING = 12
const RECORD_HEADER = 16
/** No block of ours is longer. */
const MOST = 16 * 1024 * 1024

export class Blocks {
  /** Of the present block, until the next one is asked for. */
  bytes = new Uint8Array(1 << 20)
  view = new DataView(this.bytes.buffer)
  type = 0
  /** What is between its lengths: from here to there. Of a record of ours: its payload. */
  from = 0
  to = 0
  /** Of a record of ours; -1: it is none. */
  kind = -1
  /** Where it begins in the file. */
  offset = 0
  /** The file ended inside a block. */
  isTruncated = false
  readonly #pieces: Iterator<Uint8Array>
  /** Filled up to here; the present block ends there. */
  #filled = 0
  #next = 0
  /** File offset of bytes[0]. */
  #base = 0
  /** CRC-32 of the file up to `#summed`. */
  #crc = 0
  #summed = 0

  constructor(pieces: Iterable<Uint8Array>) {
    this.#pieces = pieces[Symbol.iterator]()
  }

  /** CRC-32 of the file up to the present block. */
  crcBefore(): number {
    this.#sum(this.offset - this.#base)
    return this.#crc
  }

  /** Goes on to the next block; false when there is none. */
  next(): boolean {
    this.offset = this.#base + this.#next
    if (!this.#has(FRAMING)) {
      this.isTruncated = this.#filled > this.#next
      return false
    }
    const start = this.#next
    const length = this.view.getUint32(start + 4, true)
    if (length < FRAMING || length % 4 !== 0 || length > MOST) throw damaged(this.offset, `a block of ${length} bytes`)
    if (!this.#has(length)) {
      this.isTruncated = true
      return false
    }
    // It may lie elsewhere by now.
    const at = this.#next
    this.type = this.view.getUint32(at, true)
    this.from = at + 8
    this.to = at + length - 4
    if (this.view.getUint32(this.to, true) !== length) throw damaged(this.offset, 'the two lengths of a block differ')
    this.#next = at + length
    this.kind = this.type === BLOCK.local ? this.#record() : -1
    return true
  }

  /** Of a section header: it is little endian, as all recordings are. */
  isOfOurOrder(): boolean {
    return this.to - this.from >= 16 && this.view.getUint32(this.from, true) === BYTE_ORDER_MAGIC
  }

  /** Options of the present block, from `at` on. */
  *options(at: number): Generator<{ code: number; value: Uint8Array }> {
    for (let i = at; i + 4 <= this.to; ) {
      const code = this.view.getUint16(i, true)
      const length = this.view.getUint16(i + 2, true)
      if (code === 0) return
      if (i + 4 + length > this.to) throw damaged(this.offset, 'an option is longer than its block')
      yield { code, value: this.bytes.subarray(i + 4, i + 4 + length) }
      i += 4 + length + (-length & 3)
    }
  }

  #record(): number {
    const { bytes, view } = this
    const { from } = this
    if (this.to - from < RECORD_HEADER) return -1
    for (let i = 0; i < RECORD_MAGIC.length; i++) if (bytes[from + i] !== RECORD_MAGIC[i]) return -1
    const length = view.getUint32(from + 12, true)
    if (length > this.to - from - RECORD_HEADER) throw damaged(this.offset, 'a record is longer than its block')
    this.from = from + RECORD_HEADER
    this.to = this.from + length
    return view.getUint16(from + 8, true)
  }

  /** Whether so many bytes are there from the next block on, which may move. */
  #has(length: number): boolean {
    while (this.#filled - this.#next < length) {
      const piece = this.#pieces.next()
      if (piece.done === true) return false
      this.#take(piece.value, length)
    }
    return true
  }

  #take(piece: Uint8Array, wanted: number): void {
    this.#sum(this.#next)
    const rest = this.#filled - this.#next
    const needed = Math.max(rest + piece.length, wanted)
    if (needed > this.bytes.length) {
      const grown = new Uint8Array(needed * 2)
      grown.set(this.bytes.subarray(this.#next, this.#filled))
      this.bytes = grown
      this.view = new DataView(grown.buffer)
    } else this.bytes.copyWithin(0, this.#next, this.#filled)
    this.#base += this.#next
    this.#summed = 0
    this.#next = 0
    this.bytes.set(piece, rest)
    this.#filled = rest + piece.length
  }

  #sum(to: number): void {
    if (to <= this.#summed) return
    this.#crc = crc32(this.bytes.subarray(this.#summed, to), this.#crc)
    this.#summed = to
  }
}

export function damaged(offset: number, what: string): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `the recording is damaged at byte ${offset}: ${what}`,
    'What comes before can be replayed: --until takes a time.',
  )
}
