// Processors: which there may be; standing on each of them in turn, by which a thread knows that what had begun there
// with softirqs off has ended; and how much of what was received waits on them.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { version } from 'node:os'
import { libc } from './libc.js'

const MASK_LENGTH = 128
const MEMBARRIER_CMD_GLOBAL = 1
const SCHED_OTHER = 0
const SCHED_FIFO_RESET_ON_FORK = 1 | 0x40000000
/** The highest: where a machine's processor has a real-time thread of its own, that one may never make room. */
const AHEAD_OF_ALL = 99
const MOST_PROCESSORS = MASK_LENGTH * 8
/** Of /proc/net/softnet_stat: fifteen numbers (135 bytes) in 2026, and room for three more. */
const LONGEST_LINE = 162
/** Half of the smallest page: longer ones may have been cut. */
const SHORT_READ = 2048
const BACKLOG = 11
const PROCESSOR = 12

/** How many processors there may be: one more than the highest number. */
export function possibleProcessors(): number {
  const text = readFileSync('/sys/devices/system/cpu/possible', 'latin1').trim()
  return Number(text.split(/[-,]/).at(-1)) + 1
}

/** Those that run. */
export function onlineProcessors(): number[] {
  const text = readFileSync('/sys/devices/system/cpu/online', 'latin1').trim()
  return text.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number)
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i)
  })
}

/** With PREEMPT_RT, softirqs are threads: two may be between the same steps on one processor. */
export const kernelIsRealTime = () => version().includes('PREEMPT_RT')

/**
 * Stands on each of the processors in turn. A thread runs nowhere while there is a softirq, or a part of the kernel
 * that keeps them off, in the middle of its work: all of these that had begun before are over. False: it may not go to
 * all of them.
 */
export function visit(processors: readonly number[]): boolean {
  const { sched_getaffinity, sched_setaffinity, sched_getscheduler, sched_setscheduler } = libc()
  const usual = new Uint8Array(MASK_LENGTH)
  if (sched_getaffinity(0, MASK_LENGTH, usual) < 0) return false
  // For microseconds, before everything else: else it waits on each of them until its turn comes.
  const policy = sched_getscheduler(0)
  const ahead = policy === SCHED_OTHER && sched_setscheduler(0, SCHED_FIFO_RESET_ON_FORK, int32(AHEAD_OF_ALL)) === 0
  let all = true
  const mask = new Uint8Array(MASK_LENGTH)
  for (const processor of processors) {
    mask.fill(0)
    mask[processor >> 3] = 1 << (processor & 7)
    if (sched_setaffinity(0, MASK_LENGTH, mask) < 0) all = false
  }
  sched_setaffinity(0, MASK_LENGTH, usual)
  if (ahead) sched_setscheduler(0, policy, int32(0))
  return all
}

/**
 * The same by waiting for RCU, in which the kernel receives: some 10 ms. False: this kernel cannot (it has processors
 * that run without ticks).
 */
export const waitForReaders = () => libc().membarrier(MEMBARRIER_CMD_GLOBAL) >= 0

const int32 = (value: number) => new Uint8Array(Int32Array.of(value).buffer)

/** Reads of the file into `buffer`, from a byte of both on; returns how many bytes, 0 at its end. */
export type ReadAt = (buffer: Uint8Array, at: number) => number

/** What was received and waits to be handled (a veth's other end, say), by processor: /proc/net/softnet_stat. */
export class Backlogs {
  readonly #file: number
  readonly #readAt: ReadAt
  readonly #buffer = new Uint8Array(MOST_PROCESSORS * LONGEST_LINE)
  readonly #waiting = new Float64Array(MOST_PROCESSORS)
  readonly #handled = new Float64Array(MOST_PROCESSORS)
  /** At the last `mark`: what waited and has not been seen to be over, and what was handled. */
  readonly #due = new Float64Array(MOST_PROCESSORS)
  readonly #before = new Float64Array(MOST_PROCESSORS)

  /** Throws where /proc has no such file. `readAt`: else than by the system. */
  constructor(readAt?: ReadAt) {
    this.#file = openSync('/proc/net/softnet_stat', 'r')
    this.#readAt = readAt ?? ((buffer, at) => readSync(this.#file, buffer, at, buffer.length - at, at))
  }

  /** From now on, `passed` is about what waits now. Returns it. */
  mark(): boolean {
    if (!this.#read()) return false
    this.#due.set(this.#waiting)
    this.#before.set(this.#handled)
    return this.#due.every((count) => count === 0)
  }

  /**
   * What waited at the last `mark` has been handled: its queue was empty since then, or its processor has handled as
   * many frames. These need not be of the queue where devices have interrupts of their own. False, too, where the
   * kernel does not tell.
   */
  get passed(): boolean {
    if (!this.#read()) return false
    const due = this.#due
    let all = true
    for (let i = 0; i < due.length; i++) {
      if (due[i] === 0) continue
      // The kernel counts with 32 bits.
      const handled = (this.#handled[i] - this.#before[i]) >>> 0
      if (this.#waiting[i] === 0 || handled >= due[i]) due[i] = 0
      else all = false
    }
    return all
  }

  /** Waits until what waits now has been handled. False: it took longer, or the kernel does not tell. */
  drained(limitMs: number): boolean {
    const until = performance.now() + limitMs
    if (this.mark()) return true
    while (!this.passed) if (performance.now() > until) return false
    return true
  }

  close(): void {
    closeSync(this.#file)
  }

  /** False: before 5.10 the kernel does not say which processor a line is of, nor what waits. */
  #read(): boolean {
    const length = this.#readAll()
    if (length === null) return false
    const lines = Buffer.from(this.#buffer.buffer, 0, length).toString('latin1').trim().split('\n')
    this.#waiting.fill(0)
    for (const line of lines) {
      const words = line.trim().split(/\s+/)
      if (words.length <= PROCESSOR) return false
      const processor = Number.parseInt(words[PROCESSOR]!, 16)
      this.#waiting[processor] = Number.parseInt(words[BACKLOG]!, 16)
      this.#handled[processor] = Number.parseInt(words[0]!, 16)
    }
    return true
  }

  /** The kernel gives at most a page at a time: some thirty lines. Null: there are more than there is room for. */
  #readAll(): number | null {
    let length = 0
    while (length < this.#buffer.length) {
      const read = this.#readAt(this.#buffer, length)
      length += read
      // It ends where a page has room for another line.
      if (read < SHORT_READ) return length
    }
    return null
  }
}
