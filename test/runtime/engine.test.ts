// The engine does what it is told: garbage is gone when `collectGarbage` returns, and code that rests stays compiled.

import { PerformanceObserver } from 'node:perf_hooks'
import t from 'tap'
import { collectGarbage, keepCompiled } from '../../src/runtime/engine.js'

t.test('garbage is collected at once, every time, and nobody else gets a `gc`', async (t) => {
  for (let round = 0; round < 3; round++) {
    const gone = new WeakRef({ bytes: new Array(1000).fill(round) })
    // A WeakRef keeps its target until the job that made it has ended.
    await new Promise((resolve) => setImmediate(resolve))
    collectGarbage()
    t.equal(gone.deref(), undefined)
  }
  t.equal('gc' in globalThis, false)
})

t.test('right after a collection the engine has no reason for another', async (t) => {
  const major: number[] = []
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as unknown as { detail: { kind: number } }).detail
      // 4: mark-sweep-compact, 8: incremental marking (node:perf_hooks constants).
      if (kind === 4 || kind === 8) major.push(kind)
    }
  })
  observer.observe({ entryTypes: ['gc'] })
  keepCompiled()
  collectGarbage()
  await new Promise((resolve) => setTimeout(resolve, 20))
  const before = major.length
  // About what a cut of a host's machines allocates.
  const kept: object[] = []
  for (let i = 0; i < 5000; i++) kept.push({ i })
  await new Promise((resolve) => setTimeout(resolve, 20))
  observer.disconnect()
  t.equal(before, 1)
  t.equal(major.length, 1)
  t.equal(kept.length, 5000)
})
