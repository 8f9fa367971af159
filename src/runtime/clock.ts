// The one clock: CLOCK_REALTIME, which QEMU's events and files carry, too, but steady within a thread: it goes on from the time at
// which the thread began. Deadlines are in milliseconds of `performance.now()`.

/** Unix time in milliseconds, with fractions. */
export const nowMs = (): number => performance.timeOrigin + performance.now()

/** Unix time in microseconds. */
export const nowUs = (): number => Math.round(nowMs() * 1000)
