// How long a host may take to say what is there. Nothing stands still meanwhile, so somebody who gives a slow host time
// gives it for this, too.

/** Machines are asked through libvirtd, which may have much to do. */
const LEAST_MS = 20_000
/** A daemon that hangs is not waited for much longer. */
const MOST_MS = 60_000

/** `deadlineMs`: of the whole operation. */
export function preflightLimitMs(deadlineMs: number): number {
  return Math.min(deadlineMs, Math.max(LEAST_MS, Math.min(MOST_MS, deadlineMs / 4)))
}
