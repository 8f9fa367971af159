// From raw rows to figures: percentiles, where a cut's time goes, which gap belongs to which cut, and the targets.
// Pure.

import type { Cell } from './plan.js'
import type { Counted, Gap, MemberStamps, Round, Row } from './rows.js'

/** Nearest rank: a value that was measured, and of fewer than 100 the 99th percentile is the largest. NaN for none. */
export function percentile(values: readonly number[], share: number): number {
  if (values.length === 0) return Number.NaN
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!
}

export interface Spread {
  readonly count: number
  readonly p50: number
  readonly p99: number
}

export function spreadOf(values: readonly number[]): Spread {
  return { count: values.length, p50: percentile(values, 0.5), p99: percentile(values, 0.99) }
}

export const goodRounds = (row: Row): Round[] =>
  row.rounds.filter((round) => round.error === null && round.members.length > 0)
const membersOf = (row: Row): MemberStamps[] => goodRounds(row).flatMap((round) => round.members)

export const downtimeMs = (member: MemberStamps) => (member.resumedAtUs - member.pausedAtUs) / 1000

function rangeMs(round: Round, stamp: (member: MemberStamps) => number): number {
  const stamps = round.members.map(stamp)
  return (Math.max(...stamps) - Math.min(...stamps)) / 1000
}
export const skewMs = (round: Round) => rangeMs(round, (member) => member.cutAtUs)

/** Where a member's time goes, from the stamps that the manifest has; milliseconds. */
export const stretches = {
  settle: (m) => (m.settledAtUs - m.gatedAtUs) / 1000,
  stop: (m) => (m.pausedAtUs - m.settledAtUs) / 1000,
  drainAndFlip: (m) => (m.cutAtUs - m.pausedAtUs) / 1000,
  disks: (m) => (m.disksAtUs - m.pausedAtUs) / 1000,
  toSave: (m) => (m.savingAtUs - m.cutAtUs) / 1000,
  saveToResume: (m) => (m.resumedAtUs - m.savingAtUs) / 1000,
  release: (m) => (m.releasedAtUs - m.resumedAtUs) / 1000,
  gateClosed: (m) => (m.releasedAtUs - m.gatedAtUs) / 1000,
  seal: (m) => (m.sealedAtUs - m.cutAtUs) / 1000,
} as const satisfies Record<string, (member: MemberStamps) => number>
export type Stretch = keyof typeof stretches
export const stretchNames = Object.keys(stretches) as Stretch[]

/** `writing`: the rest of a snapshot. `removing`: its removal after it. */
export type Phase = 'cut' | 'writing' | 'removing' | 'quiet'

/** A gap that a cut causes has begun by then. */
const GAP_TAIL_US = 20_000
/** A retransmission timer that a cut started has run out by then: RTO_MIN is 200 ms (include/net/tcp.h). */
const RETRANSMISSION_TAIL_US = 300_000

/** Which part of a round a stretch of time touches: a cut first, then images being written, then their removal. */
export function phaseOf(startUs: number, endUs: number, rounds: readonly Round[], tailUs: number): Phase {
  let phase: Phase = 'quiet'
  for (const round of rounds) {
    if (endUs < round.askedAtUs || startUs > Math.max(round.removedAtUs, round.answeredAtUs)) continue
    phase = startUs > round.answeredAtUs ? 'removing' : 'writing'
    if (round.members.length === 0) continue
    const from = Math.min(...round.members.map((member) => member.gatedAtUs))
    const to = Math.max(...round.members.map((member) => member.releasedAtUs)) + tailUs
    if (startUs <= to && endUs >= from) return 'cut'
  }
  return phase
}

export const gapPhase = ([start, length]: Gap, rounds: readonly Round[]) =>
  phaseOf(start, start + length, rounds, GAP_TAIL_US)

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
const counted = (rounds: readonly Round[], key: keyof Counted) => sum(rounds.map((round) => round.counted[key]))

export interface BulkSummary {
  readonly gigabitsPerSecond: number
  /** Longest gap, milliseconds; gaps under 2 ms are not kept: 0 then. */
  readonly longestGapMs: Readonly<Record<Phase, number>>
  /** Longest gap of each cut. */
  readonly cutGaps: Spread
  readonly retransmits: Readonly<Record<Phase, number>>
  /**
   * How long each phase was, all rounds together, as retransmissions are counted: what happens anyway happens there
   * too.
   */
  readonly seconds: Readonly<Record<'cut' | 'writing', number>>
  readonly timeouts: number
  readonly lossProbes: number
}

export interface Summary {
  readonly cell: Cell
  readonly snapshots: number
  readonly failed: number
  readonly downtime: Spread
  readonly skew: Spread
  readonly gateSkew: Spread
  readonly stretches: Readonly<Record<Stretch, Spread>>
  readonly globalMs: Spread
  /** Frames over all snapshots. */
  readonly frames: Readonly<Record<'held' | 'early' | 'recorded' | 'residue' | 'lost', number>>
  readonly closedByCount: number
  readonly closures: number
  readonly counted: Counted
  readonly bulk: BulkSummary | null
}

export function summarize(row: Row): Summary {
  const rounds = goodRounds(row)
  const members = membersOf(row)
  const frames = (key: 'held' | 'early' | 'recorded' | 'residue' | 'lost') => sum(members.map((member) => member[key]))
  const closures = rounds.flatMap((round) => round.closures)
  return {
    cell: row.cell,
    snapshots: rounds.length,
    failed: row.rounds.length - rounds.length,
    downtime: spreadOf(members.map(downtimeMs)),
    skew: spreadOf(rounds.map(skewMs)),
    gateSkew: spreadOf(rounds.map((round) => rangeMs(round, (member) => member.gatedAtUs))),
    stretches: Object.fromEntries(stretchNames.map((name) => [name, spreadOf(members.map(stretches[name]))])) as Record<
      Stretch,
      Spread
    >,
    globalMs: spreadOf(rounds.map((round) => round.globalMs)),
    frames: {
      held: frames('held'),
      early: frames('early'),
      recorded: frames('recorded'),
      residue: frames('residue'),
      lost: frames('lost') + sum(closures.map((closure) => closure.lost)),
    },
    closedByCount: closures.filter((closure) => closure.byCount).length,
    closures: closures.length,
    counted: sumCounted(row.rounds),
    bulk: bulkSummary(row),
  }
}

function sumCounted(rounds: readonly Round[]): Counted {
  return {
    udpSent: counted(rounds, 'udpSent'),
    udpReceived: counted(rounds, 'udpReceived'),
    udpLost: counted(rounds, 'udpLost'),
    udpDoubled: counted(rounds, 'udpDoubled'),
    udpReordered: counted(rounds, 'udpReordered'),
    udpCorrupt: counted(rounds, 'udpCorrupt'),
    ringHops: counted(rounds, 'ringHops'),
    ringRetransmits: counted(rounds, 'ringRetransmits'),
    tcpRetransmits: counted(rounds, 'tcpRetransmits'),
    tcpTimeouts: counted(rounds, 'tcpTimeouts'),
    tcpLossProbes: counted(rounds, 'tcpLossProbes'),
    faults: counted(rounds, 'faults'),
  }
}

function bulkSummary(row: Row): BulkSummary | null {
  const { bulk, rounds } = row
  if (bulk === null) return null
  const phases: Phase[] = ['cut', 'writing', 'removing', 'quiet']
  const longest = (of: readonly Gap[]) => of.reduce((most, [, length]) => Math.max(most, length), 0) / 1000
  const gaps = bulk.gaps.map((gap) => ({ gap, phase: gapPhase(gap, rounds) }))
  const { retransmitted } = bulk
  const good = goodRounds(row)
  const cutSeconds = sum(
    good.map(({ members }) => {
      const from = Math.min(...members.map((member) => member.gatedAtUs))
      return (Math.max(...members.map((member) => member.releasedAtUs)) + RETRANSMISSION_TAIL_US - from) / 1e6
    }),
  )
  const events = retransmitted.map(([at, count]) => ({
    count,
    phase: phaseOf(at, at, rounds, RETRANSMISSION_TAIL_US),
  }))
  const byPhase = <T>(value: (phase: Phase) => T) =>
    Object.fromEntries(phases.map((phase) => [phase, value(phase)])) as Record<Phase, T>
  return {
    gigabitsPerSecond: bulk.bitsPerSecond / 1e9,
    longestGapMs: byPhase((phase) => longest(gaps.filter((one) => one.phase === phase).map(({ gap }) => gap))),
    cutGaps: spreadOf(good.map((round) => longest(bulk.gaps.filter((gap) => gapPhase(gap, [round]) === 'cut')))),
    retransmits: byPhase((phase) => sum(events.filter((event) => event.phase === phase).map(({ count }) => count))),
    seconds: { cut: cutSeconds, writing: sum(good.map((r) => (r.answeredAtUs - r.askedAtUs) / 1e6)) - cutSeconds },
    timeouts: bulk.timeouts,
    lossProbes: bulk.lossProbes,
  }
}

/** What has to be reached, with policy `buffer`. */
export const targets = {
  downtimeP99Ms: { most: 10, what: 'downtime of a machine, p99 over all snapshots of all cells' },
  downtime1024to128: {
    most: 1.5,
    what: 'median downtime at 1024 MiB over that at 128 MiB: 1 when it does not depend on memory',
  },
  tcpGapMs: { most: 30, what: 'longest gap of a bulk TCP flow that touches a cut, guests and namespaces' },
  tcpRetransmits: {
    most: 0,
    what: 'of the ring during whole rounds, of bulk flows within 300 ms of a cut',
  },
  udpLost: { most: 0, what: 'datagrams lost, guests and namespaces' },
  udpDoubled: { most: 0, what: 'datagrams doubled' },
  skewP99Ms: { most: 20, what: 'first to last cut of a snapshot of 8 machines, p99' },
} as const satisfies Record<string, { most: number; what: string }>
export type Target = keyof typeof targets

/** Only what was measured: a quick run has no eight machines. */
export function ratiosOf(rows: readonly Row[]): Partial<Record<Target, number>> {
  const buffered = rows.filter((row) => row.cell.policy === 'buffer' && goodRounds(row).length > 0)
  const summaries = buffered.map(summarize)
  const ofMemory = (mib: number) =>
    summaries.find(({ cell }) => cell.memoryMiB === mib && cell.machines === 2 && cell.load === 'ring')?.downtime.p50
  const bulks = summaries.flatMap(({ bulk }) => bulk ?? [])
  const eight = buffered.filter((row) => row.cell.machines === 8).flatMap(goodRounds)
  const streams = buffered.flatMap((row) => row.bulk?.udp ?? [])
  const found: Record<Target, number | undefined> = {
    downtimeP99Ms: percentile(buffered.flatMap(membersOf).map(downtimeMs), 0.99),
    downtime1024to128: (ofMemory(1024) ?? Number.NaN) / (ofMemory(128) ?? Number.NaN),
    tcpGapMs: bulks.length === 0 ? Number.NaN : Math.max(...bulks.map((bulk) => bulk.longestGapMs.cut)),
    tcpRetransmits:
      sum(summaries.map(({ counted: { ringRetransmits } }) => ringRetransmits)) +
      sum(bulks.map(({ retransmits }) => retransmits.cut)),
    udpLost: sum(summaries.map(({ counted: { udpLost } }) => udpLost)) + sum(streams.map(({ lost }) => lost)),
    udpDoubled:
      sum(summaries.map(({ counted: { udpDoubled } }) => udpDoubled)) + sum(streams.map(({ doubled }) => doubled)),
    skewP99Ms: percentile(eight.map(skewMs), 0.99),
  }
  if (buffered.length === 0) return {}
  return Object.fromEntries(Object.entries(found).filter(([, value]) => Number.isFinite(value)))
}
