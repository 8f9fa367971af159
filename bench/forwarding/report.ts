// What a run leaves behind: JSON with every round, a Markdown table of medians, a bar chart.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { barChart, type Panel } from './chart.js'
import {
  type FigureName,
  type Figures,
  figureMeanings,
  mediansOf,
  type Row,
  ratioRules,
  ratiosOf,
  reaches,
} from './figures.js'
import type { Plan } from './run.js'
import { spread } from './statistics.js'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly kernel: string
  readonly node: string
  /** Load of the last minute when the run began: other work on the machine shows here. */
  readonly loadBefore: number
}

export interface SubjectNote {
  readonly id: string
  readonly title: string
  readonly setup: string
  readonly version: string
}

export interface Report {
  readonly format: 1
  readonly date: string
  readonly minutes: number
  readonly machine: Machine
  readonly plan: Omit<Plan, 'subjects'>
  readonly subjects: readonly SubjectNote[]
  readonly figures: typeof figureMeanings
  readonly rounds: readonly Row[]
  readonly medians: Readonly<Record<string, Figures>>
  readonly ratios: Readonly<Record<string, number>>
}

export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadBefore: Number(loadavg()[0]!.toFixed(2)),
  }
}

export function makeReport(parts: {
  started: Date
  machine: Machine
  plan: Plan
  notes: readonly SubjectNote[]
  rows: readonly Row[]
}): Report {
  const { subjects: _, ...plan } = parts.plan
  const medians = mediansOf(parts.rows)
  return {
    format: 1,
    date: parts.started.toISOString(),
    minutes: Number(((Date.now() - parts.started.getTime()) / 60_000).toFixed(1)),
    machine: parts.machine,
    plan,
    subjects: parts.notes,
    figures: figureMeanings,
    rounds: parts.rows,
    medians: Object.fromEntries(medians),
    ratios: ratiosOf(medians),
  }
}

type Column = readonly [head: string, figure: FigureName, show: (value: number) => string]

const thousands = (value: number) => (value / 1e3).toFixed(0)
const gigabits = (value: number) => (value / 1e9).toFixed(2)
const whole = (value: number) => value.toFixed(0)
const tenths = (value: number) => value.toFixed(1)
const hundredths = (value: number) => value.toFixed(2)
const percent = (value: number) => `${(value * 100).toFixed(1)} %`

const tables: readonly (readonly [title: string, columns: readonly Column[]])[] = [
  [
    'Frames, thousands a second, one host',
    [
      ['60 B', 'pps60', thousands],
      ['512 B', 'pps512', thousands],
      ['1514 B', 'pps1514', thousands],
      ['60 B, no loss', 'pps60Lossless', thousands],
      ['512 B, no loss', 'pps512Lossless', thousands],
      ['1514 B, no loss', 'pps1514Lossless', thousands],
      ['offered at 60 B', 'offered60', thousands],
      ['60 B, two hosts', 'pps60TwoHosts', thousands],
    ],
  ],
  [
    'Bulk TCP, one flow, Gbit/s',
    [
      ['one host', 'tcp', gigabits],
      ['retransmits', 'tcpRetransmits', whole],
      ['two hosts', 'tcpTwoHosts', gigabits],
      ['retransmits', 'tcpTwoHostsRetransmits', whole],
    ],
  ],
  [
    'UDP round trip, microseconds',
    [
      ['idle p50', 'rttIdleP50', tenths],
      ['idle p99', 'rttIdleP99', tenths],
      ['one a ms, p50', 'rttPacedP50', tenths],
      ['one a ms, p99', 'rttPacedP99', tenths],
      ['beside frames p50', 'rttLoadedP50', tenths],
      ['beside frames p99', 'rttLoadedP99', tenths],
      ['beside TCP p50', 'rttTcpP50', tenths],
      ['beside TCP p99', 'rttTcpP99', tenths],
    ],
  ],
  [
    'CPU seconds per million frames of 60 bytes, and order',
    [
      ['saturated: switch', 'cpuProcess', hundredths],
      ['saturated: machine', 'cpuMachine', hundredths],
      ['50 k/s: switch', 'cpuProcessLight', hundredths],
      ['50 k/s: machine', 'cpuMachineLight', hundredths],
      ['idle, share of a core', 'cpuIdle', percent],
      ['lost in order check', 'orderLost', whole],
      ['doubled or overtaken', 'orderLate', whole],
    ],
  ],
]

export function markdown(report: Report): string {
  const { machine, plan } = report
  const lines = [
    '# Forwarding: figures of one run',
    '',
    `${report.date.slice(0, 16).replace('T', ' ')} UTC, ${report.minutes} minutes, ${plan.rounds} rounds. Medians; in brackets half the range over the rounds.`,
    '',
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, Linux ${machine.kernel}, Node ${machine.node}; load before the run ${machine.loadBefore}.`,
    '',
    `One host: endpoints on core ${plan.oneHost.sender}, switch on core ${plan.oneHost.switch}. Two hosts: all on cores ${plan.twoHosts.switch}, placed by the scheduler.`,
    '',
  ]
  for (const [title, columns] of tables) {
    const used = columns.filter(([, figure]) => report.rounds.some((row) => row.figures[figure] !== undefined))
    if (used.length === 0) continue
    const shown = report.subjects.filter((subject) =>
      used.some(([, figure]) => report.medians[subject.id]?.[figure] !== undefined),
    )
    lines.push(`## ${title}`, '')
    lines.push(`| subject | ${used.map(([head]) => head).join(' | ')} |`)
    lines.push(`|---|${used.map(() => '---:|').join('')}`)
    for (const subject of shown)
      lines.push(
        `| ${subject.title} | ${used.map(([, figure, show]) => cell(report, subject.id, figure, show)).join(' | ')} |`,
      )
    lines.push('')
  }
  if (Object.keys(report.ratios).length > 0) {
    lines.push('## Ratios (of medians)', '', '| ratio | value | to reach | reached |', '|---|---:|---:|---|')
    for (const [key, value] of Object.entries(report.ratios)) {
      const reach = ratioRules[key]?.reach
      const wanted =
        reach === undefined ? '' : reach.least === undefined ? `at most ${reach.most}` : `at least ${reach.least}`
      const reached = reaches(key, value)
      lines.push(`| ${key} | ${value.toFixed(3)} | ${wanted} | ${reached === null ? '' : reached ? 'yes' : 'no'} |`)
    }
    lines.push('')
  }
  lines.push('## Subjects', '')
  for (const subject of report.subjects) lines.push(`- **${subject.title}** (${subject.version}): ${subject.setup}`)
  const failures = report.rounds.filter((row) => row.error !== null)
  if (failures.length > 0) {
    lines.push('', '## Failed', '')
    for (const row of failures) lines.push(`- round ${row.round}, ${row.subject}: ${row.error!.split('\n')[0]}`)
  }
  return `${lines.join('\n')}\n`
}

function cell(report: Report, subject: string, figure: FigureName, show: (value: number) => string): string {
  const values = report.rounds
    .filter((row) => row.subject === subject)
    .map((row) => row.figures[figure])
    .filter((value) => value !== undefined)
  if (values.length === 0) return ''
  const middle = show(report.medians[subject]![figure]!)
  return values.length > 1 && middle !== '0' ? `${middle} (±${Math.round(spread(values) * 100)} %)` : middle
}

const charted: readonly (readonly [title: string, figure: FigureName, show: (value: number) => string])[] = [
  ['60-byte frames delivered, saturated (thousands a second)', 'pps60', (value) => `${thousands(value)} k`],
  ['Bulk TCP, one host (Gbit/s)', 'tcp', gigabits],
  ['Bulk TCP, two switches in series (Gbit/s)', 'tcpTwoHosts', gigabits],
  ['UDP round trip, idle, median (us; shorter is better)', 'rttIdleP50', (value) => `${tenths(value)} us`],
  [
    'CPU of the whole machine per million 60-byte frames at 50 k/s (s; shorter is better)',
    'cpuMachineLight',
    hundredths,
  ],
]

export function chart(report: Report): string {
  const panels = charted
    .map(
      ([title, figure, show]): Panel => ({
        title,
        bars: report.subjects.flatMap((subject) => {
          const value = report.medians[subject.id]?.[figure]
          if (value === undefined) return []
          return [{ label: subject.title, value, text: show(value), accent: subject.id.startsWith('snapswitch') }]
        }),
      }),
    )
    .filter((panel) => panel.bars.length > 0)
  return barChart(`Forwarding, medians of ${report.plan.rounds} rounds, ${report.date.slice(0, 10)}`, panels)
}

/** Writes forwarding.json, without the raw rounds, forwarding.md and forwarding.svg. */
export function writeResults(report: Report, directory: string): void {
  mkdirSync(directory, { recursive: true })
  const { rounds: _, ...figures } = report
  writeFileSync(join(directory, 'forwarding.json'), `${JSON.stringify(figures, null, 1)}\n`)
  writeFileSync(join(directory, 'forwarding.md'), markdown(report))
  writeFileSync(join(directory, 'forwarding.svg'), chart(report))
}

/** Reads a report that an earlier run wrote with --json, to render it again. */
export function readReport(file: string): Report {
  const report = JSON.parse(readFileSync(file, 'utf8')) as Report
  if (report.format !== 1) throw new Error(`${file}: no report of format 1`)
  return report
}
