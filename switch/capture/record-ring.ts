// How records leave the datapath's thread: a ring in shared memory with one writer and one reader. The writer never
// waits and allocates nothing. A record that finds no room is counted, and the next one that does find room says how
// many are missing before it. A record is any number of bytes in one piece; what they mean is its owner's.
//
//   writer: const at = ring.reserve(length)      -1: no room, counted
//           ... ring.bytes[at] = ...             `length` bytes from there on, 8-byte aligned
//           ring.publish()                       all that was reserved since can be read
//   reader: while ((at = ring.next()) >= 0) ...  `ring.length` bytes from there on; `ring.missing` lost just before
//           ring.release()                       what was read makes room
//
// The reader looks at times: nothing wakes it, since that would cost the writer a system call.

/** Where the words of the header are. Writer and reader have a cache line each. */
const HEAD_WORD = 0
const LOST_DOUBLE = 4
const TAIL_WORD = 32
const HEADER_BYTES = 256
/** Before each record: bytes from here to the next one, bytes of content, and how many were lost before it. */
const PREFIX_BYTES = 16
const ALIGN = 8
const SMALLEST = 4096
const LARGEST = 2 ** 30
/** Content length of what fills the end of the memory up; its own bytes are these two words. */
const FILLER = -1

/** Zero pages until they are written to. `bytes` is rounded up to a power of two, from 4 KiB to 1 GiB. */
export function ringMemory(bytes: number): SharedArrayBuffer {
  let size = SMALLEST
  while (size < bytes && size < LARGEST) size *= 2
  return new SharedArrayBuffer(HEADER_BYTES + size)
}

/** How many records found no room so far. Anybody may ask. */
export function ringLosses(memory: SharedArrayBuffer): number {
  return new Float64Array(memory)[LOST_DOUBLE]
}

/** A whole record takes a prefix besides, and no more than half of the ring. */
function mostOf(size: number): number {
  return size / 2 - PREFIX_BYTES
}

/**
 * Positions run from 0 to 2^32 and begin again. The memory's size divides that, so where a position lies is a matter of
 * its low bits.
 */
export class RingWriter {
  /** The records' memory, for `reserve`'s offsets; a word at offset 8n is words[2n], a double is doubles[n]. */
  readonly bytes: Uint8Array
  readonly words: Int32Array
  readonly doubles: Float64Array
  readonly #size: number
  readonly #most: number
  /** Where the next record goes; what the reader may read ends at the header's head. */
  #head: number
  /** Where the reader was when it was last asked. */
  #tail: number
  #missing = 0

  constructor(memory: SharedArrayBuffer) {
    this.bytes = new Uint8Array(memory)
    this.words = new Int32Array(memory)
    this.doubles = new Float64Array(memory)
    this.#size = memory.byteLength - HEADER_BYTES
    this.#most = mostOf(this.#size)
    this.#head = Atomics.load(this.words, HEAD_WORD)
    this.#tail = Atomics.load(this.words, TAIL_WORD)
  }

  /** Offset in `bytes` of room for `length` bytes of content; -1: there is none, and the record counts as lost. */
  reserve(length: number): number {
    const whole = (PREFIX_BYTES + length + ALIGN - 1) & -ALIGN
    const at = this.#head & (this.#size - 1)
    const toEnd = this.#size - at
    const needed = whole <= toEnd ? whole : toEnd + whole
    if (length > this.#most || !this.#hasRoom(needed)) {
      this.lose()
      return -1
    }
    const { words } = this
    let word = (HEADER_BYTES + at) >> 2
    if (whole > toEnd) {
      // Records lie in one piece. There is always room for these two words, since all is aligned.
      words[word] = toEnd
      words[word + 1] = FILLER
      word = HEADER_BYTES >> 2
    }
    words[word] = whole
    words[word + 1] = length
    words[word + 2] = this.#missing
    this.#missing = 0
    this.#head = (this.#head + needed) | 0
    return word * 4 + PREFIX_BYTES
  }

  /** Gives back what was reserved last, at `at`, as if it had never been; not after `publish`. */
  takeBack(at: number): void {
    const prefix = (at - PREFIX_BYTES) >> 2
    this.#head = (this.#head - this.words[prefix]) | 0
    this.#missing += this.words[prefix + 2]
  }

  /** One that was not even tried: it counts as any that found no room. */
  lose(): void {
    this.#missing = (this.#missing + 1) | 0
    this.doubles[LOST_DOUBLE]++
  }

  publish(): void {
    Atomics.store(this.words, HEAD_WORD, this.#head)
  }

  #hasRoom(needed: number): boolean {
    if (((this.#head - this.#tail) | 0) + needed <= this.#size) return true
    this.#tail = Atomics.load(this.words, TAIL_WORD)
    return ((this.#head - this.#tail) | 0) + needed <= this.#size
  }
}

export class RingReader {
  readonly bytes: Uint8Array
  readonly words: Int32Array
  readonly doubles: Float64Array
  readonly #size: number
  #tail: number
  #head: number
  /** Of the record that `next` has found: bytes of content. */
  length = 0
  /** The same: how many records were lost between it and the one before. */
  missing = 0

  constructor(memory: SharedArrayBuffer) {
    this.bytes = new Uint8Array(memory)
    this.words = new Int32Array(memory)
    this.doubles = new Float64Array(memory)
    this.#size = memory.byteLength - HEADER_BYTES
    this.#tail = Atomics.load(this.words, TAIL_WORD)
    this.#head = this.#tail
  }

  /** Offset in `bytes` of the next record's content, which stays there until `release`; -1: there is none yet. */
  next(): number {
    const { words } = this
    for (;;) {
      if (this.#tail === this.#head) {
        this.#head = Atomics.load(words, HEAD_WORD)
        if (this.#tail === this.#head) return -1
      }
      const word = (HEADER_BYTES + (this.#tail & (this.#size - 1))) >> 2
      this.#tail = (this.#tail + words[word]) | 0
      const length = words[word + 1]
      if (length === FILLER) continue
      this.length = length
      this.missing = words[word + 2]
      return word * 4 + PREFIX_BYTES
    }
  }

  /**
   * A copy of the next records as they lie, prefixes and filler included: whole ones of at most `most` bytes together,
   * or one that is longer. Null: there is none yet. They are read with that, and make room at `release`.
   */
  copy(most: number): Buffer | null {
    const { words } = this
    this.#head = Atomics.load(words, HEAD_WORD)
    const at = this.#tail & (this.#size - 1)
    let length = 0
    while (((this.#tail + length) | 0) !== this.#head && at + length < this.#size) {
      const whole = words[(HEADER_BYTES + at + length) >> 2]
      if (length > 0 && length + whole > most) break
      length += whole
    }
    if (length === 0) return null
    this.#tail = (this.#tail + length) | 0
    const copied = Buffer.allocUnsafeSlow(length)
    copied.set(this.bytes.subarray(HEADER_BYTES + at, HEADER_BYTES + at + length))
    return copied
  }

  /** What was read makes room for more. */
  release(): void {
    Atomics.store(this.words, TAIL_WORD, this.#tail)
  }

  /** How many found no room so far, those that no record has told of yet among them. */
  get lost(): number {
    return this.doubles[LOST_DOUBLE]
  }
}
