// The verdicts that are repeated in the kernel: who goes where, by which tag, at which generations of both ports. What
// is written here is what the forwarder has just decided.

import { macHigh, macLow } from '../../../src/frame/ethernet.js'
import type { VerdictTable } from './kernel.js'
import { KEY_LENGTH, Key, Value, VERDICT_LENGTH } from './layout.js'

const ADDRESSES = 12

/** What was noted of pairs lately, by their digest. */
const NOTES = 8192

export interface NewVerdict {
  readonly from: number
  readonly to: number
  readonly ifindex: number
  readonly fromGeneration: number
  readonly toGeneration: number
  readonly room: number
  /** Of its addresses in the FDB. */
  readonly vlan: number
  /** The 802.1Q tag that a frame comes with (vlan-tag.ts); 0: none. */
  readonly tag: number
  /** The VID of our tag that it comes with; 0: none. */
  readonly colorTag: number
  /** It loses the one or the other. */
  readonly pops: boolean
  /** The VID of our tag that it gets, or a tag of its VLAN (vlan-tag.ts); 0: none. */
  readonly push: number
}

/** One that was looked at. */
export interface SeenVerdict {
  from: number
  to: number
  fromGeneration: number
  toGeneration: number
  vlan: number
  tag: number
  seen: number
  toHigh: number
  toLow: number
  fromHigh: number
  fromLow: number
}

export class Verdicts {
  readonly #hash: VerdictTable
  /** Digest of a pair; how often it was asked for, with the generations of its ports. */
  readonly #digests = new Int32Array(NOTES)
  readonly #generations = new Int32Array(NOTES)
  readonly #times = new Uint8Array(NOTES)
  readonly #one: SeenVerdict = {
    from: 0,
    to: 0,
    fromGeneration: 0,
    toGeneration: 0,
    vlan: 0,
    tag: 0,
    seen: 0,
    toHigh: 0,
    toLow: 0,
    fromHigh: 0,
    fromLow: 0,
  }

  constructor(table: VerdictTable) {
    this.#hash = table
  }

  /**
   * Whether a pair is worth a verdict now: at its second frame, so that nobody fills the table with addresses that are
   * seen once. After that, it is in the table.
   */
  isWanted(bytes: Uint8Array, at: number, from: number, tag: number, generations: number): boolean {
    const digest = digestOf(bytes, at, from, tag)
    const note = digest & (NOTES - 1)
    if (this.#digests[note] !== digest || this.#generations[note] !== generations) {
      this.#digests[note] = digest
      this.#generations[note] = generations
      this.#times[note] = 1
      return false
    }
    if (this.#times[note] !== 1) return false
    this.#times[note] = 2
    return true
  }

  /** `bytes`, `at`: the frame's addresses. False: the table is full. */
  put(bytes: Uint8Array, at: number, verdict: NewVerdict, seconds: number): boolean {
    const { key, keyBytes, value } = this.#hash
    key.setUint16(Key.PORT, verdict.from, true)
    key.setUint16(Key.VLAN, verdict.tag, true)
    key.setUint16(Key.TAG, verdict.colorTag, true)
    for (let i = 0; i < ADDRESSES; i++) keyBytes[Key.TO + i] = bytes[at + i]
    value.setUint32(Value.IFINDEX, verdict.ifindex, true)
    value.setUint32(Value.TO, verdict.to, true)
    value.setInt32(Value.FROM_GENERATION, verdict.fromGeneration, true)
    value.setInt32(Value.TO_GENERATION, verdict.toGeneration, true)
    value.setUint32(Value.ROOM, verdict.room, true)
    value.setUint16(Value.PUSH, verdict.push, true)
    value.setUint16(Value.POP, verdict.pops ? 1 : 0, true)
    value.setUint32(Value.SEEN, seconds, true)
    value.setUint32(Value.VLAN, verdict.vlan, true)
    return this.#hash.put()
  }

  /** The last `sweep` came to the end of them. */
  get isAtEnd(): boolean {
    return this.#hash.isAtEnd
  }

  /** Looks at some of them; those that `keeps` says no to go. */
  sweep(keeps: (verdict: SeenVerdict) => boolean): void {
    const count = this.#hash.sweep()
    for (let i = 0; i < count; i++) {
      if (keeps(this.#read(i))) continue
      this.#hash.removeSwept(i)
      const { keyBytes } = this.#hash
      this.#times[digestOf(keyBytes, Key.TO, this.#one.from, this.#one.tag) & (NOTES - 1)] = 1
    }
  }

  /** All of them, a copy each. */
  list(): SeenVerdict[] {
    const found: SeenVerdict[] = []
    for (let count = this.#hash.sweep(); count > 0; count = this.#hash.isAtEnd ? 0 : this.#hash.sweep())
      for (let i = 0; i < count; i++) found.push({ ...this.#read(i) })
    return found
  }

  #read(i: number): SeenVerdict {
    const { keys, values } = this.#hash
    const key = i * KEY_LENGTH
    const value = i * VERDICT_LENGTH
    const bytes = new Uint8Array(keys.buffer, keys.byteOffset + key, KEY_LENGTH)
    const one = this.#one
    one.from = keys.getUint16(key + Key.PORT, true)
    one.tag = keys.getUint16(key + Key.VLAN, true)
    one.vlan = values.getUint32(value + Value.VLAN, true)
    one.to = values.getUint32(value + Value.TO, true)
    one.fromGeneration = values.getInt32(value + Value.FROM_GENERATION, true)
    one.toGeneration = values.getInt32(value + Value.TO_GENERATION, true)
    one.seen = values.getUint32(value + Value.SEEN, true)
    one.toHigh = macHigh(bytes, Key.TO)
    one.toLow = macLow(bytes, Key.TO)
    one.fromHigh = macHigh(bytes, Key.FROM)
    one.fromLow = macLow(bytes, Key.FROM)
    return one
  }
}

function digestOf(bytes: Uint8Array, at: number, from: number, tag: number): number {
  let digest = Math.imul((from << 13) ^ tag ^ 0x811c9dc5, 0x01000193)
  for (let i = 0; i < ADDRESSES; i++) digest = Math.imul(digest ^ bytes[at + i], 0x01000193)
  return digest ^ (digest >>> 15)
}
