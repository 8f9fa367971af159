// Brings the results of all benches into one form: subjects, figures, and for each a median with its range.

import { existsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { forwardingBench } from '../forwarding/figures.js'
import { growthBench } from '../growth/figures.js'
import type { Machine } from '../run/machine.js'
import { type Told, tellRatios } from '../run/ratios.js'
import { type Bench, type Report, readJson, shortcomings } from '../run/report.js'
import type { PartNote } from '../run/rounds.js'
import { type Figure, figure, type SubjectNote, type Summaries, type Summary } from '../run/rows.js'
import { type Summary as SnapshotSummary, type Target, targets } from '../snapshot/figures.js'
import { type Report as SnapshotReport, shortcomings as snapshotShortcomings } from '../snapshot/report.js'
import { storesBench } from '../stores/figures.js'
import { vnsnapBench } from '../vnsnap/rows.js'

export interface Results {
  readonly bench: string
  readonly title: string
  readonly file: string
  readonly date: string
  readonly minutes: number
  readonly command: string
  readonly machine: Machine
  readonly quick: boolean
  /** Virtual machines by KVM or emulated; empty where there were none. */
  readonly accelerator: string
  readonly subjects: readonly SubjectNote[]
  readonly summaries: Summaries
  readonly parts: readonly PartNote[]
  readonly told: Readonly<Record<string, Told>>
  /** What is set of it, in words, where the key does not say it. */
  readonly words: Readonly<Record<string, string>>
  /** By key: other keys that are told with it. */
  readonly beside: Readonly<Record<string, readonly string[]>>
  readonly plots: readonly string[]
  /** By figure: what was set of it, in its own unit. */
  readonly aims: Readonly<Record<string, number>>
  /** Known figures in the order in which they are shown. */
  readonly figures: readonly Figure[]
  figure(name: string): Figure
  /** What was not measured, or failed, or makes the figures mean less. */
  readonly remarks: readonly string[]
}

const single = (value: number, high = value, count = 1): Summary => ({ median: value, low: value, high, count })

const finder = (figures: readonly Figure[]) => {
  const known = new Map(figures.map((one) => [one.name, one]))
  return (name: string) => known.get(name) ?? figure(name, name, '', 'less')
}

/** Benches of rounds over subjects. */
const benches: readonly Bench[] = [vnsnapBench, forwardingBench, growthBench, storesBench]

function ofRounds(file: string, bench: Bench, report: Report): Results {
  const figures = bench.tables.flatMap((table) => table.figures)
  return {
    ...report,
    bench: bench.kind,
    title: bench.title,
    file,
    words: {},
    beside: Object.fromEntries(Object.entries(bench.ratios).map(([key, { beside }]) => [key, beside ?? []])),
    plots: bench.plots,
    aims: aimsOf(bench, report),
    figures,
    figure: finder(figures),
    remarks: shortcomings(report),
  }
}

/** An aim of a ratio is, as a line in a plot, so much of the peer's median. The first rule of a figure counts. */
function aimsOf({ ratios }: Bench, { told, summaries }: Report): Record<string, number> {
  const aims: Record<string, number> = {}
  for (const [key, { figure: name, reach, peers }] of Object.entries(ratios)) {
    const bound = reach?.least ?? reach?.most
    const peer = told[key]?.peer ?? null
    const base = peers.length === 0 ? 1 : peer === null ? undefined : summaries[peer]?.[name]?.median
    if (bound === undefined || base === undefined || name in aims) continue
    aims[name] = bound * base
  }
  return aims
}

interface SnapshotFigure {
  readonly figure: Figure
  of(summary: SnapshotSummary): number | undefined
  worst?(summary: SnapshotSummary): number
}

const snapshotFigures: readonly SnapshotFigure[] = [
  {
    figure: figure('downtimeMs', 'a machine stands still, p50 (line: to p99)', 'ms', 'less'),
    of: ({ downtime }) => downtime.p50,
    worst: ({ downtime }) => downtime.p99,
  },
  {
    figure: figure('skewMs', 'first to last cut, p50 (line: to p99)', 'ms', 'less'),
    of: ({ skew }) => skew.p50,
    worst: ({ skew }) => skew.p99,
  },
  {
    figure: figure('globalMs', 'a whole snapshot, p50 (line: to p99)', 'ms', 'less', 1, 0),
    of: ({ globalMs }) => globalMs.p50,
    worst: ({ globalMs }) => globalMs.p99,
  },
  {
    figure: figure('cutGapMs', 'longest TCP gap at a cut', 'ms', 'less'),
    of: ({ bulk }) => bulk?.longestGapMs.cut,
  },
  {
    figure: figure('quietGapMs', 'longest TCP gap without a snapshot', 'ms', 'less'),
    of: ({ bulk }) => bulk?.longestGapMs.quiet,
  },
  {
    figure: figure('udpLost', 'datagrams lost', '', 'less', 1, 0),
    of: ({ counted }) => counted.udpLost,
  },
  {
    figure: figure('udpDoubled', 'datagrams doubled', '', 'less', 1, 0),
    of: ({ counted }) => counted.udpDoubled,
  },
]

function toldOf({ summaries, ratios }: Pick<SnapshotReport, 'summaries' | 'ratios'>): Record<string, Told> {
  const rounds = summaries.reduce((sum, one) => sum + one.snapshots, 0)
  return Object.fromEntries(
    (Object.keys(targets) as Target[]).map((key): [string, Told] => {
      const value = ratios[key] ?? null
      const { most } = targets[key]
      const reached = value === null ? null : value <= most
      const range = { low: value, high: value, rounds: value === null ? 0 : rounds }
      return [key, { of: 'snapswitch', figure: key, peer: null, value, ...range, aim: `at most ${most}`, reached }]
    }),
  )
}

/** What each bench would tell that has measured nothing. */
export function toldOfNothing(): Record<string, Readonly<Record<string, Told>>> {
  const told = Object.fromEntries(benches.map(({ kind, ratios }) => [kind, tellRatios(ratios, [])]))
  return { ...told, snapshot: toldOf({ summaries: [], ratios: {} }) }
}

function ofSnapshot(file: string, report: Omit<SnapshotReport, 'rounds'>): Results {
  const summaries = Object.fromEntries(
    report.summaries.map((summary) => [
      summary.cell.id,
      Object.fromEntries(
        snapshotFigures.flatMap(({ figure: { name }, of, worst }) => {
          const value = of(summary)
          if (value === undefined || !Number.isFinite(value)) return []
          // Without a range there is nothing to judge a change by: it counts as a single one.
          return [[name, worst === undefined ? single(value) : single(value, worst(summary), summary.snapshots)]]
        }),
      ),
    ]),
  )
  const figures = snapshotFigures.map((one) => one.figure)
  return {
    bench: 'snapshot',
    title: 'What a snapshot costs, cell by cell',
    file,
    date: report.date,
    minutes: report.minutes,
    command: report.command ?? 'scripts/bench snapshot',
    machine: report.machine,
    quick: report.quick,
    accelerator: report.guests.accelerator,
    subjects: report.summaries.map(({ cell }) => ({
      id: cell.id,
      title: cell.id.replaceAll('-', ' '),
      setup: `${cell.machines} machines of ${cell.memoryMiB} MiB on two hosts, policy ${cell.policy}, load ${cell.load}`,
      version: cell.driver,
    })),
    summaries,
    parts: [],
    told: toldOf(report),
    words: Object.fromEntries(Object.entries(targets).map(([key, { what }]) => [key, what])),
    beside: {},
    plots: ['downtimeMs', 'skewMs', 'globalMs', 'cutGapMs', 'quietGapMs'],
    aims: { downtimeMs: targets.downtimeP99Ms.most, skewMs: targets.skewP99Ms.most, cutGapMs: targets.tcpGapMs.most },
    figures,
    figure: finder(figures),
    remarks: snapshotShortcomings(report),
  }
}

/** Reads what any of the benches wrote, small or raw, compressed or not. Throws with a message for the user. */
export function readResults(file: string): Results {
  let value: Record<string, unknown>
  try {
    value = readJson(file) as Record<string, unknown>
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`)
  }
  const report = (typeof value.report === 'object' && value.report !== null ? value.report : value) as Record<
    string,
    unknown
  >
  const bench = benches.find(({ kind }) => kind === report.kind)
  if (report.format === 1 && bench !== undefined) return ofRounds(file, bench, report as unknown as Report)
  if (report.format === 1 && Array.isArray(report.summaries))
    return ofSnapshot(file, report as unknown as SnapshotReport)
  throw new Error(`${file}: no results of scripts/bench ${[...benches.map(({ kind }) => kind), 'snapshot'].join(', ')}`)
}

/** The latest of each bench in a directory of results. */
export function readAll(directory: string): Results[] {
  return ['vnsnap', 'forwarding', 'snapshot', 'growth', 'stores'].flatMap((bench) => {
    const file = join(directory, `${bench}.json`)
    return existsSync(file) ? [readResults(file)] : []
  })
}

export const nameOf = ({ file }: Results) => basename(file)
