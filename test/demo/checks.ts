// The demo's verdicts, from what guests, coordinator and kernel report. Pure: no check reads anything by itself.

import type { AuditReport, Manifest, RestoreReport } from '../../src/api/schemas.js'
import type { ErrorLine, GuestLine, ReceiveReport, SendReport, StateLine } from '../lab/console.js'

export interface Check {
  readonly phase: string
  /** `must`: else the demo fails. `reach`: a figure that a busy machine may miss; said, but no failure. */
  readonly kind: 'must' | 'reach'
  readonly what: string
  readonly ok: boolean
  /** What was seen. */
  readonly seen: string
}

export interface MachineOutcome {
  readonly name: string
  readonly done: StateLine
  readonly errors: readonly ErrorLine[]
}

type Verdict = (what: string, ok: boolean, seen: string) => Check
const inPhase =
  (phase: string): Verdict =>
  (what, ok, seen) => ({ phase, kind: 'must', what, ok, seen })
const asReach = (check: Check): Check => ({ ...check, kind: 'reach' })

const total = <T>(list: readonly T[], of: (item: T) => number): number => list.reduce((sum, item) => sum + of(item), 0)

function checkStream(
  verdict: Verdict,
  name: string,
  sent: SendReport | undefined,
  got: ReceiveReport | undefined,
): Check {
  if (sent === undefined || got === undefined) return verdict(name, false, 'an end of the stream did not report')
  const clean = got.lost + got.doubled + got.reordered + got.stale + got.corrupt === 0
  const seen = `${sent.sent} sent, ${got.received} received, ${got.lost} lost, ${got.doubled} doubled, ${got.reordered} reordered`
  const extra = got.overruns > 0 ? `, ${got.overruns} dropped by the guest itself` : ''
  const refused = sent.errors > 0 ? `, ${sent.errors} not taken by the sender’s kernel` : ''
  return verdict(name, clean && got.ended && sent.sent > 0 && sent.sent === got.received, seen + extra + refused)
}

/** What must hold whenever the guests have come to the end of their job. */
export function checkOutcome(
  phase: string,
  machines: readonly MachineOutcome[],
  expected: string,
  streams: Readonly<Record<number, string>>,
): Check[] {
  const verdict = inPhase(phase)
  const rings = machines.map((machine) => machine.done.ring)
  const values = [...new Set(rings.map((ring) => ring?.value ?? 'none'))]
  const complete = rings.every((ring) => ring?.finished === true)
  const ringTotal = (of: 'resets' | 'duplicated' | 'skipped' | 'corrupt') => total(rings, (ring) => ring?.[of] ?? 1)
  const [resets, duplicated, skipped, corrupt] = [
    ringTotal('resets'),
    ringTotal('duplicated'),
    ringTotal('skipped'),
    ringTotal('corrupt'),
  ]
  const disks = machines.map((machine) => machine.done.disk)
  const mismatches = total(disks, (disk) => (disk === undefined ? 1 : disk.mismatches + disk.errors))
  const errors = machines.flatMap((machine) => machine.errors.map((error) => `${machine.name}: ${error.what}`))
  const sends = machines.flatMap((machine) => machine.done.send)
  const receives = machines.flatMap((machine) => machine.done.receive)
  return [
    verdict(
      'ring result is the computed one on every node',
      complete && values.length === 1 && values[0] === expected,
      `${values.join(', ')}, computed ${expected}`,
    ),
    verdict(
      'no token doubled, skipped or damaged',
      duplicated + skipped + corrupt === 0,
      `${duplicated} doubled, ${skipped} skipped, ${corrupt} damaged`,
    ),
    verdict('no TCP connection reset', resets === 0, `${resets} reset`),
    ...Object.entries(streams).map(([stream, name]) => {
      const number = Number(stream)
      const sent = sends.find((s) => s.stream === number)
      const got = receives.find((r) => r.stream === number)
      return checkStream(verdict, `${name}: nothing lost, doubled or reordered`, sent, got)
    }),
    verdict(
      'every disk agrees with its machine’s memory',
      mismatches === 0 && disks.every((disk) => disk !== undefined && disk.verified > 0),
      `${total(disks, (disk) => disk?.verified ?? 0)} journal read-backs, ${mismatches} differ`,
    ),
    verdict('no guest reported an error', errors.length === 0, errors.join('; ') || 'none'),
  ]
}

/** The figures that the project sets itself: downtime and skew in milliseconds. */
export const reach = { downtimeMs: 20, skewMs: 50 } as const

export function checkSnapshot(manifest: Manifest, machines: readonly string[]): Check[] {
  const verdict = inPhase('snapshot')
  const members = manifest.parts.flatMap((part) => part.members)
  const names = members.map((member) => member.vm).sort()
  const figures = manifest.figures
  const skew = figures?.skewMs ?? Number.POSITIVE_INFINITY
  const down = Math.max(...members.map((member) => member.resumedAtUs - member.pausedAtUs)) / 1000
  return [
    verdict(
      'complete, with every machine in it',
      manifest.state === 'complete' && names.join() === [...machines].sort().join(),
      `${manifest.state}: ${names.join(', ')}`,
    ),
    verdict('no frame lost at the cut', figures?.lost === 0, `${figures?.lost ?? '?'} lost`),
    asReach(verdict(`downtime under ${reach.downtimeMs} ms`, down < reach.downtimeMs, `${down.toFixed(1)} ms at most`)),
    asReach(verdict(`cut skew under ${reach.skewMs} ms`, skew < reach.skewMs, `${skew.toFixed(1)} ms`)),
  ]
}

/** The switches' own recordings of the run, audited: a finding's first words say what is wrong. */
export function checkAudit(report: AuditReport): Check {
  const events = total(report.hosts, (host) => host.events)
  const [finding] = report.checks.flatMap((check) => check.findings)
  const why = report.checks.flatMap((check) => (check.verdict === 'incomplete' ? check.notes : []))
  const seen = finding?.what ?? why[0] ?? `${events} events of ${report.hosts.length} hosts`
  return inPhase('snapshot')('audit: consistent', report.verdict === 'consistent', `${report.verdict}: ${seen}`)
}

export interface Resumption {
  readonly name: string
  readonly lines: readonly GuestLine[]
  /** Hops that this node had reported when the snapshot was asked for, and when it was complete. */
  readonly before: number
  readonly after: number
}

/** The restored machines must go on from the cut: neither boot anew, nor start before it, nor after it. */
export function checkResumption(
  report: Pick<RestoreReport, 'placement'>,
  running: readonly { readonly name: string; readonly host: string }[],
  placement: Readonly<Record<string, string>>,
  resumptions: readonly Resumption[],
  hopsPerReport: number,
): Check[] {
  const verdict = inPhase('restore')
  const placed = Object.entries(placement).map(([name, host]) => `${name}=${host}`)
  const found = running.map(({ name, host }) => `${name}=${host}`)
  const firstHop = (r: Resumption) => {
    const line = r.lines.find((l): l is StateLine => l.type === 'progress' || l.type === 'done')
    return line?.ring?.hop ?? -1
  }
  const booted = resumptions.filter((r) => r.lines.some((line) => line.type === 'start'))
  const astray = resumptions.filter((r) => firstHop(r) < r.before || firstHop(r) > r.after + 2 * hopsPerReport)
  const hopsSeen = resumptions.map((r) => `${r.name} at hop ${firstHop(r)}`)
  const window = `snapshot at ${Math.min(...resumptions.map((r) => r.before))}–${Math.max(...resumptions.map((r) => r.after))}`
  return [
    verdict(
      'every machine runs where it was placed, hosts swapped',
      placed.sort().join() === found.sort().join() &&
        Object.entries(placement).every(([name, host]) => report.placement[name] === host),
      found.join(', ') || 'none runs',
    ),
    verdict(
      'guests go on from the cut, none booted anew',
      booted.length === 0 && astray.length === 0,
      [...booted.map((r) => `${r.name} booted`), ...hopsSeen, window].join(', '),
    ),
  ]
}

/** Each host has files of its own where the other has its machines' disks: they are nobody's business. */
export function checkStrangers(touched: readonly string[]): Check {
  const what = 'files of the same paths on other hosts are as they were'
  return inPhase('restore')(what, touched.length === 0, touched.length === 0 ? 'untouched' : touched.join(', '))
}
