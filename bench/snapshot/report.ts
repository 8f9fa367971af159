// What a run leaves behind: JSON with every round, and Markdown tables with the targets.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine } from '../run/machine.js'
import { readJson, writeJson, writeWhole } from '../run/report.js'
import { ratiosOf, type Spread, type Stretch, type Summary, summarize, type Target, targets } from './figures.js'
import type { Row } from './rows.js'

export interface Report {
  readonly format: 1
  readonly date: string
  readonly minutes: number
  readonly machine: Machine
  readonly guests: { readonly accelerator: string; readonly qemu: string }
  readonly command: string
  readonly quick: boolean
  /** Minutes that the run had; null: as many as it takes. */
  readonly budget: number | null
  /** False: the run ended before its end, or still goes on. */
  readonly whole: boolean
  /** Cells that there was no time for. */
  readonly missing: readonly string[]
  readonly rounds: readonly Row[]
  readonly summaries: readonly Summary[]
  readonly targets: typeof targets
  readonly ratios: Partial<Record<Target, number>>
}

export function makeReport(
  parts: Pick<Report, 'machine' | 'guests' | 'command' | 'quick' | 'budget' | 'whole' | 'missing'> & {
    readonly started: Date
    readonly rows: readonly Row[]
  },
): Report {
  const { started, rows, ...rest } = parts
  return {
    format: 1,
    date: started.toISOString(),
    minutes: Number(((Date.now() - started.getTime()) / 60_000).toFixed(1)),
    ...rest,
    rounds: rows,
    summaries: rows.map(summarize),
    targets,
    ratios: ratiosOf(rows),
  }
}

/** `text`: flush left, as the first column is. */
type Column<T> = readonly [head: string, show: (item: T) => string, kind?: 'text']

function table<T>(items: readonly T[], columns: readonly Column<T>[]): string[] {
  const rule = columns.map(([, , kind], index) => (index === 0 || kind === 'text' ? '---' : '---:'))
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [
    line(columns.map(([head]) => head)),
    line(rule),
    ...items.map((item) => line(columns.map(([, show]) => show(item)))),
  ]
}

const number = (value: number) => (Number.isFinite(value) ? value.toFixed(Math.abs(value) < 100 ? 1 : 0) : '-')
const both = ({ p50, p99 }: Spread) => `${number(p50)} / ${number(p99)}`

const loads = {
  ring: '',
  guests: ', bulk TCP between guests',
  members: ', bulk TCP and UDP between namespaces (member ports)',
  plain: ', bulk TCP and UDP between namespaces (plain ports)',
} as const
const title = ({ cell }: Summary) =>
  `${cell.driver === 'libvirt' ? 'libvirt, ' : ''}${cell.machines} × ${cell.memoryMiB} MiB, ${cell.policy}${loads[cell.load]}`
const cellColumn: Column<Summary> = ['cell', title]

const stretch = (head: string, name: Stretch): Column<Summary> => [head, ({ stretches }) => both(stretches[name])]
const frames = (key: keyof Summary['frames']): Column<Summary> => [key, (summary) => String(summary.frames[key])]

const cutColumns: readonly Column<Summary>[] = [
  cellColumn,
  ['snapshots', ({ snapshots, failed }) => (failed === 0 ? String(snapshots) : `${snapshots} (${failed} failed)`)],
  ['downtime', ({ downtime }) => both(downtime)],
  ['cut skew', ({ skew }) => both(skew)],
  ['global', ({ globalMs }) => both(globalMs)],
  stretch('cut to sealed', 'seal'),
]

const breakdownColumns: readonly Column<Summary>[] = [
  cellColumn,
  ['gate skew', ({ gateSkew }) => both(gateSkew)],
  stretch('settle', 'settle'),
  stretch('stop', 'stop'),
  stretch('drain + flip', 'drainAndFlip'),
  stretch('(disks)', 'disks'),
  stretch('wait for disks', 'toSave'),
  stretch('devices + protection', 'saveToResume'),
  stretch('release', 'release'),
  stretch('gate closed, in all', 'gateClosed'),
]

const frameColumns: readonly Column<Summary>[] = [
  cellColumn,
  frames('held'),
  frames('early'),
  frames('recorded'),
  frames('residue'),
  frames('lost'),
  ['channels closed by count', ({ closedByCount, closures }) => `${closedByCount} of ${closures}`],
]

interface Guests {
  readonly name: string
  readonly counted: Summary['counted']
}
const guestColumns: readonly Column<Guests>[] = [
  ['cell', ({ name }) => name],
  ['UDP received', ({ counted }) => String(counted.udpReceived)],
  ['lost', ({ counted }) => String(counted.udpLost)],
  ['doubled', ({ counted }) => String(counted.udpDoubled)],
  ['reordered', ({ counted }) => String(counted.udpReordered)],
  ['ring hops', ({ counted }) => String(counted.ringHops)],
  ['ring retransmissions', ({ counted }) => String(counted.ringRetransmits)],
  ['of all TCP in the guests', ({ counted }) => String(counted.tcpRetransmits)],
  ['loss probes', ({ counted }) => String(counted.tcpLossProbes)],
  ['RTOs', ({ counted }) => String(counted.tcpTimeouts)],
  ['ring or disk faults', ({ counted }) => String(counted.faults)],
]

type WithBulk = { readonly summary: Summary; readonly bulk: NonNullable<Summary['bulk']>; readonly row: Row }
const bulkColumns: readonly Column<WithBulk>[] = [
  ['cell', ({ summary }) => title(summary)],
  ['Gbit/s', ({ bulk }) => bulk.gigabitsPerSecond.toFixed(2)],
  ['longest gap of each cut', ({ bulk }) => both(bulk.cutGaps)],
  ['longest gap: cut', ({ bulk }) => number(bulk.longestGapMs.cut)],
  ['images written', ({ bulk }) => number(bulk.longestGapMs.writing)],
  ['images removed', ({ bulk }) => number(bulk.longestGapMs.removing)],
  ['no snapshot', ({ bulk }) => number(bulk.longestGapMs.quiet)],
  [
    'retransmissions: cut / images written / removed / no snapshot',
    ({ bulk: { retransmits: by, seconds } }) =>
      `${by.cut} in ${number(seconds.cut)} s / ${by.writing} in ${number(seconds.writing)} s / ${by.removing} / ${by.quiet}`,
  ],
  ['loss probes in all', ({ bulk }) => String(bulk.lossProbes)],
  ['RTOs', ({ bulk }) => String(bulk.timeouts)],
  [
    'UDP lost / doubled / reordered',
    ({ row: { bulk } }) => {
      const udp = bulk?.udp
      return udp == null ? '' : `${udp.lost} / ${udp.doubled} / ${udp.reordered} of ${udp.received + udp.lost}`
    },
  ],
]

/** What limits a run's figures, in words. */
export function shortcomings({ quick, whole, budget, missing }: Omit<Report, 'rounds'>): string[] {
  return [
    ...(quick ? ['Short trials: a look, not a result.'] : []),
    ...(whole === false ? ['The run ended before its end: what it had measured by then is here.'] : []),
    ...(typeof budget === 'number' ? [`The run had ${Math.round(budget)} minutes: fewer cells and snapshots.`] : []),
    ...(missing === undefined || missing.length === 0 ? [] : [`No time was left for ${missing.join(', ')}.`]),
  ]
}

export function markdown(report: Report): string {
  const { machine, summaries, rounds: rows } = report
  const measured = summaries.filter(({ snapshots }) => snapshots > 0)
  const lines = [
    '# What a cut costs running traffic',
    '',
    `${report.date.slice(0, 10)}, ${report.minutes} minutes; ${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}, Node ${machine.node}; load before the run ${machine.loadBefore}.`,
    `Guests: QEMU ${report.guests.qemu}, ${report.guests.accelerator}. Two hosts are two namespaces joined by a veth trunk.`,
    ...shortcomings(report).flatMap((said) => ['', said]),
    '',
    'Milliseconds, p50 / p99 where there are two; p99 by nearest rank, the largest of fewer than 100 samples.',
    '',
    '## Targets (policy buffer)',
    '',
    ...table(Object.entries(targets) as [Target, { most: number; what: string }][], [
      ['key', ([key]) => key],
      ['value', ([key]) => value(report.ratios[key])],
      ['at most', ([, { most }]) => String(most)],
      ['reached', ([key, { most }]) => reached(report.ratios[key], most), 'text'],
      ['what', ([, { what }]) => what, 'text'],
    ]),
    '',
    '## The cut',
    '',
    ...table(measured, cutColumns),
    '',
    '## Where the time of a cut goes, per machine',
    '',
    'Gate skew: first to last gate of a snapshot (machines take turns). Downtime is drain + flip, wait for disks, and devices +',
    'protection (QEMU saves its devices, write-protects memory, and runs on). The overlays (disks) slide in beside drain + flip.',
    'Settle and stop run before it: behind the closed gate, but the guest still works.',
    '',
    ...table(measured, breakdownColumns),
    '',
    '## Frames, all snapshots of a cell',
    '',
    ...table(measured, frameColumns),
    '',
    '## Traffic in the guests, by their own counters, all rounds of a cell',
    '',
    ...table(
      measured.map((summary) => ({ name: title(summary), counted: summary.counted })),
      guestColumns,
    ),
    '',
    'The same machines before the first snapshot, about three seconds each:',
    '',
    ...table(
      summaries.flatMap((summary, index) => {
        const control = rows[index]!.control
        return control === null ? [] : [{ name: title(summary), counted: control.counted }]
      }),
      guestColumns,
    ),
    '',
  ]
  const bulks = summaries.flatMap((summary, index) =>
    summary.bulk === null ? [] : [{ summary, bulk: summary.bulk, row: rows[index]! }],
  )
  if (bulks.length > 0) {
    lines.push('## Bulk TCP across the trunk while snapshots are taken', '')
    lines.push(...table(bulks, bulkColumns), '')
  }
  const failures = rows.flatMap((row) => [
    ...(row.error === null ? [] : [`- ${row.cell.id}: ${row.error.split('\n')[0]}`]),
    ...row.rounds.flatMap((round) =>
      round.error === null ? [] : [`- ${row.cell.id}, round ${round.round}: ${round.error}`],
    ),
  ])
  if (failures.length > 0) lines.push('## Failed', '', ...failures, '')
  return lines.join('\n')
}

const value = (found: number | undefined) =>
  found === undefined ? 'not measured' : Number.isInteger(found) ? String(found) : found.toFixed(2)
const reached = (found: number | undefined, most: number) => (found === undefined ? '' : found <= most ? 'yes' : 'no')

/** Writes snapshot.json, without the raw rounds, snapshot.md, and the raw rounds compressed apart from them. */
export function writeResults(report: Report, directory: string): void {
  mkdirSync(join(directory, 'raw'), { recursive: true })
  const { rounds: _, ...figures } = report
  writeWhole(join(directory, 'snapshot.json'), `${JSON.stringify(figures, null, 1)}\n`)
  writeWhole(join(directory, 'snapshot.md'), markdown(report))
  writeRaw(report, join(directory, 'raw', `snapshot-${report.date.slice(0, 19).replaceAll(':', '')}.json.gz`))
}

export const writeRaw = (report: Report, file: string): void => writeJson(file, report)

/** Reads a report that an earlier run wrote with --json; what is computed from its rounds is computed again. */
export function readReport(file: string): Report {
  const report = readJson(file) as Report
  if (report.format !== 1) throw new Error(`${file}: no report of format 1`)
  return { ...report, summaries: report.rounds.map(summarize), targets, ratios: ratiosOf(report.rounds) }
}
