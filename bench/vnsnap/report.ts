// What a run of `scripts/bench vnsnap` leaves: small JSON and Markdown of medians with their spread; raw rows,
// compressed, apart from them.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import type { Machine, SubjectNote } from '../forwarding/report.js'
import type { BenchOptions } from '../options.js'
import { aimOf, ratiosOf, reaches, type Summaries, summarize } from './figures.js'
import { type Figure, type Row, tables } from './rows.js'

export type Kind = 'vnsnap' | 'growth'

const titles: Readonly<Record<Kind, string>> = {
  vnsnap: 'VNsnap, UnaCloud and the rest: figures of one run',
  growth: 'Growth: figures of one run',
}

export interface Report {
  readonly format: 1
  readonly kind: Kind
  readonly date: string
  readonly minutes: number
  readonly command: string
  readonly quick: boolean
  readonly rounds: number
  readonly machine: Machine
  /** Of the last minute, when the run ended: the run itself is in it. */
  readonly loadAfter: number
  readonly accelerator: string
  readonly subjects: readonly SubjectNote[]
  /** Subjects that this machine cannot have, and why. */
  readonly absent: readonly { readonly id: string; readonly why: string }[]
  readonly failures: readonly {
    readonly subject: string
    readonly part: string
    readonly round: number
    readonly error: string
  }[]
  readonly summaries: Summaries
  readonly ratios: Readonly<Record<string, number>>
}

export function makeReport(
  parts: Omit<Report, 'format' | 'failures' | 'summaries' | 'ratios'>,
  rows: readonly Row[],
): Report {
  const summaries = summarize(rows)
  const failures = rows.flatMap(({ subject, part, round, error }) =>
    error === null ? [] : [{ subject, part, round, error: error.split('\n')[0]! }],
  )
  return { format: 1, ...parts, failures, summaries: rounded(summaries), ratios: ratiosOf(summaries) }
}

const significant = (value: number) => Number(value.toPrecision(5))

function rounded(summaries: Summaries): Summaries {
  return Object.fromEntries(
    Object.entries(summaries).map(([subject, figures]) => [
      subject,
      Object.fromEntries(
        Object.entries(figures).map(([name, { median, low, high, count }]) => [
          name,
          { median: significant(median), low: significant(low), high: significant(high), count },
        ]),
      ),
    ]),
  )
}

export function shown(figure: Figure, value: number): string {
  return (value / figure.scale).toFixed(figure.digits)
}

export function markdown(report: Report): string {
  const { machine } = report
  const title = new Map(report.subjects.map(({ id, title }) => [id, title]))
  const lines = [
    `# ${titles[report.kind]}`,
    '',
    `${report.date.slice(0, 16).replace('T', ' ')} UTC, ${report.minutes} minutes, ${report.rounds} rounds${report.quick ? ' of short trials (a look, not a result)' : ''}.` +
      ' Medians; in brackets the lowest and the highest round.',
    '',
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, Linux ${machine.kernel}, Node ${machine.node};` +
      ` virtual machines by ${report.accelerator}; load before the run ${machine.loadBefore}, after it ${report.loadAfter}.`,
    '',
    `Made by \`${report.command}\`. What the baselines are, and what was assumed of them: [bench/vnsnap](../vnsnap/README.md).`,
    '',
  ]
  for (const table of tables) {
    const present = table.figures.filter((figure) =>
      Object.values(report.summaries).some((figures) => figures[figure.name] !== undefined),
    )
    const subjects = Object.keys(report.summaries).filter((id) =>
      present.some(({ name }) => report.summaries[id]![name] !== undefined),
    )
    if (present.length === 0) continue
    lines.push(`## ${table.title}`, '', `| | ${subjects.map((id) => title.get(id) ?? id).join(' | ')} |`)
    lines.push(`|---|${subjects.map(() => '---:|').join('')}`)
    for (const figure of present) {
      const cells = subjects.map((id) => {
        const summary = report.summaries[id]![figure.name]
        if (summary === undefined) return ''
        const middle = shown(figure, summary.median)
        const range = [shown(figure, summary.low), shown(figure, summary.high)]
        return summary.count > 1 && range.some((end) => end !== middle) ? `${middle} (${range.join('–')})` : middle
      })
      lines.push(`| ${figure.text}${figure.unit === '' ? '' : `, ${figure.unit}`} | ${cells.join(' | ')} |`)
    }
    lines.push('')
  }
  if (Object.keys(report.ratios).length > 0) {
    lines.push(
      '## Ratios (of medians; each peer in its best setting)',
      '',
      '| ratio | value | aim | reached |',
      '|---|---:|---|---|',
    )
    for (const [key, value] of Object.entries(report.ratios)) {
      const reached = reaches(key, value)
      lines.push(`| ${key} | ${value} | ${aimOf(key)} | ${reached === null ? '' : reached ? 'yes' : 'no'} |`)
    }
    lines.push('')
  }
  lines.push('## Subjects', '')
  for (const { title: name, setup, version } of report.subjects)
    lines.push(`- **${name}**${version === '' ? '' : ` (${version})`}: ${setup}`)
  for (const { id, why } of report.absent) lines.push(`- ${id}: not measured, ${why}`)
  for (const { subject, part, round, error } of report.failures)
    lines.push(`- failed: ${subject}, ${part}, round ${round}: ${error}`)
  return `${lines.join('\n')}\n`
}

export function writeResults(report: Report, directory: string): void {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, `${report.kind}.json`), `${JSON.stringify(report, null, 1)}\n`)
  writeFileSync(join(directory, `${report.kind}.md`), markdown(report))
}

/** What a run ends with: the files that its options ask for, its tables on stdout, its exit code. */
export function finish(report: Report, rows: readonly Row[], options: BenchOptions): number {
  if (options.json?.endsWith('.gz')) writeRaw(report, rows, options.json)
  else if (options.json !== null) writeFileSync(options.json, `${JSON.stringify({ report, rows }, null, 1)}\n`)
  if (options.results !== null) {
    writeResults(report, options.results)
    const raw = join(options.results, 'raw')
    mkdirSync(raw, { recursive: true })
    writeRaw(report, rows, join(raw, `${report.kind}-${report.date.slice(0, 19).replaceAll(':', '')}.json.gz`))
  }
  process.stdout.write(markdown(report))
  return report.failures.length > 0 ? 1 : 0
}

/** Raw rows beside the report that was made of them; `bench/results/raw` is not in git. */
export function writeRaw(report: Report, rows: readonly Row[], file: string): void {
  writeFileSync(file, gzipSync(JSON.stringify({ report, rows })))
}

export function readReport(file: string): Report {
  const bytes = readFileSync(file)
  const isCompressed = bytes[0] === 0x1f && bytes[1] === 0x8b
  const value = JSON.parse((isCompressed ? gunzipSync(bytes) : bytes).toString('utf8')) as Report | { report: Report }
  const report = 'report' in value ? value.report : value
  if (report.format !== 1 || titles[report.kind] === undefined)
    throw new Error(`${file} was not written by scripts/bench vnsnap or growth`)
  return report
}
