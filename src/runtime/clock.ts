// The one clock: CLOCK_REALTIME, which QEMU's events and files carry, too, but steady within a thread: it goes on from
// the time at which the thread began. Deadlines are in milliseconds of `performance.now()`. What must hold in virtual
// time as well is handed a `Clock`.

// Asking for it takes longer than asking for the time.
const { timeOrigin } = performance

/** Unix time in milliseconds, with fractions. */
export const nowMs = (): number => timeOrigin + performance.now()

/** Unix time in microseconds. */
export const nowUs = (): number => Math.round(nowMs() * 1000)

/** What files are dated by: it goes with the clock when somebody sets that. Milliseconds. */
export const fileTimeMs = (): number => Date.now()

/** Less is how coarse the clocks are. */
const STEP_US = 50_000

/**
 * A moment that another process has just read off CLOCK_REALTIME, on the clock of this thread: the two part when
 * somebody sets the clock. Microseconds. `aheadUs`: by how much the thread's is ahead.
 */
export function steadyUs(realtimeUs: number, aheadUs = nowUs() - Date.now() * 1000): number {
  return Math.abs(aheadUs) < STEP_US ? realtimeUs : realtimeUs + aheadUs
}

/** A point in time as a clock shows it. */
export interface Instant {
  /** Monotonic, milliseconds: for deadlines. */
  readonly ms: number
  /** CLOCK_REALTIME, microseconds: for people and manifests. */
  readonly wallUs: number
}

export interface Clock {
  now(): Instant
  /** Calls `act` later; the answer takes it back. */
  after(ms: number, act: () => void): () => void
}

export const systemClock: Clock = {
  now: () => ({ ms: performance.now(), wallUs: nowUs() }),
  after: (ms, act) => {
    const timer = setTimeout(act, ms)
    return () => clearTimeout(timer)
  },
}

export function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(ms, resolve)
  })
}
