// Medians, ratios and the report that is made of them.

import t from 'tap'
import { barChart } from '../../bench/forwarding/chart.js'
import { mediansOf, type Row, ratioRules, ratiosOf, reaches } from '../../bench/forwarding/figures.js'
import { expandList, readOptions, subjects } from '../../bench/forwarding/main.js'
import { makeReport, markdown } from '../../bench/forwarding/report.js'
import { tcpResult } from '../../bench/forwarding/session.js'
import { coreMask } from '../../bench/forwarding/subjects/bridge.js'
import { configuration } from '../../bench/forwarding/subjects/snapswitch.js'
import { coreCount, idleTicks } from '../../bench/lab/cpu.js'

const row = (round: number, subject: string, figures: Row['figures'], error: string | null = null): Row => ({
  round,
  subject,
  figures,
  error,
})

const rows = [
  row(1, 'snapswitch', { pps60: 700_000, tcp: 8e9, tcpTwoHosts: 6e9 }),
  row(2, 'snapswitch', { pps60: 900_000, tcp: 9e9, tcpTwoHosts: 6e9 }),
  row(3, 'snapswitch', { pps60: 800_000, tcp: 7e9, tcpTwoHosts: 6e9 }),
  row(1, 'bridge', { pps60: 400_000, tcp: 10e9 }),
  row(2, 'bridge', {}, 'no namespace\nmore'),
  row(1, 'snapswitch-uncolored', { tcpTwoHosts: 6.1e9 }),
  row(1, 'snapswitch-busy', { rttIdleP50: 30 }),
  row(1, 'vde-plug', { tcp: 0 }),
]

t.test('medians leave out rounds that failed', async (t) => {
  const medians = mediansOf(rows)
  t.equal(medians.get('snapswitch')?.pps60, 800_000)
  t.equal(medians.get('bridge')?.pps60, 400_000)
  t.notOk('rttIdleP50' in medians.get('bridge')!)
})

t.test('ratios: of medians, only where both sides were measured, never by zero', async (t) => {
  const ratios = ratiosOf(mediansOf(rows))
  t.equal(ratios['pps60.vsBridge'], 2)
  t.equal(ratios['tcp.vsBridge'], 0.8)
  t.equal(ratios.colorOverhead, 0.9836)
  t.notOk('tcp.vsVde' in ratios)
  t.notOk('rttIdleP50.vsBridge' in ratios)
})

t.test('every ratio that the project is held to has a rule with a subject that exists', async (t) => {
  for (const key of [
    'pps60.vsBridge',
    'pps60.vsOvsUserspace',
    'pps60.vsVde',
    'tcp.vsBridge',
    'tcp.vsOvsUserspace',
    'tcp.vsVde',
    'tcpTwoHosts.vsBridge',
    'rttIdleP50.vsBridge',
    'rttLoadedP99.vsBridge',
    'colorOverhead',
  ])
    t.ok(ratioRules[key], key)
  const ids = subjects.map(({ id }) => id)
  for (const [key, { of, to }] of Object.entries(ratioRules)) t.ok(ids.includes(of[0]) && ids.includes(to[0]), key)
})

t.test('reaching: at least, at most, and nothing set', async (t) => {
  t.equal(reaches('pps60.vsBridge', 1), true)
  t.equal(reaches('pps60.vsBridge', 0.99), false)
  t.equal(reaches('rttIdleP50.vsBridge', 2.9), true)
  t.equal(reaches('rttIdleP50.vsBridge', 3.1), false)
  t.equal(reaches('pps1514.vsBridge', 9), null)
})

t.test('the table has a row per subject, the spread, the ratios and what failed', async (t) => {
  const both = { switch: '0,1', sender: '0,1', receiver: '0,1' }
  const report = makeReport({
    started: new Date(),
    machine: { cpu: 'x', cores: 2, memoryBytes: 2 ** 34, kernel: '6', node: 'v20', loadBefore: 0 },
    plan: { rounds: 3, subjects, trialMs: 1, tcpSeconds: 1, oneHost: both, twoHosts: both },
    notes: subjects.map(({ id, title, setup }) => ({ id, title, setup, version: '1' })),
    rows,
  })
  const text = markdown(report)
  t.match(text, /\| snapswitch \| 800 \(±13 %\) \|/)
  t.match(text, /\| pps60\.vsBridge \| 2\.000 \| at least 1 \| yes \|/)
  t.match(text, /\| tcp\.vsBridge \| 0\.800 \| at least 0\.95 \| no \|/)
  t.match(text, /- round 2, bridge: no namespace\n/)
  for (const table of text.split('\n\n').filter((block) => block.startsWith('|'))) {
    const widths = table
      .trim()
      .split('\n')
      .map((line) => line.split('|').length)
    t.equal(new Set(widths).size, 1, 'all rows of a table have the same number of cells')
  }
})

t.test('the chart escapes what it is given and keeps bars inside', async (t) => {
  const svg = barChart('a < b & "c"', [
    {
      title: 'p<1>',
      bars: [
        { label: 'x', value: 10, text: '10', accent: true },
        { label: 'y', value: 0, text: '0', accent: false },
      ],
    },
  ])
  t.match(svg, 'a &lt; b &amp; &quot;c&quot;')
  t.match(svg, 'p&lt;1&gt;')
  for (const [, x, width] of svg.matchAll(/<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"/g)) {
    t.ok(Number(width) >= 1)
    t.ok(Number(x) + Number(width) < 860)
  }
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
  for (const wrong of [['--rounds', '0'], ['--rounds', 'x'], ['--only', 'nosuch'], ['--nosuch'], ['--render', 'f']])
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
