// The embedded programs are what their source says, and every kernel that is supported takes them.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { embedded, OBJECT_FILE } from '../../scripts/bpf.js'
import { visit } from '../../src/linux/processors.js'
import { KernelPath } from '../../switch/datapath/kernel/kernel-path.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(60_000))

t.test('compiled again, they are the same', async (t) => {
  t.equal(embedded(), readFileSync(OBJECT_FILE, 'utf8'), '`npm run bpf` writes them')
})

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

t.test('the verifier of this kernel takes them', async () => {
  new KernelPath(createCounters()).close()
})
