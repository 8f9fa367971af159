// A port whose frames may be fast: its words in the kernel, its programs at the device, its counts.

import type { PeerChannel } from '../../../src/epoch/peer-channel.js'
import { Counter, type CounterTable, ROW } from '../../forwarding/counters.js'
import type { Output, PortState } from '../../forwarding/port-state.js'
import { Buckets } from './buckets.js'
import type { FastPort } from './kernel.js'
import { COUNTS, Count, PortWord, type Shared } from './layout.js'
import type { SentFrames } from './sent-frames.js'

const ETHERNET_HEADER = 14
/**
 * Frames of a trunk within a second from which on none is held up for a HELLO. The daemon, which would get them
 * meanwhile, comes to an end with twice as many, and more.
 */
const RUSH_FRAMES = 20_000
/** Frames within a second from which on a trunk may be about to be rushed, when the second before had fewer. */
const RISE_FRAMES = 100

export interface Hooks {
  readonly shared: Shared
  readonly counters: CounterTable
  readonly sentFrames: SentFrames
}

/** A color, and the generations in which a channel sends and accepts it. */
export interface Tags {
  readonly color: number
  readonly sends: number
  readonly accepts: number
}

export class Attached {
  readonly port: FastPort
  /** Through which the forwarder sends to it. */
  readonly output: Output
  readonly buckets: Buckets
  /** Longer frames, unless they are GSO, go to the forwarder: what becomes of them depends on more. */
  room = 0
  /** Verdicts of the present generation name it. */
  named = false
  /** Generations that have become void within the present second. */
  voids = 0
  /** Frames were lost, or came before they were counted: its buckets are to be put right first. */
  unsettled = true
  readonly #hooks: Hooks
  readonly #channel: PeerChannel | null
  readonly #at: number
  readonly #sums = new Float64Array(COUNTS)
  readonly #counted = new Float64Array(COUNTS)
  /** Frames at the begin of the present second. */
  #framesBefore = 0
  /** Of the whole second before. */
  #lastSecond = 0
  #hasPostponed = false
  #isBusy = false

  /** Why it is slow for somebody's programs at its device; null: there are none. */
  guests: string | null = null
  /** Of a trunk: what its frames' tags say at present, by which they are counted; null: none is fast. */
  tags: Tags | null = null

  /**
   * `act` is at its ingress hook already: behind a socket's filter, it must run. It is slow. Throws what the kernel
   * says, or a reason, in words.
   */
  constructor(port: FastPort, { output, channel }: Pick<PortState, 'output' | 'channel'>, hooks: Hooks) {
    const { shared } = hooks
    this.port = port
    this.output = output
    this.#channel = channel
    this.#hooks = hooks
    this.#at = shared.port(port.index)
    this.buckets = new Buckets(shared, port.index, channel !== null, hooks.sentFrames)
    const words = shared.ports
    // What a port of this index had before; generations go on, for there may be verdicts of it.
    this.stop()
    words[this.#at + PortWord.MISSED] = 0
    words[this.#at + PortWord.PAUSED] = 0
    words[this.#at + PortWord.RUSHED] = 0
    words[this.#at + PortWord.TRUNK] = channel === null ? 0 : 1
    shared.count(port.index, this.#counted)
    this.beginSecond()
    if (!shared.setDevice(port.ifindex, port.index)) throw new Error('another device has an index like its')
    try {
      if (!port.putFilterBefore(shared.kernel.front(port.index), this.buckets))
        throw new Error('its socket has no filter')
    } catch (error) {
      shared.clearDevice(port.ifindex)
      throw error
    }
    this.look()
  }

  get generation(): number {
    return this.#hooks.shared.ports[this.#at + PortWord.GENERATION]
  }

  get isFast(): boolean {
    return (this.generation & 1) === 1
  }

  /** Frames behind which the ingress filter did not run: somebody has taken it off. */
  get missed(): number {
    return Atomics.load(this.#hooks.shared.ports, this.#at + PortWord.MISSED)
  }

  set now(seconds: number) {
    this.#hooks.shared.ports[this.#at + PortWord.NOW] = seconds
  }

  /** Nothing leaves by it but what the daemon sends, until it is called with false. Returns whether it has changed. */
  pause(paused: boolean): boolean {
    const value = paused ? 1 : 0
    return Atomics.exchange(this.#hooks.shared.ports, this.#at + PortWord.PAUSED, value) !== value
  }

  start(): void {
    this.named = false
    if (!this.isFast) this.#bump(1)
  }

  /** Frames whose program has read the generation before may be under way yet. */
  stop(): void {
    this.named = false
    if (this.isFast) this.#bump(1)
  }

  /** All verdicts that name it are void; others may come. */
  outdate(): void {
    this.named = false
    this.#bump(2)
  }

  /** Its ingress filter is there again. */
  mended(): void {
    if (this.missed === 0) return
    Atomics.store(this.#hooks.shared.ports, this.#at + PortWord.MISSED, 0)
    this.unsettled = true
  }

  /** Frames that are redirected to it would be lost, and counted as sent. */
  get isDown(): boolean {
    return !this.#hooks.shared.kernel.isRunning(this.port)
  }

  /** Its MTU may have changed. True: what was noted of it is void. */
  look(): boolean {
    const mtu = this.#hooks.shared.kernel.mtu(this.port)
    const room = mtu === null ? 0 : mtu + ETHERNET_HEADER
    if (room === this.room) return false
    this.room = room
    return true
  }

  /** What was counted in the kernel is added to the port's counters. */
  sync(): void {
    const { shared, counters } = this.#hooks
    const sums = this.#sums
    const counted = this.#counted
    shared.count(this.port.index, sums)
    const row = this.port.index * ROW
    counters[row + Counter.rxFrames] += sums[Count.IN_FRAMES] - counted[Count.IN_FRAMES]
    counters[row + Counter.rxBytes] += sums[Count.IN_BYTES] - counted[Count.IN_BYTES]
    counters[row + Counter.rxGso] += sums[Count.IN_GSO] - counted[Count.IN_GSO]
    counters[row + Counter.txFrames] += sums[Count.OUT_FRAMES] - counted[Count.OUT_FRAMES]
    counters[row + Counter.txBytes] += sums[Count.OUT_BYTES] - counted[Count.OUT_BYTES]
    counters[row + Counter.txGso] += sums[Count.OUT_GSO] - counted[Count.OUT_GSO]
    this.#countTagged(
      sums[Count.OUT_SEGMENTS] - counted[Count.OUT_SEGMENTS],
      sums[Count.IN_SEGMENTS] - counted[Count.IN_SEGMENTS],
    )
    counted.set(sums)
  }

  /** Within the present second. */
  get #ofSecond(): number {
    return this.#frames - this.#framesBefore
  }

  get #frames(): number {
    return this.#counted[Count.IN_FRAMES] + this.#counted[Count.OUT_FRAMES]
  }

  beginSecond(): void {
    this.#lastSecond = this.#ofSecond
    if (this.isRushed && this.#lastSecond < RUSH_FRAMES) this.#rush(false)
    this.#framesBefore = this.#frames
  }

  /** Frames of a trunk are not held up for a HELLO: so many pass that the daemon might not come to an end with them. */
  get isRushed(): boolean {
    return this.#hooks.shared.ports[this.#at + PortWord.RUSHED] !== 0
  }

  /** After `sync`. Returns `isRushed`. */
  rushes(): boolean {
    if (this.#channel !== null && !this.isRushed && this.#ofSecond >= RUSH_FRAMES) this.#rush(true)
    return this.isRushed
  }

  /**
   * After `sync`. Frames of a trunk have become more: a HELLO is to wait until both ends have seen whether it is
   * rushed. Never twice in a row.
   */
  postpones(): boolean {
    const count = this.#ofSecond
    const rises = !this.isRushed && count >= RISE_FRAMES && count > this.#lastSecond
    this.#hasPostponed = rises && !this.#hasPostponed
    return this.#hasPostponed
  }

  #rush(rushed: boolean): void {
    Atomics.store(this.#hooks.shared.ports, this.#at + PortWord.RUSHED, rushed ? 1 : 0)
  }

  /** True, once: the kernel has handed on so many frames of its within a second. */
  hasBecomeBusy(frames: number): boolean {
    if (this.#isBusy || this.#ofSecond < frames) return false
    this.#isBusy = true
    return true
  }

  /** By the tags that they had. What was sent in a generation that is over is nobody's to count. */
  #countTagged(sent: number, received: number): void {
    const channel = this.#channel
    const { tags } = this
    if (channel === null || tags === null) return
    if (sent > 0 && channel.sends === tags.sends) channel.sent.add(tags.color, sent)
    if (received > 0) channel.take(tags.accepts, tags.color, received)
  }

  /** It is slow, and nothing of it is under way. `act` drops all, as the filter did that was there before. */
  detach(): void {
    this.port.takeFilterAway()
    this.#hooks.shared.clearDevice(this.port.ifindex)
  }

  #bump(by: number): void {
    Atomics.add(this.#hooks.shared.ports, this.#at + PortWord.GENERATION, by)
  }
}
