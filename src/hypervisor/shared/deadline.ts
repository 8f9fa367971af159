// Waiting with an end: every promise that depends on another process is raced against a deadline here.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'

/** Milliseconds left, never negative. */
export function remaining(deadline: Deadline): number {
  return Math.max(0, deadline - performance.now())
}

/** A deadline `milliseconds` from now, but no later than `limit`. */
export function within(milliseconds: number, limit: Deadline = Number.POSITIVE_INFINITY): Deadline {
  return Math.min(performance.now() + milliseconds, limit)
}

/** Settles as `promise` does, or rejects with `late()` once the deadline has passed. The loser is left to itself. */
export function by<T>(deadline: Deadline, promise: Promise<T>, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    // An infinite deadline has no timer: for waits that a connection's end settles.
    const timer =
      deadline === Number.POSITIVE_INFINITY ? null : setTimeout(() => reject(late()), Math.ceil(remaining(deadline)))
    promise.then(resolve, reject).finally(() => timer !== null && clearTimeout(timer))
  })
}

/** Sleeps, but not past the deadline. */
export function pauseFor(milliseconds: number, deadline: Deadline): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.min(milliseconds, remaining(deadline))))
}

export function deadlinePassed(what: string): SnapswitchError {
  return new SnapswitchError(
    'DEADLINE',
    `${what} did not finish by its deadline`,
    'Allow more time (--deadline), or see what keeps the host busy.',
  )
}
