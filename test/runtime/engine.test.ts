// The engine does what it is told: garbage is gone when `collectGarbage` returns, and nobody helps with it.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import t from 'tap'
import { collectGarbage, ENGINE_FLAGS } from '../../src/runtime/engine.js'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'

/** Makes garbage, and says how long all other threads ran of the time that the main one did. */
const garbage = `
const { readdirSync, readFileSync } = require('node:fs')
function ran() {
  const sum = { main: 0, others: 0 }
  for (const thread of readdirSync('/proc/self/task')) {
    const time = Number(readFileSync('/proc/self/task/' + thread + '/schedstat', 'utf8').split(' ')[0])
    sum[thread === String(process.pid) ? 'main' : 'others'] += time
  }
  return sum
}
function make() {
  let kept = []
  for (let i = 0; i < 3_000_000; i++) {
    kept.push({ i })
    if (kept.length === 100_000) kept = kept.slice(50_000)
  }
}
make() // compiles, in other threads
const before = ran()
make()
const after = ran()
console.log((after.others - before.others) / (after.main - before.main))`

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
      const { kind } = (entry as typeof entry & { readonly detail: { readonly kind: number } }).detail
      // 4: mark-sweep-compact, 8: incremental marking (node:perf_hooks constants).
      if (kind === 4 || kind === 8) major.push(kind)
    }
  })
  observer.observe({ entryTypes: ['gc'] })
  collectGarbage()
  await until('the collection to be told', 5000, () => (major.length > 0 ? true : undefined), 1)
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

t.test('the command starts with the flags, and then no other thread has a part in a collection', async (t) => {
  const text = readFileSync(join(repositoryRoot(), 'bin', 'snapswitch'), 'utf8')
  const given = text.match(/^exec node (.*) "\$0" "\$@"$/m)?.[1].replaceAll("'", '')
  t.equal(given, ENGINE_FLAGS.join(' '))
  const share = (flags: readonly string[]) => Number(execFileSync(process.execPath, [...flags, '-e', garbage]))
  // What is compiled late is compiled in another thread, once: a collection would be seen every time.
  const shares: number[] = []
  do shares.push(share(ENGINE_FLAGS))
  while (shares.at(-1)! >= 0.2 && shares.length < 5)
  t.ok(shares.at(-1)! < 0.2, shares.join(', '))
})
