// Brings the results of all benches into one form: subjects, figures, and for each a median with its range.

import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { type FigureName, figureMeanings } from '../forwarding/figures.js'
import type { Report as ForwardingReport, Machine, SubjectNote } from '../forwarding/report.js'
import type { Summary as SnapshotSummary } from '../snapshot/figures.js'
import { type Summaries, type Summary, summarize } from '../vnsnap/figures.js'
import type { Report as VnsnapReport } from '../vnsnap/report.js'
import { figureOf } from '../vnsnap/rows.js'

export interface Meaning {
  readonly text: string
  readonly unit: string
  readonly better: 'more' | 'less'
}

export interface Results {
  /** `forwarding`, `snapshot`, `vnsnap` or `growth`. */
  readonly bench: string
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
  readonly ratios: Readonly<Record<string, number>>
  meaning(figure: string): Meaning
  /** Notes on what was not measured, or failed. */
  readonly remarks: readonly string[]
}

const single = (value: number): Summary => ({ median: value, low: value, high: value, count: 1 })

function ofForwarding(file: string, report: ForwardingReport): Results {
  // What is kept in results/ has no rounds: its medians stand without a range.
  const summaries =
    report.rounds === undefined
      ? Object.fromEntries(
          Object.entries(report.medians).map(([id, figures]) => [
            id,
            Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, single(value)])),
          ]),
        )
      : summarize(report.rounds.map((row) => ({ part: 'network', ...row })))
  return {
    bench: 'forwarding',
    file,
    date: report.date,
    minutes: report.minutes,
    command: `scripts/bench forwarding --rounds ${report.plan.rounds}`,
    machine: report.machine,
    quick: report.plan.rounds < 3,
    accelerator: '',
    subjects: report.subjects,
    summaries,
    ratios: report.ratios,
    meaning: (figure) => figureMeanings[figure as FigureName] ?? { text: figure, unit: '', better: 'more' },
    remarks: [],
  }
}

interface SnapshotFile {
  readonly date: string
  readonly minutes: number
  readonly machine: Machine
  readonly guests: { readonly accelerator: string }
  readonly quick: boolean
  readonly summaries: readonly SnapshotSummary[]
  readonly ratios: Readonly<Record<string, number>>
}

const snapshotFigures: Readonly<
  Record<
    string,
    Meaning & { of(summary: SnapshotSummary): number | undefined; worst?(summary: SnapshotSummary): number }
  >
> = {
  downtimeMs: {
    text: 'downtime p50',
    unit: 'ms',
    better: 'less',
    of: (s) => s.downtime.p50,
    worst: (s) => s.downtime.p99,
  },
  skewMs: { text: 'skew p50', unit: 'ms', better: 'less', of: (s) => s.skew.p50, worst: (s) => s.skew.p99 },
  globalMs: {
    text: 'global time p50',
    unit: 'ms',
    better: 'less',
    of: (s) => s.globalMs.p50,
    worst: (s) => s.globalMs.p99,
  },
  cutGapMs: {
    text: 'longest TCP gap at a cut',
    unit: 'ms',
    better: 'less',
    of: (s) => s.bulk?.longestGapMs.cut,
  },
  udpLost: { text: 'datagrams lost', unit: '', better: 'less', of: (s) => s.counted.udpLost },
  udpDoubled: { text: 'datagrams doubled', unit: '', better: 'less', of: (s) => s.counted.udpDoubled },
}

function ofSnapshot(file: string, report: SnapshotFile): Results {
  const summaries = Object.fromEntries(
    report.summaries.map((summary) => [
      summary.cell.id,
      Object.fromEntries(
        Object.entries(snapshotFigures).flatMap(([name, { of, worst }]) => {
          const value = of(summary)
          if (value === undefined || !Number.isFinite(value)) return []
          return [[name, { median: value, low: value, high: worst?.(summary) ?? value, count: summary.snapshots }]]
        }),
      ),
    ]),
  )
  return {
    bench: 'snapshot',
    file,
    date: report.date,
    minutes: report.minutes,
    command: 'scripts/bench snapshot',
    machine: report.machine,
    quick: report.quick,
    accelerator: report.guests.accelerator,
    subjects: report.summaries.map(({ cell }) => ({
      id: cell.id,
      title: cell.id,
      setup: `${cell.machines} machines of ${cell.memoryMiB} MiB on two hosts, policy ${cell.policy}, load ${cell.load}`,
      version: cell.driver,
    })),
    summaries,
    ratios: report.ratios,
    meaning: (figure) => snapshotFigures[figure] ?? { text: figure, unit: '', better: 'less' },
    remarks: [],
  }
}

function ofVnsnap(file: string, report: VnsnapReport): Results {
  return {
    bench: report.kind,
    file,
    date: report.date,
    minutes: report.minutes,
    command: report.command,
    machine: report.machine,
    quick: report.quick,
    accelerator: report.accelerator,
    subjects: report.subjects,
    summaries: report.summaries,
    ratios: report.ratios,
    meaning: (figure) => figureOf(figure) ?? { text: figure, unit: '', better: 'less' },
    remarks: [
      ...report.absent.map(({ id, why }) => `${id} was not measured: ${why}`),
      ...report.failures.map(
        ({ subject, part, round, error }) => `${subject}, ${part}, round ${round} failed: ${error}`,
      ),
    ],
  }
}

/** Reads what any of the benches wrote, small or raw, compressed or not. Throws with a message for the user. */
export function readResults(file: string): Results {
  let value: Record<string, unknown>
  try {
    const bytes = readFileSync(file)
    const isCompressed = bytes[0] === 0x1f && bytes[1] === 0x8b
    value = JSON.parse((isCompressed ? gunzipSync(bytes) : bytes).toString('utf8'))
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`)
  }
  const report = (typeof value.report === 'object' && value.report !== null ? value.report : value) as Record<
    string,
    unknown
  >
  if (report.format !== 1) throw new Error(`${file}: no results of scripts/bench`)
  if (report.kind === 'vnsnap' || report.kind === 'growth') return ofVnsnap(file, report as unknown as VnsnapReport)
  if (Array.isArray(report.summaries)) return ofSnapshot(file, report as unknown as SnapshotFile)
  if (report.medians !== undefined) return ofForwarding(file, report as unknown as ForwardingReport)
  throw new Error(`${file}: no results of scripts/bench forwarding, snapshot, vnsnap or growth`)
}

/** The latest of each bench in a directory of results. */
export function readAll(directory: string): Results[] {
  return ['vnsnap', 'snapshot', 'growth', 'forwarding'].flatMap((bench) => {
    const file = join(directory, `${bench}.json`)
    return existsSync(file) ? [readResults(file)] : []
  })
}

export const nameOf = ({ file }: Results) => basename(file)
