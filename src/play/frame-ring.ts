// The frames that wait to be sent, in memory that two threads see: one reads the capture and fills it, the other sends.
// Bounded; a frame lies there as it will be handed to the kernel. The memory is outside of JavaScript's, since iovecs
// point into it; what the threads say to one another is in a SharedArrayBuffer, which can be waited on.

import { VNET_HEADER_LENGTH } from '../frame/frame.js'
import { type Arena, arenaAt } from '../linux/arena.js'

/** Indexes of 32-bit words that both threads see. Positions are in units of 8 bytes. */
export const Word = { HEAD: 0, TAIL: 1, ENDED: 2, STOP: 3, GO: 4 } as const
const WORDS = 8

const UNIT = 8
/**
 * Of a record: due time (f64; no number: the rest of the memory is unused), length (u32), target (u16), where the frame
 * begins (u16).
 */
const DUE = 0
const LENGTH = 8
const TARGET = 12
const START = 14
/** A record's header, what a port of the switch is told (MESSAGE_PREFIX), the virtio-net header, room for a tag. */
const FRAME_AT = 40
/** Before the virtio-net header: the number of the port (u16), zeros. */
export const MESSAGE_PREFIX = 8
/** Bytes that a tag, or its removal, may move a frame's beginning by. */
const MOST_MOVED = 4

export interface RingHandle {
  readonly address: number
  readonly length: number
  readonly control: SharedArrayBuffer
}

export function ringHandle(arena: Arena): RingHandle {
  return { address: arena.address, length: arena.length, control: new SharedArrayBuffer(WORDS * 4) }
}

const unitsOf = (bytes: number) => Math.ceil(bytes / UNIT)

/** The end that fills it. */
export class RingWriter {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly #control: Int32Array
  readonly #units: number
  #head = 0
  /** Of the record that was begun: where it is. */
  #at = 0

  constructor({ address, length, control }: RingHandle) {
    const arena = arenaAt(address, length)
    this.bytes = arena.bytes
    this.view = arena.view
    this.#control = new Int32Array(control)
    this.#units = length / UNIT
  }

  /** Longest frame that ever fits. */
  get longest(): number {
    return (this.#units * UNIT) / 4
  }

  /**
   * Where a frame of up to `length` bytes may be written: it may then begin up to 4 bytes before or after. -1: there is
   * no room yet.
   */
  begin(length: number): number {
    const needed = unitsOf(FRAME_AT + MOST_MOVED + length)
    const tail = Atomics.load(this.#control, Word.TAIL)
    const head = this.#head
    // One unit stays free: a full ring does not look like an empty one.
    if (head >= tail) {
      if (head + needed < this.#units || (head + needed === this.#units && tail > 0)) return this.#open(head)
      if (needed >= tail) return -1
      this.view.setFloat64(head * UNIT + DUE, Number.NaN, true)
      return this.#open(0)
    }
    return head + needed < tail ? this.#open(head) : -1
  }

  #open(unit: number): number {
    this.#at = unit * UNIT
    this.view.setBigUint64(this.#at + 16, 0n, true)
    this.view.setBigUint64(this.#at + 24, 0n, true)
    this.view.setBigUint64(this.#at + 32, 0n, true)
    return this.#at + FRAME_AT
  }

  /** The frame that was begun is sent: `start`, where it begins now; `target`, where to. */
  commit(start: number, length: number, target: number, number: number, dueNs: number): void {
    const { view } = this
    const at = this.#at
    // A tag that was taken off has left its bytes.
    for (let i = start - VNET_HEADER_LENGTH - MESSAGE_PREFIX; i < start; i++) this.bytes[i] = 0
    view.setUint16(start - VNET_HEADER_LENGTH - MESSAGE_PREFIX, number, true)
    view.setFloat64(at + DUE, dueNs, true)
    view.setUint32(at + LENGTH, length, true)
    view.setUint16(at + TARGET, target, true)
    view.setUint16(at + START, start - at, true)
    const end = at / UNIT + unitsOf(start - at + length)
    this.#head = end === this.#units ? 0 : end
    Atomics.store(this.#control, Word.HEAD, this.#head)
  }

  /** Nothing follows. */
  end(): void {
    Atomics.store(this.#control, Word.ENDED, 1)
  }

  /** The share of it that is filled. */
  get filled(): number {
    const used = this.#head - Atomics.load(this.#control, Word.TAIL)
    return (used < 0 ? used + this.#units : used) / this.#units
  }
}

/** The end that sends. `take` moves on; the memory is given back by `release`. */
export class RingReader {
  readonly arena: Arena
  readonly control: Int32Array
  /** Of the record that was looked at last. */
  dueNs = 0
  length = 0
  target = 0
  /** Offset of the frame in the arena. */
  start = 0
  readonly #view: DataView
  readonly #units: number
  #next = 0
  #after = 0

  constructor({ address, length, control }: RingHandle) {
    this.arena = arenaAt(address, length)
    this.#view = this.arena.view
    this.control = new Int32Array(control)
    this.#units = length / UNIT
  }

  /** Reads the next record without taking it; false: there is none. */
  look(): boolean {
    const head = Atomics.load(this.control, Word.HEAD)
    if (this.#next === head) return false
    const view = this.#view
    if (Number.isNaN(view.getFloat64(this.#next * UNIT + DUE, true))) {
      this.#next = 0
      if (head === 0) return false
    }
    const at = this.#next * UNIT
    this.dueNs = view.getFloat64(at + DUE, true)
    this.length = view.getUint32(at + LENGTH, true)
    this.target = view.getUint16(at + TARGET, true)
    const start = view.getUint16(at + START, true)
    this.start = at + start
    const end = this.#next + unitsOf(start + this.length)
    this.#after = end === this.#units ? 0 : end
    return true
  }

  take(): void {
    this.#next = this.#after
  }

  release(): void {
    Atomics.store(this.control, Word.TAIL, this.#next)
  }

  get ended(): boolean {
    return Atomics.load(this.control, Word.ENDED) === 1
  }

  get stopped(): boolean {
    return Atomics.load(this.control, Word.STOP) === 1
  }
}
