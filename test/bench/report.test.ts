// The report of all benches, and the comparison of two runs.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { projectRoot } from '../../bench/lab/project.js'
import { compareResults, differences } from '../../bench/report/compare.js'
import { cautions, htmlReport, plotsOf } from '../../bench/report/html.js'
import { readOptions, writeReport } from '../../bench/report/main.js'
import { axisOf, svgOf } from '../../bench/report/plot.js'
import { readAll, readResults } from '../../bench/report/read.js'
import { makeReport, writeRaw, writeResults } from '../../bench/vnsnap/report.js'
import type { Row } from '../../bench/vnsnap/rows.js'

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
    {
      kind: 'vnsnap',
      date: '2026-11-26T21:00:00.000Z',
      minutes: 1,
      command: 'scripts/bench vnsnap',
      quick: false,
      rounds: 2,
      machine: { ...machine, loadBefore },
      loadAfter: 1,
      accelerator: 'TCG (emulated)',
      subjects: [note('snapswitch'), note('vnsnap')],
      absent: [{ id: 'ovs-kernel', why: 'no module' }],
    },
    rows,
  )

const before = [
  row(1, 'snapswitch', { 'rtt.8.p50': 20, tcp: 1e9, udpLost: 0, hops: 2 }),
  row(2, 'snapswitch', { 'rtt.8.p50': 22, tcp: 2e9, udpLost: 0 }),
  row(1, 'vnsnap', { 'rtt.8.p50': 70, tcp: 1e7 }),
  row(2, 'vnsnap', { 'rtt.8.p50': 80, tcp: 1e7 }),
]
const after = [
  row(1, 'snapswitch', { 'rtt.8.p50': 40, tcp: 1.5e9, udpLost: 5, hops: 3 }),
  row(2, 'snapswitch', { 'rtt.8.p50': 44, tcp: 2.5e9, udpLost: 6 }),
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
      ['snapswitch', 'udpLost', false],
      ['snapswitch', 'rtt.8.p50', false],
      ['vnsnap', 'rtt.8.p50', true],
    ],
  )
  t.equal(compared, 6)
  t.equal(withoutRange, 1)
  t.same(compareResults(then, then).changes, [])
  t.match(differences(then, now), ['not quiet: load 0.1 before the older run, 9 before the newer'])
})

t.test('values far apart are on a logarithmic axis, others are bars from zero', async (t) => {
  const plotRow = (value: number) => ({ label: 'a<b', value, low: value, high: value, text: '1', isOwn: false })
  const near = axisOf([plotRow(10), plotRow(20)], 0, 100)
  t.notOk(near.isLogarithmic)
  t.equal(near.at(10), 50)
  const far = axisOf([plotRow(1), plotRow(1000)], 0, 90)
  t.ok(far.isLogarithmic)
  t.equal(Math.round(far.at(100)), 60)
  t.equal(far.at(0), 0)
  t.notOk(axisOf([plotRow(0), plotRow(0)], 0, 100).isLogarithmic)
  const svg = svgOf({ title: 't', unit: '', better: 'less', rows: [plotRow(0), plotRow(7)] })
  t.match(svg, 'a&lt;b')
  t.notMatch(svg, 'NaN')
})

t.test('the page is whole in itself and says what makes its figures mean less', async (t) => {
  const directory = directoryFor(t)
  writeResults(reportOf(before, 7), directory)
  const file = join(directory, 'report.html')
  writeReport(directory, file)
  const page = readFileSync(file, 'utf8')
  t.notMatch(page, /(src|href)="https?:/)
  t.notMatch(page, /<script|@import|url\(/)
  t.match(page, '&lt;x&gt;, 2 cores')
  t.match(page, 'load was 7 before the run')
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

t.test('a quick run goes to a directory of its own', async (t) => {
  t.match(readOptions(['--quick', '--report']).results, /results\/quick$/)
  t.match(readOptions([]).report, /bench\/results\/report\.html$/)
  t.throws(() => readOptions(['--nothing']))
})
