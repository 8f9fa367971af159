// What `scripts/bench forwarding` is made of: its figures, ratios, options, and the small readers.

import t from 'tap'
import { forwardingBench } from '../../bench/forwarding/figures.js'
import { readOptions, subjects } from '../../bench/forwarding/main.js'
import { tcpResult } from '../../bench/forwarding/session.js'
import { coreMask } from '../../bench/forwarding/subjects/bridge.js'
import { configuration } from '../../bench/forwarding/subjects/snapswitch.js'
import { coreCount, idleTicks } from '../../bench/lab/cpu.js'
import { expandList } from '../../bench/run/machine.js'

t.test('every ratio that the project is held to has a rule, an aim, and subjects that exist', async (t) => {
  const { ratios, tables } = forwardingBench
  for (const key of [
    'rttIdleP50.vsBridge',
    'pps60.vsBridge',
    'pps60TwoHosts.vsBridge',
    'cpuPerFrame.vsBridge',
    'cpuPerGbit.vsBridge',
    'tcp.vsBridge',
    'tcpTwoHosts.vsBridge',
    'pps60.vsOvsUserspace',
    'colorOverhead',
  ])
    t.ok(ratios[key]?.reach, key)
  const ids = subjects.map(({ id }) => id)
  const names = tables.flatMap(({ figures }) => figures.map(({ name }) => name))
  for (const [key, { of, peers, figure }] of Object.entries(ratios)) {
    t.ok(
      [of, ...peers].every((id) => ids.includes(id)),
      key,
    )
    t.ok(names.includes(figure), key)
  }
  t.ok(forwardingBench.plots.every((name) => names.includes(name)))
  t.equal(new Set(names).size, names.length)
})

t.test('TCP rate leaves the first interval out', async (t) => {
  const interval = (bytes: number) => ({ sum: { bytes, seconds: 0.5 } })
  const report = {
    intervals: [interval(1), interval(1000), interval(3000)],
    end: { sum_sent: { retransmits: 7 }, sum_received: { bytes: 5000 } },
  }
  t.same(tcpResult(report), { bits: 40_000, bitsPerSecond: 32_000, retransmits: 7 })
})

t.test('/proc/stat: idle and iowait of the first line, cores counted', async (t) => {
  const stat = 'cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 5\n'
  t.equal(idleTicks(stat), 45)
  t.equal(coreCount(stat), 2)
})

t.test('core lists and masks', async (t) => {
  t.same(expandList('0-2,5'), [0, 1, 2, 5])
  t.same(expandList('3'), [3])
  t.equal(coreMask('1'), '2')
  t.equal(coreMask('0,1'), '3')
})

t.test('options: defaults, partial runs write no results, wrong ones are refused', async (t) => {
  t.equal(readOptions([]).rounds, 5)
  t.match(readOptions([]).results, /bench\/results$/)
  t.equal(readOptions(['--quick']).results, null)
  t.equal(readOptions(['--quick']).rounds, 2)
  const some = readOptions(['--only', 'bridge,vde', '--rounds', '1'])
  t.same(
    some.chosen.map(({ id }) => id),
    ['bridge', 'vde'],
  )
  t.equal(some.results, null)
  t.equal(some.hasGuests, false)
  t.ok(readOptions(['--only', 'guests']).hasGuests)
  const brief = readOptions(['--minutes', '3.5'])
  t.same([brief.size, brief.minutes, brief.results], ['brief', 3.5, null])
  for (const wrong of [
    ['--minutes', '0'],
    ['--minutes', 'x'],
    ['--rounds', '0'],
    ['--rounds', 'x'],
    ['--only', 'nosuch'],
    ['--nosuch'],
    ['--render', 'f'],
  ])
    t.throws(() => readOptions(wrong), wrong.join(' '))
})

t.test('the configuration that snapswitch is started with', async (t) => {
  t.match(configuration('a', '/s', '/d', ['p1', 'trunk'], { poll: 'busy', color: true }), {
    host: 'a',
    api: { socket: '/s' },
    state: '/d',
    networks: { lab0: { ports: { p1: { device: 'p1', vm: 'vm-p1' }, trunk: { device: 'trunk', kind: 'trunk' } } } },
    datapath: { poll: 'busy' },
  })
  t.match(configuration('a', '/s', '/d', ['p1'], { poll: 'adaptive', color: false }), {
    networks: { lab0: { ports: { p1: { device: 'p1', kind: 'plain' } } } },
  })
})
