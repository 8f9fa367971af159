// poll(2) over the wake-up eventfd, what the rings did not take, the silent ports, what the control thread is to hear
// of, plays, and the active ports, in memory laid out once: no allocation per call. The kernel asks each port's
// socket, which takes longer than all the rest: only who waits asks them.

import { type Arena, mapArena } from '../../src/linux/arena.js'
import { asideEvents, Events } from '../../src/linux/epoll.js'
import { libc } from '../../src/linux/libc.js'
import { MAX_PORTS } from '../forwarding/counters.js'
import type { Port } from './port/port.js'
import type { WorkerInput } from './protocol.js'

const POLLIN = 1
const POLLERR = 8
const POLLHUP = 16
const POLLNVAL = 32
const FAILURE = POLLERR | POLLHUP | POLLNVAL

/** Most plays at a time. */
export const MOST_PLAYS = 4
/** The wake-up, the sockets beside the rings and the silent ports come first, then news, then those of plays. */
const NEWS = 3
const FIRST_PLAY = 4
const FIRST_PORT = FIRST_PLAY + MOST_PLAYS
/** poll looks past it. */
const NOBODY = -1

/** struct pollfd: fd i32, events i16, revents i16. */
const WORDS_PER_ENTRY = 2

export class PollSet {
  readonly #arena: Arena
  readonly #wakeFd: number
  readonly #wakeValue = new Uint8Array(8)
  readonly #news: Events
  #count = FIRST_PORT
  /** Entries that the last `wait` has looked at. */
  #looked = 0

  constructor({ wakeFd, newsFd }: Pick<WorkerInput, 'wakeFd' | 'newsFd'>, silentFd: number) {
    this.#wakeFd = wakeFd
    this.#news = new Events(newsFd)
    this.#arena = mapArena((MAX_PORTS + FIRST_PORT) * 8)
    this.#setEntry(0, wakeFd)
    this.#setEntry(1, asideEvents().fd)
    this.#setEntry(2, silentFd)
    this.watchNews(true)
    for (let i = 0; i < MOST_PLAYS; i++) this.#setEntry(FIRST_PLAY + i, NOBODY)
  }

  watch(ports: readonly Port[]): void {
    for (let i = 0; i < ports.length; i++) this.#setEntry(i + FIRST_PORT, ports[i].fd)
    this.#count = ports.length + FIRST_PORT
  }

  /** News wait, or are told. */
  watchNews(tells: boolean): void {
    this.#setEntry(NEWS, tells ? this.#news.fd : NOBODY)
  }

  /** `fd`: of the i-th play; null: there is none any more. */
  watchPlay(i: number, fd: number | null): void {
    this.#setEntry(FIRST_PLAY + i, fd ?? NOBODY)
  }

  /**
   * Waits until something is ready, at most `timeoutMs` (0: looks only); `ports`: at the active ports, too. Returns how
   * many entries are.
   */
  wait(timeoutMs: number, ports: boolean): number {
    this.#looked = ports ? this.#count : FIRST_PORT
    const ready = libc().poll(this.#arena.address, this.#looked, timeoutMs)
    if (ready > 0) return ready
    // Interrupted: results of the last call must not be taken for new ones.
    for (let i = 0; i < this.#looked; i++) this.#arena.words[i * WORDS_PER_ENTRY + 1] = POLLIN
    return 0
  }

  /** True when the control thread has called; the call is taken. */
  takeWake(): boolean {
    if (this.#arena.words[1] >>> 16 === 0) return false
    libc().read(this.#wakeFd, this.#wakeValue, 8)
    return true
  }

  /** True when there is news; it is taken. */
  takeNews(): boolean {
    if (this.#arena.words[NEWS * WORDS_PER_ENTRY + 1] >>> 16 === 0) return false
    return this.#news.look() > 0
  }

  /** The last `wait` found that one of the sockets beside the rings is ready. */
  get isAsideReady(): boolean {
    return this.#arena.words[WORDS_PER_ENTRY + 1] >>> 16 !== 0
  }

  /** The last `wait` found that a silent port has something. */
  get isSilentReady(): boolean {
    return this.#arena.words[2 * WORDS_PER_ENTRY + 1] >>> 16 !== 0
  }

  /** The last `wait` found that the i-th play has frames, or is over. */
  isPlayReady(i: number): boolean {
    return this.#arena.words[(FIRST_PLAY + i) * WORDS_PER_ENTRY + 1] >>> 16 !== 0
  }

  /** The last `wait` found an error condition at the i-th port. */
  hasFailed(i: number): boolean {
    return (
      i + FIRST_PORT < this.#looked &&
      ((this.#arena.words[(i + FIRST_PORT) * WORDS_PER_ENTRY + 1] >>> 16) & FAILURE) !== 0
    )
  }

  #setEntry(i: number, fd: number): void {
    this.#arena.words[i * WORDS_PER_ENTRY] = fd
    this.#arena.words[i * WORDS_PER_ENTRY + 1] = POLLIN
  }
}
