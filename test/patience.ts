// How long tests wait before they call something lost. A limit is there to end a test that would else wait for ever,
// never to judge how fast something is: so it grows with how slow the machine is, which `scripts/test` measures when it
// begins.

/** 1 on a quiet machine, more on a busy or slow one. */
export const slowness = Math.max(1, Number(process.env.SNAPSWITCH_TEST_SLOWNESS) || 1)

/** Milliseconds to wait for what takes at most `ms` on a quiet machine. */
export function patience(ms: number): number {
  return Math.round(ms * slowness)
}
