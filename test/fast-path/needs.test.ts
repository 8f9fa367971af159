// What the fast path needs of the kernel: it takes the programs, and lets a thread stand on its processors.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { visit } from '../../src/linux/processors.js'
import { fastPathTrouble } from '../../switch/datapath/kernel/programs.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(60_000))

t.test('a thread stands on each of its processors, and goes everywhere afterwards', async (t) => {
  const allowed = () => /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))![1]!
  const before = allowed()
  const ranges = before.split(',').map((range) => range.split('-').map(Number))
  const all = ranges.flatMap(([first, last = first]) =>
    Array.from({ length: last! - first! + 1 }, (_, i) => first! + i),
  )
  t.ok(visit(all))
  t.equal(allowed(), before)
  t.notOk(visit([1023]), 'none of that number')
})

t.test('the verifier of this kernel takes them', async (t) => {
  t.equal(fastPathTrouble(), null)
})
