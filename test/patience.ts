// How long tests wait before they call something lost. A limit is there to end a test that would else wait for ever,
// never to judge how fast something is: so it grows with how slow the machine is, which `scripts/test` measures when it
// begins, and with how busy others make it meanwhile.

import { availableParallelism, loadavg } from 'node:os'

/** 1 on a quiet machine, more on a busy or slow one. */
export const slowness = Math.max(1, Number(process.env.SNAPSWITCH_TEST_SLOWNESS) || 1)

const MOST = 24

/** Twice the number of those who want a processor, now and in the last minute, by the processors that there are. */
const business = () => Math.min(MOST, (2 * loadavg()[0]!) / availableParallelism())

/** Milliseconds to wait for what takes at most `ms` on a quiet machine; who waits long asks again and again. */
export function patience(ms: number): number {
  return Math.round(ms * Math.max(slowness, business()))
}

const LONGEST_FILE_MS = 1_200_000

/** The limit of a whole test file, for when a wait without a limit hangs. Set once, it must hold for what comes. */
export function fileLimit(ms: number): number {
  return Math.max(patience(ms), Math.min(3 * patience(ms), LONGEST_FILE_MS))
}
