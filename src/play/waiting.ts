// Waits for a moment to some microseconds: asleep until shortly before it, then looking at the clock. How long before
// is learned from how late the system has woken the thread; it is bounded, and so is the time that is spent looking.

import { libc } from '../linux/libc.js'
import { Word } from './frame-ring.js'

const LEAST_AHEAD_MS = 0.1
const MOST_AHEAD_MS = 1
const FIRST_AHEAD_MS = 0.25
/** A sleep shorter than this is not worth a call. */
const SHORTEST_SLEEP_MS = 0.02
/** How fast what was learned is forgotten. */
const KEPT = 0.999
/** Of a nanosecond: the kernel wakes the thread when it is due, and not up to 50 microseconds later (prctl(2)). */
const PR_SET_TIMERSLACK = 29

export class Waiting {
  readonly #control: Int32Array
  #aheadMs = FIRST_AHEAD_MS

  constructor(control: Int32Array) {
    this.#control = control
    libc().prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
  }

  /** Until `performance.now()` is `at`; false: the play was stopped. */
  until(at: number): boolean {
    const control = this.#control
    for (;;) {
      const left = at - performance.now()
      if (left <= 0) return true
      const sleep = left - this.#aheadMs
      if (sleep > SHORTEST_SLEEP_MS) {
        if (Atomics.wait(control, Word.STOP, 0, sleep) !== 'timed-out') return false
        const late = this.#aheadMs - (at - performance.now())
        this.#aheadMs = Math.min(MOST_AHEAD_MS, Math.max(LEAST_AHEAD_MS, late * 1.5, this.#aheadMs * KEPT))
      } else if (Atomics.load(control, Word.STOP) !== 0) return false
    }
  }
}
