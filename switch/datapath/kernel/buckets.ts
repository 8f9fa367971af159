// The order of frames when a pair of addresses goes from the slow path to the fast one: a frame may be fast when all
// that the socket was given before it, of its bucket, has been sent on. The kernel counts up before a frame is in the
// ring; here is counted what has been sent on and is through (sent-frames.ts), or dropped.

import { EtherType } from '../../../src/frame/ethernet.js'
import { BUCKETS, PortWord, type Shared } from './layout.js'
import type { Sent, SentFrames } from './sent-frames.js'

const { CONTROL } = EtherType
/** Frames that a batch brings at most: what a port cuts is counted once. */
const MOST = 512

/** The bucket of a frame whose destination address lies at `at`; also in bpf/fast-path.bpf.c. */
export function bucketOf(bytes: Uint8Array, at: number): number {
  const one = Math.imul(word(bytes, at), 0x9e3779b1)
  const two = Math.imul(word(bytes, at + 4), 0x85ebca6b)
  const three = Math.imul(word(bytes, at + 8), 0xc2b2ae35)
  return (one ^ two ^ three) >>> 24
}

const word = (bytes: Uint8Array, at: number) =>
  bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)

export class Buckets implements Sent {
  readonly #words: Int32Array
  readonly #port: number
  readonly #isTrunk: boolean
  /** Of a peer switch, in hand. */
  #heard = 0
  readonly #punted: number
  readonly #done: number
  /** Of frames in hand: they are sent on when the batch is flushed. */
  readonly #taken = new Uint16Array(MOST)
  #count = 0
  readonly #sentFrames: SentFrames
  /** Frames that were sent on, by bucket: those of which it is waited for that they are through, and later ones. */
  #waiting = new Uint32Array(BUCKETS)
  #later = new Uint32Array(BUCKETS)
  #waits = false
  #hasLater = false
  readonly #seen = new Int32Array(BUCKETS)

  constructor(shared: Shared, port: number, isTrunk: boolean, sentFrames: SentFrames) {
    this.#port = shared.port(port)
    this.#isTrunk = isTrunk
    this.#sentFrames = sentFrames
    this.#words = shared.ports
    this.#punted = shared.port(port) + PortWord.PUNTED
    this.#done = shared.port(port) + PortWord.DONE
  }

  /** A frame was taken from the socket. `tag`: what lay beside it, 0: nothing. */
  take(bytes: Uint8Array, at: number, tag: number): void {
    // What comes behind a peer's words is counted after they are read.
    if (this.#isTrunk && tag === 0 && bytes[at + 12] === CONTROL >> 8 && bytes[at + 13] === (CONTROL & 0xff))
      this.#heard++
    if ((bytes[at] & 1) === 1) return
    // Never: a batch is shorter. What is not counted keeps its bucket slow until `settle`.
    if (this.#count < MOST) this.#taken[this.#count++] = bucketOf(bytes, at)
  }

  /** What was taken has been sent on. */
  sent(): void {
    if (this.#heard > 0) {
      Atomics.add(this.#words, this.#port + PortWord.HEARD, this.#heard)
      this.#heard = 0
    }
    if (this.#count === 0) return
    for (let i = 0; i < this.#count; i++) this.#later[this.#taken[i]]++
    this.#count = 0
    this.#hasLater = true
    this.#sentFrames.more()
  }

  await(): void {
    if (!this.#hasLater) return
    const empty = this.#waiting
    this.#waiting = this.#later
    this.#later = empty
    this.#waits = true
    this.#hasLater = false
  }

  through(): void {
    if (!this.#waits) return
    const waiting = this.#waiting
    for (let i = 0; i < BUCKETS; i++) {
      if (waiting[i] === 0) continue
      const at = this.#done + i
      Atomics.store(this.#words, at, this.#words[at] + waiting[i])
      waiting[i] = 0
    }
    this.#waits = false
  }

  /** Nothing is in hand, nor on its way. */
  get isIdle(): boolean {
    return this.#count === 0 && this.#heard === 0 && !this.#waits && !this.#hasLater
  }

  /** Buckets of which not all that was punted has been sent on. */
  get behind(): boolean {
    if (this.#words[this.#port + PortWord.TOLD] !== this.#words[this.#port + PortWord.HEARD]) return true
    for (let i = 0; i < BUCKETS; i++) if (this.#words[this.#punted + i] !== this.#words[this.#done + i]) return true
    return false
  }

  /**
   * Puts right what frames that were lost on the way, or came before the kernel counted, have left wrong. `isEmpty`:
   * nothing waits in the socket; `isQuiet`: programs that ran when it was asked have ended, and their frames are in the
   * socket or lost. False: frames came meanwhile, and some buckets are left for the next time.
   */
  settle(isEmpty: () => boolean, isQuiet: () => boolean): boolean {
    if (!isEmpty()) return false
    const told = Atomics.load(this.#words, this.#port + PortWord.TOLD)
    for (let i = 0; i < BUCKETS; i++) this.#seen[i] = Atomics.load(this.#words, this.#punted + i)
    if (!isQuiet() || !isEmpty()) return false
    let all = Atomics.load(this.#words, this.#port + PortWord.TOLD) === told
    if (all) Atomics.store(this.#words, this.#port + PortWord.HEARD, told)
    for (let i = 0; i < BUCKETS; i++) {
      // One more may come between the two: then it is not done, and the bucket stays slow until it is.
      if (Atomics.load(this.#words, this.#punted + i) !== this.#seen[i]) all = false
      else Atomics.store(this.#words, this.#done + i, this.#seen[i])
    }
    return all
  }
}
