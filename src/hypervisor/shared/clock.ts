// The clock that pauses, cuts and resumes are stamped with: QEMU's events carry the same.

/** Microseconds of CLOCK_REALTIME. */
export const nowUs = (): number => Math.round((performance.timeOrigin + performance.now()) * 1000)
