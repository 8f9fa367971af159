// What a run leaves: small JSON and Markdown of medians with their range; raw rows, compressed, apart from them. It is
// written after each row, so that a run that is killed has all but its last one.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { load, type Machine } from './machine.js'
import type { BenchOptions } from './options.js'
import { type RatioRules, summarize, type Told, tellRatios, valuesOf } from './ratios.js'
import { type PartNote, Rounds } from './rounds.js'
import { type Figure, type Row, type SubjectNote, type Summaries, shown, type Table } from './rows.js'

/** What a bench is: how its results are named, shown, and judged. */
export interface Bench {
  readonly kind: string
  readonly title: string
  readonly tables: readonly Table[]
  readonly ratios: RatioRules
  /** Figures that are plotted, in this order. */
  readonly plots: readonly string[]
  /** A line for whoever reads its tables. */
  readonly note?: string
}

export interface Report {
  readonly format: 1
  readonly kind: string
  readonly date: string
  readonly minutes: number
  readonly command: string
  readonly quick: boolean
  /** Minutes that the run had; null: as many as it takes. */
  readonly budget: number | null
  /** False: the run ended before its end, or still goes on. */
  readonly whole: boolean
  readonly machine: Machine
  /** Of the last minute, when the run ended: the run itself is in it. */
  readonly loadAfter: number
  /** Of virtual machines; empty where there are none. */
  readonly accelerator: string
  readonly parts: readonly PartNote[]
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
  /** The same with aim, range and rounds; those without a value too. */
  readonly told: Readonly<Record<string, Told>>
}

export type Facts = Omit<Report, 'format' | 'kind' | 'parts' | 'failures' | 'summaries' | 'ratios' | 'told'>

export function makeReport(
  { kind, ratios: rules }: Pick<Bench, 'kind' | 'ratios'>,
  facts: Facts,
  rows: readonly Row[],
  parts: readonly PartNote[] = [],
): Report {
  const failures = rows.flatMap(({ subject, part, round, error }) =>
    error === null ? [] : [{ subject, part, round, error: error.split('\n')[0]! }],
  )
  const told = tellRatios(rules, rows)
  const summaries = rounded(summarize(rows))
  return { format: 1, kind, ...facts, parts, failures, summaries, ratios: valuesOf(told), told }
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

/** A run while it goes on: its rows, and what is kept of them. */
export class Run {
  readonly rounds: Rounds
  readonly #bench: Bench
  readonly #options: BenchOptions
  readonly #facts: () => Omit<Facts, 'minutes' | 'loadAfter' | 'whole' | 'quick' | 'budget' | 'date'>
  readonly #started: Date

  constructor(
    bench: Bench,
    options: BenchOptions,
    { started, say }: { readonly started: Date; say(line: string): void },
    facts: () => Omit<Facts, 'minutes' | 'loadAfter' | 'whole' | 'quick' | 'budget' | 'date'>,
  ) {
    this.#bench = bench
    this.#options = options
    this.#facts = facts
    this.#started = started
    this.rounds = new Rounds({ say, save: (rows, notes) => this.#save(rows, notes, false) })
  }

  #save(rows: readonly Row[], notes: readonly PartNote[], whole: boolean): Report {
    const { quick, minutes: budget, json, results } = this.#options
    const facts: Facts = {
      date: this.#started.toISOString(),
      minutes: Number(((Date.now() - this.#started.getTime()) / 60_000).toFixed(1)),
      quick,
      budget,
      whole,
      loadAfter: load(),
      ...this.#facts(),
    }
    const report = makeReport(this.#bench, facts, rows, notes)
    if (json !== null) writeRaw(report, rows, json)
    if (results !== null) {
      writeResults(this.#bench, report, results)
      const raw = join(results, 'raw')
      mkdirSync(raw, { recursive: true })
      writeRaw(report, rows, join(raw, `${report.kind}-${report.date.slice(0, 19).replaceAll(':', '')}.json.gz`))
    }
    return report
  }

  /** What a run ends with: its files, its tables on stdout, its exit code. */
  finish(): number {
    const report = this.#save(this.rounds.rows, this.rounds.notes, true)
    process.stdout.write(markdown(this.#bench, report))
    return report.failures.length > 0 ? 1 : 0
  }
}

/** Whole or not at all: a reader never meets half a file. */
export function writeWhole(file: string, content: string | Buffer): void {
  writeFileSync(`${file}.new`, content)
  renameSync(`${file}.new`, file)
}

export function writeResults(bench: Bench, report: Report, directory: string): void {
  mkdirSync(directory, { recursive: true })
  writeWhole(join(directory, `${report.kind}.json`), `${JSON.stringify(report, null, 1)}\n`)
  writeWhole(join(directory, `${report.kind}.md`), markdown(bench, report))
}

/** Raw rows beside the report that was made of them; `bench/results/raw` is not in git. */
export function writeRaw(report: Report, rows: readonly Row[], file: string): void {
  writeJson(file, { report, rows })
}

/** Compressed when its name ends in .gz. */
export function writeJson(file: string, content: unknown): void {
  if (file.endsWith('.gz')) writeWhole(file, gzipSync(JSON.stringify(content)))
  // Not by a new name: the file may be /dev/stdout.
  else writeFileSync(file, `${JSON.stringify(content, null, 1)}\n`)
}

/** Also what --json wrote. */
export function readReport(file: string, bench: Pick<Bench, 'kind'>): Report {
  const value = readJson(file) as Report | { report: Report }
  const report = 'report' in value ? value.report : value
  if (report.format !== 1 || report.kind !== bench.kind)
    throw new Error(`${file} was not written by scripts/bench ${bench.kind}`)
  return report
}

/** JSON of a file, compressed or not. */
export function readJson(file: string): unknown {
  const bytes = readFileSync(file)
  const isCompressed = bytes[0] === 0x1f && bytes[1] === 0x8b
  return JSON.parse((isCompressed ? gunzipSync(bytes) : bytes).toString('utf8'))
}

/** What limits a run's figures, in words; nothing for a whole run on a quiet machine. */
export function shortcomings(report: Report): string[] {
  const said: string[] = []
  const { machine, budget } = report
  const failed = report.failures.map(
    ({ subject, part, round, error }) => `${subject}, ${part}, round ${round} failed: ${error}`,
  )
  if (report.quick) said.push('Short trials: a look, not a result.')
  if (!report.whole) said.push('The run ended before its end: what it had measured by then is here.')
  if (budget !== null)
    said.push(`The run had ${Math.round(budget)} minutes: shorter trials, fewer subjects and rounds than a whole run.`)
  for (const { part, missing } of report.parts)
    if (missing.length > 0) said.push(`${part}: no time was left for ${missing.join(', ')}.`)
  const noisy = report.parts.filter(({ busyCores }) => busyCores > 0.2)
  for (const { part, busyCores, load: now } of noisy)
    said.push(`${part}: others kept ${busyCores} of ${machine.cores} cores busy before it (load ${now}).`)
  return [...said, ...report.absent.map(({ id, why }) => `${id} was not measured: ${why}.`), ...failed]
}

export function markdown(bench: Bench, report: Report): string {
  const { machine } = report
  const title = new Map(report.subjects.map(({ id, title }) => [id, title]))
  const rounds = report.parts.map(({ part, rounds }) => `${part} ${rounds}`).join(', ')
  const busy = machine.busyBefore === undefined ? '' : `, ${machine.busyBefore} cores busy`
  const lines = [
    `# ${bench.title}: figures of one run`,
    '',
    `${report.date.slice(0, 16).replace('T', ' ')} UTC, ${report.minutes} minutes. Rounds: ${rounds === '' ? 'none' : rounds}.` +
      ' Medians; in brackets the lowest and the highest round.',
    '',
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, Linux ${machine.kernel}, Node ${machine.node};` +
      `${report.accelerator === '' ? '' : ` virtual machines by ${report.accelerator};`}` +
      ` before the run load ${machine.loadBefore}${busy}; load after it ${report.loadAfter}.`,
    '',
    `Made by \`${report.command}\`.${bench.note === undefined ? '' : ` ${bench.note}`}`,
    '',
    ...shortcomings(report).flatMap((said) => [`- ${said}`]),
    '',
  ]
  for (const table of bench.tables) lines.push(...tableLines(table.title, table.figures, report, title))
  const told = Object.entries(report.told)
  if (told.length > 0) {
    lines.push(
      '## Ratios (of medians; each peer in its best setting)',
      '',
      '| ratio | value | rounds | peer | aim | reached |',
      '|---|---:|---:|---|---|---|',
    )
    for (const [key, { value, low, high, rounds: made, peer, aim, reached }] of told) {
      if (value === null && aim === '') continue
      const shownValue = value === null ? 'not measured' : low === high ? `${value}` : `${value} (${low}–${high})`
      const yes = reached === null ? '' : reached ? 'yes' : 'no'
      lines.push(`| ${key} | ${shownValue} | ${made} | ${peer ?? ''} | ${aim} | ${yes} |`)
    }
    lines.push('')
  }
  lines.push('## Subjects', '')
  for (const { title: name, setup, version } of report.subjects)
    lines.push(`- **${name}**${version === '' ? '' : ` (${version})`}: ${setup}`)
  return `${lines.join('\n').replaceAll('\n\n\n', '\n\n')}\n`
}

function tableLines(
  head: string,
  figures: readonly Figure[],
  report: Report,
  title: ReadonlyMap<string, string>,
): string[] {
  const present = figures.filter(({ name }) =>
    Object.values(report.summaries).some((summaries) => summaries[name] !== undefined),
  )
  if (present.length === 0) return []
  const subjects = Object.keys(report.summaries).filter((id) =>
    present.some(({ name }) => report.summaries[id]![name] !== undefined),
  )
  const rows = present.map((figure) => {
    const cells = subjects.map((id) => {
      const summary = report.summaries[id]![figure.name]
      if (summary === undefined) return ''
      const middle = shown(figure, summary.median)
      const range = [shown(figure, summary.low), shown(figure, summary.high)]
      return summary.count > 1 && range.some((end) => end !== middle) ? `${middle} (${range.join('–')})` : middle
    })
    return `| ${figure.text}${figure.unit === '' ? '' : `, ${figure.unit}`} | ${cells.join(' | ')} |`
  })
  return [
    `## ${head}`,
    '',
    `| | ${subjects.map((id) => title.get(id) ?? id).join(' | ')} |`,
    `|---|${subjects.map(() => '---:|').join('')}`,
    ...rows,
    '',
  ]
}
