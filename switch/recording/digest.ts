// A rolling digest of a run: 128 bits over all that was mixed in so far, in order, cheap enough to be kept while frames
// are forwarded. Not cryptographic: it tells two runs apart, it does not withstand somebody who makes two alike on
// purpose. Made of 32-bit arithmetic only, so that it is the same on every machine.

import { type Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'

const BLOCK = 16
const PRIME_1 = 0x9e3779b1
const PRIME_2 = 0x85ebca77

export class RunDigest {
  #a = 0x243f6a88 | 0
  #b = 0x85a308d3 | 0
  #c = 0x13198a2e | 0
  #d = 0x03707344 | 0
  /** The last memory that was read: frames of one batch lie in the same. */
  #bytes: Uint8Array = new Uint8Array(0)
  #view = new DataView(this.#bytes.buffer)
  readonly #double = new Float64Array(1)
  readonly #words = new Int32Array(this.#double.buffer)

  word(value: number): void {
    const a = this.#a
    this.#a = this.#b
    this.#b = this.#c
    this.#c = this.#d
    const mixed = Math.imul(a ^ value, PRIME_1)
    this.#d = (Math.imul((mixed << 13) | (mixed >>> 19), PRIME_2) + this.#c) | 0
  }

  number(value: number): void {
    this.#double[0] = value
    this.word(this.#words[0])
    this.word(this.#words[1])
  }

  /** A frame as it is: its bytes, virtio-net header, tag and color. */
  frame(frame: Frame): void {
    this.word(frame.length)
    this.word((frame.tagTpid << 16) | frame.tagTci)
    this.word(frame.color)
    if (frame.address === 0) this.#see(frame.bytes)
    const view = frame.address === 0 ? this.#view : frame.view
    this.#mix(view, frame.vnet, frame.vnet + VNET_HEADER_LENGTH)
    this.#mix(view, frame.start, frame.start + frame.length)
  }

  bytes(bytes: Uint8Array): void {
    this.word(bytes.length)
    this.#see(bytes)
    this.#mix(this.#view, 0, bytes.length)
  }

  /** Data as it could be written as JSON, and bytes, and maps. */
  plain(value: unknown): void {
    if (typeof value === 'number') this.number(value)
    else if (typeof value === 'string') this.bytes(new TextEncoder().encode(value))
    else if (value instanceof Uint8Array) this.bytes(value)
    else if (value instanceof Map) this.plain([...value])
    else if (Array.isArray(value)) {
      this.word(value.length)
      for (const one of value) this.plain(one)
    } else if (typeof value === 'object' && value !== null) {
      for (const [name, one] of Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) {
        this.plain(name)
        this.plain(one)
      }
    } else this.word(value === true ? 1 : value === false ? 2 : 3)
  }

  /** Writes the 16 bytes of the digest so far. */
  write(view: DataView, at: number): void {
    for (const [i, lane] of [this.#a, this.#b, this.#c, this.#d].entries()) view.setInt32(at + i * 4, avalanche(lane))
  }

  hex(): string {
    const bytes = new Uint8Array(BLOCK)
    this.write(new DataView(bytes.buffer), 0)
    return Buffer.from(bytes).toString('hex')
  }

  #see(bytes: Uint8Array): void {
    if (bytes === this.#bytes) return
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  #mix(view: DataView, from: number, to: number): void {
    let a = this.#a
    let b = this.#b
    let c = this.#c
    let d = this.#d
    let at = from
    // Four lanes: none waits for another's multiplication.
    for (; at + BLOCK <= to; at += BLOCK) {
      a = Math.imul(a ^ view.getInt32(at, true), PRIME_1)
      b = Math.imul(b ^ view.getInt32(at + 4, true), PRIME_1)
      c = Math.imul(c ^ view.getInt32(at + 8, true), PRIME_1)
      d = Math.imul(d ^ view.getInt32(at + 12, true), PRIME_1)
      a = (a << 13) | (a >>> 19)
      b = (b << 11) | (b >>> 21)
      c = (c << 17) | (c >>> 15)
      d = (d << 7) | (d >>> 25)
    }
    this.#a = a
    this.#b = b
    this.#c = c
    this.#d = d
    for (; at + 4 <= to; at += 4) this.word(view.getInt32(at, true))
    for (; at < to; at++) this.word(view.getUint8(at) | 0x100)
  }
}

/** MurmurHash3's finalizer (Austin Appleby, public domain). */
export function avalanche(value: number): number {
  let mixed = value
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}
