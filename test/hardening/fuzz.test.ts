// Some thousand cases of what `npm run fuzz` does for minutes, the same ones each time.

import t from 'tap'
import { runCase, type Target, targetNames } from './fuzz/fuzz.js'

const CASES: Record<Target, number> = {
  forwarder: 250,
  gso: 4000,
  control: 10_000,
  color: 100_000,
  channel: 2000,
  pcapng: 2000,
  traces: 4000,
  zstd: 4000,
}

for (const target of targetNames) {
  t.test(target, async (t) => {
    for (let seed = 0; seed < CASES[target]; seed++) runCase(target, seed)
    t.pass(`${CASES[target]} cases`)
  })
}
