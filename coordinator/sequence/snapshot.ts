// The global sequence of `snapshot create` as a table (protocol.md, "Global sequence"):
//
//   preflight -> recording -> preparing -> taking -> committing -> complete
//       |            |            |          |           |
//    refused         +------------+----------+-----------+--> discarding -> failing -> failed
//
// Invariant: from the moment PREPARE may have reached a host, the only ways out are `complete`, with all parts in a
// durable manifest, or through `discarding`, where every host is told (bounded retries; hosts that could not be told are
// named in the manifest and told when the coordinator next starts or the snapshot is deleted).

import type { LocalEvent, LocalPart, Manifest, Policy, Preflight, PrepareRequest } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import { failedManifest, figuresOf, judgePreflights, nextEpoch, partFault } from './snapshot-rules.js'
import {
  type Instant,
  isoTime,
  joinReports,
  left,
  listed,
  onHost,
  retryDelayMs,
  type Step,
  step,
  type Table,
} from './table.js'

export const snapshotStates = [
  'preflight',
  'recording',
  'preparing',
  'taking',
  'committing',
  'discarding',
  'failing',
  'complete',
  'failed',
  'refused',
] as const
export type SnapshotState = (typeof snapshotStates)[number]

export interface SnapshotInput {
  readonly network: string
  readonly name: string
  readonly policy: Policy
  readonly version: string
  /** All hosts of the network. */
  readonly hosts: readonly string[]
  /** Highest epoch in any manifest of the network. */
  readonly maxKnownEpoch: number
  /** For the whole of it, from `begin` on. */
  readonly deadlineMs: number
}

export type SnapshotCall = 'preflight' | 'prepare' | 'take' | 'discard'

export type SnapshotEvent =
  | { readonly type: 'preflighted'; readonly host: string; readonly preflight: Preflight }
  | { readonly type: 'stored' }
  | { readonly type: 'storeFailed'; readonly error: ErrorReport }
  | { readonly type: 'prepared'; readonly host: string }
  | { readonly type: 'local'; readonly host: string; readonly event: LocalEvent }
  | { readonly type: 'discarded'; readonly host: string }
  /** A call failed, went unanswered, or its stream ended too soon. */
  | { readonly type: 'agentFailed'; readonly host: string; readonly call: SnapshotCall; readonly error: ErrorReport }
  | { readonly type: 'deadline'; readonly timer: number }
  /** The coordinator is being stopped. */
  | { readonly type: 'cancel'; readonly error: ErrorReport }

export type SnapshotOutcome =
  | { readonly type: 'complete'; readonly manifest: Manifest }
  /** `manifest` is null when none was written: nothing had begun. */
  | { readonly type: 'failed'; readonly error: ErrorReport; readonly manifest: Manifest | null }

export type SnapshotEffect =
  | { readonly do: 'preflight'; readonly host: string; readonly timeoutMs: number }
  | { readonly do: 'prepare'; readonly host: string; readonly request: PrepareRequest; readonly timeoutMs: number }
  | { readonly do: 'take'; readonly host: string; readonly timeoutMs: number }
  | {
      readonly do: 'discard'
      readonly host: string
      readonly epoch: number
      readonly delayMs: number
      readonly timeoutMs: number
    }
  /** Durable, in the order given; answered by `stored` or `storeFailed`. */
  | { readonly do: 'store'; readonly manifest: Manifest }
  | { readonly do: 'timer'; readonly timer: number; readonly afterMs: number }
  | { readonly do: 'progress'; readonly text: string; readonly host?: string; readonly vm?: string }
  | { readonly do: 'finish'; readonly outcome: SnapshotOutcome }

export interface SnapshotData {
  readonly input: SnapshotInput
  readonly deadlineAtMs: number
  /** Serial of the one timer in force; the ring of an older one means nothing. */
  readonly timer: number
  readonly preflights: Readonly<Record<string, Preflight>>
  readonly epoch: number
  /** As last given to the store; null before `recording`. */
  readonly manifest: Manifest | null
  readonly prepared: readonly string[]
  readonly takenAtMs: number
  readonly parts: Readonly<Record<string, LocalPart>>
  readonly failure: ErrorReport | null
  /** Attempts so far, per host that has not yet confirmed its discard. */
  readonly discarding: Readonly<Record<string, number>>
  readonly undiscarded: readonly string[]
}

export type SnapshotStep = Step<SnapshotState, SnapshotData, SnapshotEffect>
export type SnapshotAt = { readonly state: SnapshotState; readonly data: SnapshotData }

export const preflightLimitMs = 10_000
export const discardAttempts = 5
// A discard may have to merge disks back.
const discardCallMs = 20_000
const discardLimitMs = 45_000

/** The first step: ask every host whether it could take part. */
export function beginSnapshot(input: SnapshotInput, now: Instant): SnapshotStep {
  const data: SnapshotData = {
    input,
    deadlineAtMs: now.ms + input.deadlineMs,
    timer: 1,
    preflights: {},
    epoch: 0,
    manifest: null,
    prepared: [],
    takenAtMs: 0,
    parts: {},
    failure: null,
    discarding: {},
    undiscarded: [],
  }
  const timeoutMs = Math.min(preflightLimitMs, input.deadlineMs)
  return {
    state: 'preflight',
    data,
    effects: [
      { do: 'progress', text: `asking ${listed(input.hosts)} whether a snapshot can be taken` },
      { do: 'timer', timer: 1, afterMs: timeoutMs },
      ...input.hosts.map((host) => ({ do: 'preflight', host, timeoutMs }) as const),
    ],
  }
}

export function stepSnapshot(at: SnapshotAt, event: SnapshotEvent, now: Instant): SnapshotStep {
  return step(snapshotTable, at, event, now)
}

export function snapshotEnded(state: SnapshotState): boolean {
  return state === 'complete' || state === 'failed' || state === 'refused'
}

// --- the ways on ----------------------------------------------------------------------------------------------------

const stay =
  (state: SnapshotState) =>
  (data: SnapshotData): SnapshotStep => ({ state, data, effects: [] })

function refuse(data: SnapshotData, error: ErrorReport): SnapshotStep {
  return {
    state: 'refused',
    data: { ...data, failure: error },
    effects: [{ do: 'finish', outcome: { type: 'failed', error, manifest: null } }],
  }
}

function preflighted(data: SnapshotData, host: string, preflight: Preflight, now: Instant): SnapshotStep {
  const known = { ...data, preflights: { ...data.preflights, [host]: preflight } }
  if (waiting(known.input.hosts, known.preflights).length > 0) return { state: 'preflight', data: known, effects: [] }
  const problem = joinReports(judgePreflights(known.preflights))
  if (problem !== null) return refuse(known, problem)
  const { input } = known
  const epoch = nextEpoch(Object.values(known.preflights), input.maxKnownEpoch)
  if (epoch === null) return refuse(known, epochsUsedUp)
  const manifest: Manifest = {
    format: 1,
    network: input.network,
    name: input.name,
    state: 'pending',
    epoch,
    policy: input.policy,
    createdAt: isoTime(now),
    finishedAt: null,
    version: input.version,
    parts: [],
    figures: null,
    error: null,
  }
  return { state: 'recording', data: { ...known, epoch, manifest }, effects: [{ do: 'store', manifest }] }
}

/** The pending manifest is on disk: whatever happens now, a later start of the coordinator knows of it. */
function recorded(data: SnapshotData, now: Instant): SnapshotStep {
  if (data.failure !== null) return conclude(data, data.failure, now)
  const { input, epoch } = data
  const timeoutMs = left(data.deadlineAtMs, now)
  const timer = data.timer + 1
  const request: PrepareRequest = { epoch, policy: input.policy, deadlineMs: timeoutMs }
  return {
    state: 'preparing',
    data: { ...data, timer },
    effects: [
      { do: 'progress', text: `preparing epoch ${epoch}` },
      { do: 'timer', timer, afterMs: timeoutMs },
      ...input.hosts.map((host) => ({ do: 'prepare', host, request, timeoutMs }) as const),
    ],
  }
}

function prepared(data: SnapshotData, host: string, now: Instant): SnapshotStep {
  const known = data.prepared.includes(host) ? data : { ...data, prepared: [...data.prepared, host] }
  if (known.input.hosts.some((h) => !known.prepared.includes(h)))
    return { state: 'preparing', data: known, effects: [] }
  const timeoutMs = left(known.deadlineAtMs, now)
  return {
    state: 'taking',
    data: { ...known, takenAtMs: now.ms },
    effects: [
      // Before all else: every effect ahead of a TAKE would add to the skew of the cuts.
      ...known.input.hosts.map((host) => ({ do: 'take', host, timeoutMs }) as const),
      { do: 'progress', text: 'cutting' },
    ],
  }
}

function local(data: SnapshotData, host: string, event: LocalEvent, now: Instant): SnapshotStep {
  const goOn = (text: string, vm?: string): SnapshotStep => ({
    state: 'taking',
    data,
    effects: [vm === undefined ? { do: 'progress', text, host } : { do: 'progress', text, host, vm }],
  })
  switch (event.type) {
    case 'paused':
    case 'cut':
    case 'resumed':
      return goOn(event.type, event.vm)
    case 'sealed':
      return goOn(`sealed, ${event.bytes} bytes`, event.vm)
    case 'closed':
      return goOn('channels closed')
    case 'failed':
      return fail(data, onHost(host, event.error), now)
    case 'done':
      return done(data, host, event.part, now)
  }
}

function done(data: SnapshotData, host: string, part: LocalPart, now: Instant): SnapshotStep {
  const preflight = data.preflights[host] as Preflight
  const { network, name: snapshot } = data.input
  const fault = partFault(part, { network, snapshot, epoch: data.epoch, preflight })
  if (fault !== null) {
    const error = {
      code: 'SNAPSHOT_FAILED',
      message: `host ${host}: ${fault}`,
      action: 'Try again; see the daemon’s log if it happens twice.',
    } as const
    return fail(data, error, now)
  }
  const known = { ...data, parts: { ...data.parts, [host]: part } }
  const finished: SnapshotEffect = { do: 'progress', text: 'done', host }
  if (waiting(known.input.hosts, known.parts).length > 0) return { state: 'taking', data: known, effects: [finished] }
  const parts = known.input.hosts.map((h) => known.parts[h] as LocalPart)
  const manifest: Manifest = {
    ...(known.manifest as Manifest),
    state: 'complete',
    finishedAt: isoTime(now),
    parts,
    figures: figuresOf(parts, now.ms - known.takenAtMs),
  }
  return { state: 'committing', data: { ...known, manifest }, effects: [finished, { do: 'store', manifest }] }
}

function committed(data: SnapshotData): SnapshotStep {
  const manifest = data.manifest as Manifest
  return { state: 'complete', data, effects: [{ do: 'finish', outcome: { type: 'complete', manifest } }] }
}

/** The one door to failure once hosts may have begun: tell every one of them. */
function fail(data: SnapshotData, error: ErrorReport, now: Instant): SnapshotStep {
  const timer = data.timer + 1
  const hosts = data.input.hosts
  const known: SnapshotData = {
    ...data,
    timer,
    failure: undone(data, error),
    discarding: Object.fromEntries(hosts.map((host) => [host, 1])),
  }
  if (hosts.length === 0) return conclude(known, known.failure as ErrorReport, now)
  return {
    state: 'discarding',
    data: known,
    effects: [
      ...hosts.map((host) => discard(data, host, 0)),
      { do: 'timer', timer, afterMs: discardLimitMs },
      { do: 'progress', text: `undoing: ${error.message}` },
    ],
  }
}

function discard(data: SnapshotData, host: string, delayMs: number): SnapshotEffect {
  return { do: 'discard', host, epoch: data.epoch, delayMs, timeoutMs: discardCallMs }
}

function discarded(data: SnapshotData, host: string, now: Instant): SnapshotStep {
  const { [host]: _, ...discarding } = data.discarding
  const known = { ...data, discarding }
  if (Object.keys(discarding).length > 0) return { state: 'discarding', data: known, effects: [] }
  return conclude(known, known.failure as ErrorReport, now)
}

function discardFailed(data: SnapshotData, host: string, error: ErrorReport, now: Instant): SnapshotStep {
  const attempts = data.discarding[host]
  // Already confirmed: the answer to an older attempt.
  if (attempts === undefined) return { state: 'discarding', data, effects: [] }
  // It never heard of it: nothing to undo there.
  if (error.code === 'SNAPSHOT_UNKNOWN') return discarded(data, host, now)
  if (attempts < discardAttempts) {
    const known = { ...data, discarding: { ...data.discarding, [host]: attempts + 1 } }
    return { state: 'discarding', data: known, effects: [discard(data, host, retryDelayMs(attempts + 1))] }
  }
  const given = discarded({ ...data, undiscarded: [...data.undiscarded, host] }, host, now)
  const note: SnapshotEffect = { do: 'progress', text: `could not be told to undo it: ${error.message}`, host }
  return { ...given, effects: [note, ...given.effects] }
}

/** Time is up for the discards: those not confirmed are named in the manifest. */
function discardsLate(data: SnapshotData, now: Instant): SnapshotStep {
  const undiscarded = [...data.undiscarded, ...Object.keys(data.discarding)]
  return conclude({ ...data, undiscarded, discarding: {} }, data.failure as ErrorReport, now)
}

function conclude(data: SnapshotData, error: ErrorReport, now: Instant): SnapshotStep {
  const named = data.undiscarded.length === 0 ? error : withUndiscarded(error, data.undiscarded)
  const manifest = failedManifest(data.manifest as Manifest, isoTime(now), named, data.undiscarded)
  return { state: 'failing', data: { ...data, failure: named, manifest }, effects: [{ do: 'store', manifest }] }
}

function concluded(data: SnapshotData): SnapshotStep {
  const outcome = { type: 'failed', error: data.failure as ErrorReport, manifest: data.manifest } as const
  return { state: 'failed', data, effects: [{ do: 'finish', outcome }] }
}

function late(data: SnapshotData, what: string, hosts: readonly string[]): ErrorReport {
  return {
    code: 'DEADLINE',
    message: `${listed(hosts.map((host) => `host ${host}`))} had not ${what} after ${data.input.deadlineMs} ms`,
    action: 'Give a longer --deadline, and see the log of the switch there.',
  }
}

function undone(data: SnapshotData, error: ErrorReport): ErrorReport {
  const { network, name } = data.input
  return { ...error, message: `snapshot ${network}/${name} was not taken; all machines run on. ${error.message}` }
}

function withUndiscarded(error: ErrorReport, hosts: readonly string[]): ErrorReport {
  return {
    ...error,
    message: `${error.message}. ${listed(hosts.map((h) => `host ${h}`))} could not be told; its agent ends by its own deadline`,
  }
}

const epochsUsedUp: ErrorReport = {
  code: 'EPOCH_STALE',
  message: 'the network has used up all 2^32 epochs',
  action: 'Restart the switches with a new network name.',
}

function waiting(hosts: readonly string[], answered: Readonly<Record<string, unknown>>): string[] {
  return hosts.filter((host) => answered[host] === undefined)
}

// --- the table ------------------------------------------------------------------------------------------------------

/** For a state with a timer: only the timer in force counts. */
const onTimer =
  (state: SnapshotState, act: (data: SnapshotData, now: Instant) => SnapshotStep) =>
  (data: SnapshotData, event: { readonly timer: number }, now: Instant): SnapshotStep =>
    event.timer === data.timer ? act(data, now) : { state, data, effects: [] }

const inert = (state: SnapshotState) => {
  const ignore = stay(state)
  return {
    preflighted: ignore,
    stored: ignore,
    storeFailed: ignore,
    prepared: ignore,
    local: ignore,
    discarded: ignore,
    agentFailed: ignore,
    deadline: ignore,
    cancel: ignore,
  }
}

export const snapshotTable = {
  preflight: {
    ...inert('preflight'),
    preflighted: (data, event, now) => preflighted(data, event.host, event.preflight, now),
    agentFailed: (data, event) => refuse(data, onHost(event.host, event.error)),
    deadline: onTimer('preflight', (data) =>
      refuse(data, late(data, 'answered', waiting(data.input.hosts, data.preflights))),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  // The store is writing. It cannot be called back, so a cancel waits for its answer; no host knows anything yet.
  recording: {
    ...inert('recording'),
    stored: (data, _event, now) => recorded(data, now),
    storeFailed: (data, event) => refuse(data, event.error),
    cancel: (data, event) => ({ state: 'recording', data: { ...data, failure: event.error }, effects: [] }),
  },
  preparing: {
    ...inert('preparing'),
    prepared: (data, event, now) => prepared(data, event.host, now),
    agentFailed: (data, event, now) => fail(data, onHost(event.host, event.error), now),
    deadline: onTimer('preparing', (data, now) =>
      fail(
        data,
        late(
          data,
          'prepared',
          data.input.hosts.filter((h) => !data.prepared.includes(h)),
        ),
        now,
      ),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  taking: {
    ...inert('taking'),
    local: (data, event, now) => local(data, event.host, event.event, now),
    // A host that is done is done: its stream may end as it likes.
    agentFailed: (data, event, now) =>
      data.parts[event.host] === undefined
        ? fail(data, onHost(event.host, event.error), now)
        : { state: 'taking', data, effects: [] },
    deadline: onTimer('taking', (data, now) =>
      fail(data, late(data, 'finished its part', waiting(data.input.hosts, data.parts)), now),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  // All parts are sealed. While the store writes, the manifest may be complete on disk already: a discard now could
  // leave a `complete` manifest without its parts. So neither deadline nor cancel counts; only the store's answer does.
  committing: {
    ...inert('committing'),
    stored: committed,
    storeFailed: (data, event, now) => fail(data, event.error, now),
  },
  discarding: {
    ...inert('discarding'),
    discarded: (data, event, now) => discarded(data, event.host, now),
    agentFailed: (data, event, now) =>
      event.call === 'discard'
        ? discardFailed(data, event.host, event.error, now)
        : { state: 'discarding', data, effects: [] },
    deadline: onTimer('discarding', discardsLate),
  },
  // If even this cannot be written, the pending manifest stays, and becomes failed when the coordinator next starts.
  failing: { ...inert('failing'), stored: concluded, storeFailed: concluded },
  complete: inert('complete'),
  failed: inert('failed'),
  refused: inert('refused'),
} satisfies Table<SnapshotState, SnapshotData, SnapshotEvent, SnapshotEffect>
