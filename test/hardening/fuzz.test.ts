// Seconds of what `npm run fuzz` does for minutes: a few thousand cases that are always the same, and new ones each time.

import t from 'tap'
import { runCase, runFor, type Target, targetNames } from './fuzz/fuzz.js'

const FIXED: Record<Target, number> = { forwarder: 60, control: 2000, color: 20_000, channel: 500, pcapng: 500 }

for (const target of targetNames) {
  t.test(target, async (t) => {
    for (let seed = 0; seed < FIXED[target]; seed++) runCase(target, seed)
    const seed = Math.floor(Math.random() * 2 ** 32)
    t.comment(`new cases from seed ${seed} on`)
    const cases = runFor(target, seed, 1500)
    t.ok(cases > 0, `${cases} new cases`)
  })
}
