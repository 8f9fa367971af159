// What passing a million frames costs the JavaScript heap, printed as JSON. In a process of its own (started with
// --expose-gc by allocation.test.ts), so that nothing else allocates meanwhile.

import { PerformanceObserver } from 'node:perf_hooks'

const FRAMES = 1_000_000
const ROUNDS = 5

/** `pass` sends so many frames; `count` is how many have come out so far. */
export async function measure(pass: (frames: number) => void, count: () => number): Promise<void> {
  let collections = 0
  new PerformanceObserver((list) => {
    collections += list.getEntries().length
  }).observe({ entryTypes: ['gc'] })
  const settle = () => new Promise((resolve) => setTimeout(resolve, 50))

  const round = async () => {
    globalThis.gc!()
    await settle()
    collections = 0
    const sentBefore = count()
    const before = process.memoryUsage().heapUsed
    pass(FRAMES)
    const grown = process.memoryUsage().heapUsed - before
    const sent = count() - sentBefore
    await settle()
    const duringPass = collections
    globalThis.gc!()
    const kept = process.memoryUsage().heapUsed - before
    return { frames: FRAMES, sent, grown, kept, collections: duringPass }
  }

  pass(300_000)
  // The compiler changes its mind now and then, which costs heap as well; what the code itself allocates it allocates
  // each time.
  let best = await round()
  for (let i = 1; i < ROUNDS; i++) {
    const next = await round()
    if (next.collections * FRAMES + next.grown < best.collections * FRAMES + best.grown) best = next
  }
  process.stdout.write(`${JSON.stringify(best)}\n`)
}
