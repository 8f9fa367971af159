// What the fast path needs of the kernel: it takes the programs, and lets a thread stand on its processors.

import { execFileSync } from 'node:child_process'
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

t.test('with no more rights than it says it takes', async (t) => {
  // To read the programs, and to have its threads wait for their turn.
  const rights = '-all,+bpf,+net_admin,+dac_override,+sys_nice'
  const program = new URL('../../switch/datapath/kernel/programs.js', import.meta.url).href
  const script = `import('${program}').then((it) => console.log(it.fastPathTrouble()))`
  const argv = [
    '--reuid=65534',
    '--clear-groups',
    ...['inh-caps', 'ambient-caps', 'bounding-set'].map((set) => `--${set}=${rights}`),
  ]
  const said = execFileSync('setpriv', [...argv, process.execPath, '-e', script], {
    encoding: 'utf8',
    timeout: fileLimit(30_000),
  })
  t.equal(said, 'null\n')
})
