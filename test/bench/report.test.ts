// The report of all benches, and the comparison of two runs.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { projectRoot } from '../../bench/lab/project.js'
import { promisesOf, readOptions, roundsOf, shareMs } from '../../bench/report/all.js'
import { chanceApart, compareResults, differences } from '../../bench/report/compare.js'
import { bendOf, curveSvg } from '../../bench/report/curve.js'
import { cautions, htmlReport, plotsOf } from '../../bench/report/html.js'
import { writeReport } from '../../bench/report/main.js'
import { axisOf, roundTicks, svgOf } from '../../bench/report/plot.js'
import { readAll, readResults } from '../../bench/report/read.js'
import { readmeFigures, withFigures } from '../../bench/report/readme.js'
import { makeReport, writeRaw, writeResults } from '../../bench/run/report.js'
import type { Row } from '../../bench/run/rows.js'
import { vnsnapBench } from '../../bench/vnsnap/rows.js'

const row = (round: number, subject: string, figures: Row['figures']): Row => ({
  part: 'network',
  round,
  subject,
  figures,
  error: null,
})

const machine = { cpu: '<x>', cores: 2, memoryBytes: 2 ** 34, kernel: '6', node: 'v20', loadBefore: 0.1 }
const note = (id: string) => ({ id, title: id, setup: 'a < b', version: 'v' })

const reportOf = (rows: readonly Row[], loadBefore = 0.1) =>
  makeReport(
    vnsnapBench,
    {
      date: '2026-11-26T21:00:00.000Z',
      minutes: 1,
      command: 'scripts/bench vnsnap',
      quick: false,
      budget: null,
      whole: true,
      machine: { ...machine, loadBefore },
      loadAfter: 1,
      accelerator: 'TCG (emulated)',
      subjects: [note('snapswitch-fast'), note('vnsnap')],
      absent: [{ id: 'ovs-kernel', why: 'no module' }],
    },
    rows,
  )

const before = [
  row(1, 'snapswitch-fast', { 'rtt.8.p50': 20, tcp: 1e9, udpLost: 0, hops: 2 }),
  row(2, 'snapswitch-fast', { 'rtt.8.p50': 22, tcp: 2e9, udpLost: 0 }),
  row(1, 'vnsnap', { 'rtt.8.p50': 70, tcp: 1e7 }),
  row(2, 'vnsnap', { 'rtt.8.p50': 80, tcp: 1e7 }),
]
const after = [
  row(1, 'snapswitch-fast', { 'rtt.8.p50': 40, tcp: 1.5e9, udpLost: 5, hops: 3 }),
  row(2, 'snapswitch-fast', { 'rtt.8.p50': 44, tcp: 2.5e9, udpLost: 6 }),
  row(1, 'vnsnap', { 'rtt.8.p50': 30, tcp: 1.01e7 }),
  row(2, 'vnsnap', { 'rtt.8.p50': 30, tcp: 1.02e7 }),
]

function directoryFor(t: { teardown(end: () => void): void }): string {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-report-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return directory
}

t.test('what changed: only where the ranges do not meet; the worse comes first', async (t) => {
  const directory = directoryFor(t)
  const [old, recent] = [join(directory, 'old.json.gz'), join(directory, 'new.json.gz')]
  writeRaw(reportOf(before), before, old)
  writeRaw(reportOf(after, 9), after, recent)
  const [then, now] = [readResults(old), readResults(recent)]
  const { changes, compared, withoutRange } = compareResults(then, now)
  t.same(
    changes.map(({ subject, figure, isBetter }) => [subject, figure, isBetter]),
    [
      ['snapswitch-fast', 'udpLost', false],
      ['snapswitch-fast', 'rtt.8.p50', false],
      ['vnsnap', 'rtt.8.p50', true],
    ],
  )
  t.equal(compared, 6)
  t.equal(withoutRange, 1)
  t.same(compareResults(then, then).changes, [])
  t.equal(chanceApart(2, 2), 1 / 3)
  t.equal(chanceApart(4, 4), 2 / 70)
  t.match(differences(then, now), ['not quiet: load 0.1 before the older run, 9 before the newer'])
})

t.test('values far apart are on a logarithmic axis, others are bars from zero; the aim is a line', async (t) => {
  const plotRow = (value: number) => ({ label: 'a<b', value, low: value, high: value, text: '1', isOwn: false })
  const near = axisOf([10, 20], 0, 100)
  t.notOk(near.isLogarithmic)
  t.equal(near.at(10), 50)
  t.same(near.ticks, [0, 5, 10, 15, 20])
  t.same(roundTicks(0.07), [0, 0.02, 0.04, 0.06])
  t.same(roundTicks(0), [])
  const far = axisOf([1, 1000], 0, 90)
  t.ok(far.isLogarithmic)
  t.equal(Math.round(far.at(100)), 60)
  t.equal(far.at(0), 0)
  t.equal(axisOf([10, 20], 100, 0).at(20), 0, 'upward')
  t.notOk(axisOf([0, 0], 0, 100).isLogarithmic)
  const plot = { title: 't', unit: '', better: 'less' as const, rows: [plotRow(0), plotRow(7)], aim: 5 }
  t.match(svgOf(plot), 'a&lt;b')
  t.match(svgOf(plot), 'class="aim"')
  t.notMatch(svgOf({ ...plot, aim: null }), 'class="aim"')
  t.notMatch(svgOf(plot), 'NaN')
})

t.test('curves, and where they bend', async (t) => {
  const points = (...values: number[]) =>
    values.map((value, index) => ({ x: 2 ** (index + 1), value, low: value, high: value }))
  t.equal(bendOf(points(100, 95, 104)), 'level from 2 to 8')
  t.equal(bendOf(points(100, 98, 50)), 'level to 4, bends behind it, × 0.50 from 2 to 8')
  t.equal(bendOf(points(10, 20, 40)), 'rises from 2 on, × 4.0 from 2 to 8')
  t.equal(bendOf(points(0, 0)), 'level from 2 to 4')
  t.equal(bendOf(points(1)), '')
  const curve = { title: 't<', unit: 'ms', better: 'less' as const, along: 'ports', why: '' }
  const series = [
    { label: 'a<', tone: 0, points: points(1, 2, 300) },
    { label: 'b', tone: 1, points: points(0, 0, 0) },
  ]
  const svg = curveSvg({ ...curve, series })
  t.match(svg, 'a&lt;')
  t.notMatch(svg, 'NaN')
  t.notMatch(curveSvg({ ...curve, series: [{ label: 'one', tone: 0, points: points(5) }] }), 'NaN')
})

t.test('the page is whole in itself and says what makes its figures mean less', async (t) => {
  const directory = directoryFor(t)
  writeResults(vnsnapBench, reportOf(before, 7), directory)
  const file = join(directory, 'report.html')
  writeReport(directory, file)
  const page = readFileSync(file, 'utf8')
  t.notMatch(page, /(src|href)="https?:/)
  t.notMatch(page, /<script|@import|url\(/)
  t.match(page, '&lt;x&gt;, 2 cores')
  t.match(page, 'load was 7 before the run')
  t.match(page, 'rttP50.<wbr>vsVnsnap')
  t.match(page, 'not measured', 'what was to be reached and was not measured is told')
  t.match(page, 'emulated (TCG)')
  t.match(page, 'ovs-kernel was not measured: no module')
  t.match(page, 'prefers-color-scheme: dark')
  t.match(page, '@media print')
  t.notMatch(page, 'undefined')
  t.notMatch(page, 'NaN')
  t.throws(() => writeReport(join(directory, 'none'), file), /no results/)
  writeFileSync(join(directory, 'other.json'), '{"format":1}')
  t.throws(() => readResults(join(directory, 'other.json')), /no results of scripts\/bench/)
  t.throws(() => readResults(join(directory, 'missing.json')), /missing.json/)
})

t.test('the results that are kept make a page', async (t) => {
  const all = readAll(join(projectRoot, 'bench', 'results'))
  t.ok(all.some(({ bench }) => bench === 'forwarding'))
  t.ok(all.every((results) => plotsOf(results).length > 0))
  t.ok(all.every((results) => Array.isArray(cautions(results))))
  t.match(htmlReport(all, new Map()), /<svg/)
})

t.test('the figures of the README are those of the results', async (t) => {
  const results = join(projectRoot, 'bench', 'results')
  const text = readFileSync(join(projectRoot, 'README.md'), 'utf8')
  const made = withFigures(text, readmeFigures(readAll(results)))
  t.ok(made !== null, 'the README has the marks')
  // Before the first run of all benches there is nothing to agree with.
  if (existsSync(join(results, 'all.json'))) t.equal(made, text, 'else: scripts/bench report --readme')
  t.equal(withFigures(made!, readmeFigures(readAll(results))), made)
  t.equal(withFigures('no marks', ''), null)
})

t.test('a quick run goes to a directory of its own; a run with so many minutes does not', async (t) => {
  t.match(readOptions(['--quick', '--report']).results, /results\/quick$/)
  t.match(readOptions(['--minutes', '35']), { minutes: 35, results: /bench\/results$/ })
  t.match(readOptions([]).report, /bench\/results\/report\.html$/)
  for (const wrong of [['--nothing'], ['--minutes', '1'], ['--minutes', 'x'], ['--rounds', '0']])
    t.throws(() => readOptions(wrong), wrong.join(' '))
})

t.test('each bench has its share of the time that is left', async (t) => {
  t.equal(shareMs([{ weight: 1 }, { weight: 3 }], 1000), 250)
  t.equal(shareMs([{ weight: 3 }], 1000), 1000)
  t.equal(shareMs([{ weight: 3 }], -5), 0)
})

t.test('a run of all makes no more rounds of a bench than that makes by itself', async (t) => {
  t.equal(roundsOf('vnsnap', '4'), '4')
  t.equal(roundsOf('stores', '4'), '1', 'a round of it is four snapshots of each system')
  t.equal(roundsOf('stores', 'many'), 'many', 'for the bench to refuse')
})

t.test('what was to be reached is told of all benches, measured or not', async (t) => {
  const directory = directoryFor(t)
  writeResults(vnsnapBench, reportOf(before), directory)
  const promises = promisesOf(directory, '2026-11-26')
  t.match(promises['rttP50.vsVnsnap'], {
    bench: 'vnsnap',
    value: 0.28,
    reached: true,
    rounds: 2,
    machine: { loadBefore: 0.1 },
  })
  t.match(promises['tcpGap.vsVnsnap'], { value: null, reached: null, aim: 'at most 0.1' })
  t.notOk('rttTwoHostsP50.vsVnsnap' in promises)
  t.match(promises['tcp.vsBridge'], { bench: 'forwarding', value: null, machine: null, aim: 'at least 1' })
  t.match(promises['snapshot.downtimeP99Ms'], { value: null, rounds: 0, aim: 'at most 10' })
  t.equal(promisesOf(directory, '2026-11-27')['rttP50.vsVnsnap']?.value, null, 'figures of an earlier run are none')
})
