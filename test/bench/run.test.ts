// What all benches share: medians, ratios against the best of a peer's settings, rounds that fit into a time, reports.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { type RatioRules, summarize, tellRatios, valuesOf } from '../../bench/run/ratios.js'
import { type Bench, makeReport, markdown, readReport, writeRaw, writeResults } from '../../bench/run/report.js'
import { Rounds } from '../../bench/run/rounds.js'
import { figure, type Row } from '../../bench/run/rows.js'

const row = (round: number, subject: string, figures: Row['figures'], error: string | null = null): Row => ({
  part: 'network',
  round,
  subject,
  figures,
  error,
})

const rows = [
  row(1, 'own', { rtt: 30, tcp: 9e9, lost: 0 }),
  row(2, 'own', { rtt: 20, tcp: 12e9, lost: 0 }),
  row(3, 'own', { rtt: 25, tcp: Number.NaN }),
  row(1, 'peer', { rtt: 80, tcp: 1e9 }),
  row(1, 'peer-tuned', { rtt: 50, tcp: 2e9, nothing: 0 }),
  row(2, 'peer-tuned', {}, 'no namespace\nmore'),
]

const peers = ['peer', 'peer-tuned']
const rules: RatioRules = {
  'rtt.vsPeer': { of: 'own', figure: 'rtt', peers, better: 'less', reach: { most: 0.5 } },
  'tcp.vsPeer': { of: 'own', figure: 'tcp', peers, better: 'more', reach: { least: 6 } },
  lost: { of: 'own', figure: 'lost', peers: [], better: 'less', reach: { most: 0 } },
  'rtt.vsNobody': { of: 'own', figure: 'rtt', peers: ['nobody'], better: 'less', reach: { most: 1 } },
  'context.vsPeer': { of: 'own', figure: 'rtt', peers: ['peer'], better: 'less' },
}

const bench: Bench = {
  kind: 'trial',
  title: 'Trial',
  tables: [
    {
      title: 'T',
      figures: [
        figure('rtt', 'round trip', 'us', 'less'),
        figure('tcp', 'TCP', 'Gbit/s', 'more', 1e9, 2),
        figure('lost', 'lost', '', 'less', 1, 0),
      ],
    },
  ],
  ratios: rules,
  plots: ['rtt'],
}

t.test('medians with their range, without what is not a number', async (t) => {
  const summaries = summarize(rows)
  t.same(summaries.own?.rtt, { median: 25, low: 20, high: 30, count: 3 })
  t.equal(summaries.own?.tcp?.count, 2)
})

t.test('a ratio is against the best of the peers, with the range of single rounds', async (t) => {
  const told = tellRatios(rules, rows)
  t.match(told['rtt.vsPeer'], { value: 0.5, peer: 'peer-tuned', low: 0.6, high: 0.6, rounds: 1, reached: true })
  t.match(told['tcp.vsPeer'], { value: 5.25, peer: 'peer-tuned', aim: 'at least 6', reached: false })
  t.match(told.lost, { value: 0, peer: null, low: 0, high: 0, rounds: 2, reached: true })
  t.match(told['rtt.vsNobody'], { value: null, aim: 'at most 1', reached: null }, 'what was not measured is told too')
  t.match(told['context.vsPeer'], { aim: '', reached: null })
  t.same(valuesOf(told), { 'rtt.vsPeer': 0.5, 'tcp.vsPeer': 5.25, lost: 0, 'context.vsPeer': 0.3125 })
})

const machine = { cpu: 'x', cores: 2, memoryBytes: 2 ** 34, kernel: '6', node: 'v20', loadBefore: 7, busyBefore: 1.5 }
const facts = {
  date: '2026-11-26T21:00:00.000Z',
  minutes: 1,
  command: 'scripts/bench trial',
  quick: false,
  budget: 3,
  whole: false,
  machine,
  loadAfter: 8,
  accelerator: 'TCG (emulated)',
  subjects: [{ id: 'own', title: 'our own', setup: 's', version: 'v' }],
  absent: [{ id: 'ovs-kernel', why: 'no module' }],
}
const parts = [{ part: 'network', wanted: 5, rounds: 2, minutes: 1, load: 7, busyCores: 1.5, missing: ['cable'] }]

t.test('a report comes back from its files, small or raw, and says what limits it', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-run-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const report = makeReport(bench, facts, rows, parts)
  t.equal(report.failures[0]?.error, 'no namespace')
  writeResults(bench, report, directory)
  writeRaw(report, rows, join(directory, 'raw.json.gz'))
  t.same(readReport(join(directory, 'trial.json'), bench), report)
  t.same(readReport(join(directory, 'raw.json.gz'), bench), report)
  t.throws(() => readReport(join(directory, 'trial.json'), { kind: 'other' }), /not written by scripts\/bench other/)
  const text = readFileSync(join(directory, 'trial.md'), 'utf8')
  t.equal(text, markdown(bench, report))
  for (const said of [
    'before the run load 7, 1.5 cores busy',
    '| rtt.vsPeer | 0.5 | 1 | peer-tuned | at most 0.5 | yes |',
    '| rtt.vsNobody | not measured | 0 |  | at most 1 |  |',
    '- ovs-kernel was not measured: no module.',
    '- The run had 3 minutes',
    '- The run ended before its end',
    '- network: no time was left for cable.',
    '- network: others kept 1.5 of 2 cores busy before it (load 7).',
    '- peer-tuned, network, round 2 failed: no namespace',
    '| round trip, us | 25.0 (20.0–30.0) |',
  ])
    t.match(text, said)
  for (const table of text.split('\n\n').filter((block) => block.startsWith('|'))) {
    const widths = table
      .trim()
      .split('\n')
      .map((line) => line.split('|').length)
    t.equal(new Set(widths).size, 1, 'all rows of a table have the same number of cells')
  }
})

const subject = (id: string) => ({ id, title: id })
const three = ['a', 'b', 'c'].map(subject)

t.test('rounds over subjects in turn, each beginning with another; every row is kept at once', async (t) => {
  const kept: number[] = []
  const rounds = new Rounds({ say: () => undefined, save: (all) => kept.push(all.length) })
  await rounds.inTurn({ part: 'p', rounds: 2 }, three, async ({ id }, figures) => {
    figures.x = 1
    if (id === 'b') throw new Error('broken')
    figures.y = 2
  })
  t.same(
    rounds.rows.map(({ subject, round, error }) => [subject, round, error]),
    [
      ['a', 1, null],
      ['b', 1, 'broken'],
      ['c', 1, null],
      ['b', 2, 'broken'],
      ['c', 2, null],
      ['a', 2, null],
    ],
  )
  t.same(rounds.rows[1]?.figures, { x: 1 }, 'what was measured before a failure stays')
  t.same(kept, [1, 2, 3, 4, 5, 6, 6])
  t.match(rounds.notes, [{ part: 'p', rounds: 2, wanted: 2, missing: [] }])
})

t.test('with little time: whole rounds as they fit, or the first subjects; what is missing is named', async (t) => {
  const course = (now: () => number) => ({ now, say: () => undefined, save: () => undefined })
  let clock = 0
  const tenEach = async () => {
    clock += 10
  }
  const made = async (untilMs: number) => {
    clock = 0
    const rounds = new Rounds(course(() => clock))
    await rounds.inTurn({ part: 'p', rounds: 5, untilMs }, three, tenEach)
    return rounds.notes[0]!
  }
  t.match(await made(0), { rounds: 0, missing: ['b', 'c'] })
  t.match(await made(25), { rounds: 0, missing: ['c'] })
  t.match(await made(30), { rounds: 1, missing: [] })
  t.match(await made(89), { rounds: 2, missing: [] })
  t.match(await made(10_000), { rounds: 5, missing: [] })
  clock = 0
  const rounds = new Rounds(course(() => clock))
  const costly = [subject('a'), { ...subject('b'), cost: 5 }, subject('c')]
  await rounds.inTurn({ part: 'p', rounds: 1, untilMs: 50 }, costly, tenEach)
  t.match(rounds.notes, [{ missing: ['b'] }], 'one that takes longer than there is time is not begun')
})
