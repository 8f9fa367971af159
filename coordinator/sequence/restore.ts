// The global sequence of `snapshot restore` as a table (protocol.md, "Global sequence"):
//
//   preflight -> checking -> transferring -> removing -> loading -> resuming -> done
//       |            |             |            |           |           |
//       +--refused---+             +------------+-----------+-----------+--> aborting -> failed
//
// Everything that can fail without ending an original comes first; the files travel before anything is removed. The
// barrier lies between `loading` and `resuming`: no machine runs before all are loaded. Invariant: once `transferring`
// has begun, the only ways out are `done`, with every machine running, or through `aborting`, where every target is told.
// Beyond the barrier a resume is repeated, bounded. A host that still does not resume is told to abort; the others run on
// (for them it is as if that host had crashed just after the cut), and the error says so.

import type {
  Manifest,
  Preflight,
  RestoreCheck,
  RestoreLoaded,
  RestoreReport,
  RestoreRequest,
  RestoreResumed,
} from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import { formerHosts, planTransfers, type RestorePlan, requestFor, type Transfer } from './restore-plan.js'
import { misnamedHosts, nextEpoch, versionsThatDiffer } from './snapshot-rules.js'
import { type Instant, joinReports, left, listed, onHost, retryDelayMs, type Step, step, type Table } from './table.js'

export const restoreStates = [
  'preflight',
  'checking',
  'transferring',
  'removing',
  'loading',
  'resuming',
  'aborting',
  'done',
  'failed',
  'refused',
] as const
export type RestoreState = (typeof restoreStates)[number]

export interface RestoreInput {
  readonly manifest: Manifest
  readonly plan: RestorePlan
  /** End originals that still run. */
  readonly replace: boolean
  /** Highest epoch in any manifest of the network. */
  readonly maxKnownEpoch: number
  /** For the whole of it, from `begin` on. */
  readonly deadlineMs: number
}

/** Whose check it was: the machines that come to this host, or those that were here before. */
export type CheckPurpose = 'target' | 'former'

export type RestoreEvent =
  /** `holds`: the machines that have a port of the network there, running or not. */
  | {
      readonly type: 'preflighted'
      readonly host: string
      readonly preflight: Preflight
      readonly holds: readonly string[]
    }
  | { readonly type: 'checked'; readonly host: string; readonly purpose: CheckPurpose; readonly check: RestoreCheck }
  | { readonly type: 'transferred'; readonly host: string; readonly digest: string }
  | { readonly type: 'removed'; readonly host: string; readonly vm: string }
  | { readonly type: 'loaded'; readonly host: string; readonly loaded: RestoreLoaded }
  | { readonly type: 'resumed'; readonly host: string; readonly resumed: RestoreResumed }
  | { readonly type: 'aborted'; readonly host: string }
  | { readonly type: 'agentFailed'; readonly host: string; readonly call: RestoreCall; readonly error: ErrorReport }
  | { readonly type: 'deadline'; readonly timer: number }
  | { readonly type: 'cancel'; readonly error: ErrorReport }

/** Which call failed; with what tells it from the host's other calls of the kind. */
export type RestoreCall =
  | { readonly do: 'preflight' | 'load' | 'resume' | 'abort' }
  | { readonly do: 'check'; readonly purpose: CheckPurpose }
  | { readonly do: 'transfer'; readonly digest: string }
  | { readonly do: 'remove'; readonly vm: string }

export type RestoreOutcome =
  | { readonly type: 'done'; readonly report: RestoreReport }
  | { readonly type: 'failed'; readonly error: ErrorReport }

export type RestoreEffect =
  | { readonly do: 'preflight'; readonly host: string; readonly timeoutMs: number }
  | {
      readonly do: 'check'
      readonly host: string
      readonly purpose: CheckPurpose
      readonly request: RestoreRequest
      readonly timeoutMs: number
    }
  | ({ readonly do: 'transfer'; readonly timeoutMs: number } & Transfer)
  | { readonly do: 'remove'; readonly host: string; readonly vm: string; readonly timeoutMs: number }
  | { readonly do: 'load'; readonly host: string; readonly request: RestoreRequest; readonly timeoutMs: number }
  | { readonly do: 'resume'; readonly host: string; readonly delayMs: number; readonly timeoutMs: number }
  | { readonly do: 'abort'; readonly host: string; readonly delayMs: number; readonly timeoutMs: number }
  | { readonly do: 'timer'; readonly timer: number; readonly afterMs: number }
  | { readonly do: 'progress'; readonly text: string; readonly host?: string; readonly vm?: string }
  | { readonly do: 'finish'; readonly outcome: RestoreOutcome }

export interface RestoreData {
  readonly input: RestoreInput
  readonly startedAtMs: number
  readonly deadlineAtMs: number
  readonly timer: number
  readonly preflights: Readonly<Record<string, Preflight>>
  readonly holds: Readonly<Record<string, readonly string[]>>
  /** Hosts that play no part and did not answer: done without. */
  readonly absent: readonly string[]
  readonly epoch: number
  /** Checks that are still awaited, as `purpose host`. */
  readonly checking: readonly string[]
  readonly checks: Readonly<Record<string, RestoreCheck>>
  readonly former: Readonly<Record<string, RestoreCheck>>
  readonly waitingTransfers: readonly Transfer[]
  readonly runningTransfers: readonly Transfer[]
  readonly transferredBytes: number
  /** Removals that are still awaited. */
  readonly removing: readonly { readonly host: string; readonly vm: string }[]
  readonly loaded: Readonly<Record<string, RestoreLoaded>>
  readonly resumed: Readonly<Record<string, RestoreResumed>>
  readonly resumeAttempts: Readonly<Record<string, number>>
  readonly failure: ErrorReport | null
  readonly aborting: Readonly<Record<string, number>>
  readonly unaborted: readonly string[]
}

export type RestoreStep = Step<RestoreState, RestoreData, RestoreEffect>
export type RestoreAt = { readonly state: RestoreState; readonly data: RestoreData }

export const transfersAtOnce = 2
export const resumeAttempts = 4
export const abortAttempts = 5
const preflightLimitMs = 10_000
const abortCallMs = 10_000
const abortLimitMs = 40_000
const resumeCallMs = 15_000

export function beginRestore(input: RestoreInput, now: Instant): RestoreStep {
  const timeoutMs = Math.min(preflightLimitMs, input.deadlineMs)
  return {
    state: 'preflight',
    data: {
      input,
      startedAtMs: now.ms,
      deadlineAtMs: now.ms + input.deadlineMs,
      timer: 1,
      preflights: {},
      holds: {},
      absent: [],
      epoch: 0,
      checking: [],
      checks: {},
      former: {},
      waitingTransfers: [],
      runningTransfers: [],
      transferredBytes: 0,
      removing: [],
      loaded: {},
      resumed: {},
      resumeAttempts: {},
      failure: null,
      aborting: {},
      unaborted: [],
    },
    effects: [
      { do: 'progress', text: `asking ${listed(input.plan.hosts)}` },
      // Longer than the calls' own limit: an uninvolved host that stays silent must not end the restore.
      { do: 'timer', timer: 1, afterMs: input.deadlineMs },
      ...input.plan.hosts.map((host) => ({ do: 'preflight', host, timeoutMs }) as const),
    ],
  }
}

export function stepRestore(at: RestoreAt, event: RestoreEvent, now: Instant): RestoreStep {
  return step(restoreTable, at, event, now)
}

export function restoreEnded(state: RestoreState): boolean {
  return state === 'done' || state === 'failed' || state === 'refused'
}

// --- the ways on ----------------------------------------------------------------------------------------------------

const at = (state: RestoreState, data: RestoreData, ...effects: RestoreEffect[]): RestoreStep => ({
  state,
  data,
  effects,
})

function refuse(data: RestoreData, error: ErrorReport): RestoreStep {
  return at('refused', { ...data, failure: error }, { do: 'finish', outcome: { type: 'failed', error } })
}

function afterPreflight(data: RestoreData, now: Instant): RestoreStep {
  const { plan, manifest, maxKnownEpoch } = data.input
  const awaited = plan.hosts.filter((h) => data.preflights[h] === undefined && !data.absent.includes(h))
  if (awaited.length > 0) return at('preflight', data)
  const involved = plan.required.map((host) => [host, data.preflights[host] as Preflight] as const)
  const problem = joinReports([...misnamedHosts(involved), ...versionsThatDiffer(involved)])
  if (problem !== null) return refuse(data, problem)
  const epoch = nextEpoch(Object.values(data.preflights), maxKnownEpoch)
  if (epoch === null) {
    const message = 'the network has used up all 2^32 epochs'
    return refuse(data, { code: 'EPOCH_STALE', message, action: 'Restart the switches with a new network name.' })
  }
  const timeoutMs = left(data.deadlineAtMs, now)
  const checks: Extract<RestoreEffect, { do: 'check' }>[] = [
    ...plan.targets.map((host) => {
      const request = requestFor(manifest, plan, host, epoch, timeoutMs)
      return { do: 'check', host, purpose: 'target', request, timeoutMs } as const
    }),
    ...formerHosts(plan, data.holds).map(({ host, members }) => {
      const request: RestoreRequest = { epoch, members: [...members], channels: [], deadlineMs: timeoutMs }
      return { do: 'check', host, purpose: 'former', request, timeoutMs } as const
    }),
  ]
  const timer = data.timer + 1
  return at(
    'checking',
    { ...data, epoch, timer, checking: checks.map((c) => `${c.purpose} ${c.host}`) },
    { do: 'progress', text: 'checking files and machines' },
    { do: 'timer', timer, afterMs: timeoutMs },
    ...checks,
  )
}

function checked(
  data: RestoreData,
  host: string,
  purpose: CheckPurpose,
  check: RestoreCheck,
  now: Instant,
): RestoreStep {
  const known: RestoreData = {
    ...data,
    checking: data.checking.filter((c) => c !== `${purpose} ${host}`),
    checks: purpose === 'target' ? { ...data.checks, [host]: check } : data.checks,
    former: purpose === 'former' ? { ...data.former, [host]: check } : data.former,
  }
  return known.checking.length > 0 ? at('checking', known) : afterChecks(known, now)
}

function afterChecks(data: RestoreData, now: Instant): RestoreStep {
  const { manifest, replace } = data.input
  const entries = Object.entries(data.checks)
  const running = runningOriginals(data)
  const missing = Object.fromEntries(entries.map(([host, check]) => [host, check.missing]))
  const { transfers, problems } = planTransfers(manifest, missing)
  const found = [...entries.flatMap(([host, check]) => check.problems.map((p) => onHost(host, p))), ...problems]
  if (running.length > 0 && !replace) {
    found.unshift({
      code: 'MACHINE_RUNNING',
      message: `still running: ${running.map((r) => `${r.vm} on host ${r.host}`).join(', ')}`,
      action: 'Shut them down, or give --replace to end them.',
    })
  }
  const problem = joinReports(found)
  if (problem !== null) return refuse(data, problem)
  return transfer({ ...data, waitingTransfers: transfers }, now)
}

function runningOriginals(data: RestoreData): { readonly host: string; readonly vm: string }[] {
  return [...Object.entries(data.checks), ...Object.entries(data.former)].flatMap(([host, check]) =>
    check.running.map((vm) => ({ host, vm })),
  )
}

/** Keeps a bounded number of transfers going; on with the rest when there are none left. */
function transfer(data: RestoreData, now: Instant): RestoreStep {
  const free = transfersAtOnce - data.runningTransfers.length
  const started = data.waitingTransfers.slice(0, free)
  const known: RestoreData = {
    ...data,
    waitingTransfers: data.waitingTransfers.slice(started.length),
    runningTransfers: [...data.runningTransfers, ...started],
  }
  if (known.runningTransfers.length === 0) return remove(known, now)
  const timeoutMs = left(data.deadlineAtMs, now)
  return at(
    'transferring',
    known,
    ...started.flatMap((t): RestoreEffect[] => [
      { do: 'progress', text: `${fileName(t.file.path)}, ${t.file.bytes} bytes, from host ${t.from}`, host: t.to },
      { do: 'transfer', ...t, timeoutMs },
    ]),
  )
}

function transferred(data: RestoreData, host: string, digest: string, now: Instant): RestoreStep {
  const ended = data.runningTransfers.find((t) => t.to === host && t.file.digest === digest)
  if (ended === undefined) return at('transferring', data)
  const runningTransfers = data.runningTransfers.filter((t) => t !== ended)
  return transfer({ ...data, runningTransfers, transferredBytes: data.transferredBytes + ended.file.bytes }, now)
}

/** Ends originals that run, and takes the ports of machines that move off their former hosts. */
function remove(data: RestoreData, now: Instant): RestoreStep {
  const moved = formerHosts(data.input.plan, data.holds).flatMap(({ host, members }) =>
    members.map((m) => ({ host, vm: m.vm })),
  )
  const removing = [...moved]
  for (const r of runningOriginals(data)) {
    if (!removing.some((m) => m.host === r.host && m.vm === r.vm)) removing.push(r)
  }
  if (removing.length === 0) return load(data, now)
  const timeoutMs = left(data.deadlineAtMs, now)
  return at(
    'removing',
    { ...data, removing },
    { do: 'progress', text: `removing former ${listed(removing.map((r) => `${r.vm} (host ${r.host})`))}` },
    ...removing.map((r) => ({ do: 'remove', ...r, timeoutMs }) as const),
  )
}

function removed(data: RestoreData, host: string, vm: string, now: Instant): RestoreStep {
  const removing = data.removing.filter((r) => r.host !== host || r.vm !== vm)
  const known = { ...data, removing }
  return removing.length > 0 ? at('removing', known) : load(known, now)
}

function load(data: RestoreData, now: Instant): RestoreStep {
  const { plan, manifest } = data.input
  const timeoutMs = left(data.deadlineAtMs, now)
  return at(
    'loading',
    data,
    { do: 'progress', text: `loading ${listed(plan.members.map((m) => m.part.vm))}` },
    ...plan.targets.map((host) => {
      const request = requestFor(manifest, plan, host, data.epoch, timeoutMs)
      return { do: 'load', host, request, timeoutMs } as const
    }),
  )
}

function loaded(data: RestoreData, host: string, answer: RestoreLoaded, now: Instant): RestoreStep {
  const { plan } = data.input
  const expected = plan.members.filter((m) => m.to === host).map((m) => m.part.vm)
  const absent = expected.filter((vm) => !answer.loaded.includes(vm))
  if (absent.length > 0) {
    const message = `host ${host} did not load ${listed(absent)}`
    return fail(data, { code: 'RESTORE_FAILED', message, action: 'See the log of the switch there.' }, now)
  }
  const known = { ...data, loaded: { ...data.loaded, [host]: answer } }
  const progress: RestoreEffect = { do: 'progress', text: `loaded ${listed(expected)}`, host }
  if (plan.targets.some((h) => known.loaded[h] === undefined)) return at('loading', known, progress)
  // The barrier: everything is in memory everywhere.
  return at(
    'resuming',
    { ...known, resumeAttempts: Object.fromEntries(plan.targets.map((h) => [h, 1])) },
    ...plan.targets.map((h) => resume(data, h, 0, now)),
    progress,
    { do: 'progress', text: 'all loaded: resuming' },
  )
}

function resume(data: RestoreData, host: string, delayMs: number, now: Instant): RestoreEffect {
  const timeoutMs = Math.min(resumeCallMs, left(data.deadlineAtMs, now))
  return { do: 'resume', host, delayMs, timeoutMs }
}

function resumeFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (data.resumed[host] !== undefined) return at('resuming', data)
  const attempts = data.resumeAttempts[host] ?? 1
  // SNAPSHOT_UNKNOWN: the agent holds no loaded restore any more, so that asking again is of no use.
  if (attempts >= resumeAttempts || error.code === 'SNAPSHOT_UNKNOWN') return fail(data, onHost(host, error), now)
  const known = { ...data, resumeAttempts: { ...data.resumeAttempts, [host]: attempts + 1 } }
  return at('resuming', known, resume(data, host, retryDelayMs(attempts + 1), now))
}

function resumed(data: RestoreData, host: string, answer: RestoreResumed, now: Instant): RestoreStep {
  const known = { ...data, resumed: { ...data.resumed, [host]: answer } }
  const { plan, manifest } = data.input
  if (plan.targets.some((h) => known.resumed[h] === undefined)) return at('resuming', known)
  const times = Object.values(known.resumed).flatMap((r) => r.resumed.map((m) => m.atUs))
  const report: RestoreReport = {
    network: manifest.network,
    name: manifest.name,
    epoch: data.epoch,
    placement: Object.fromEntries(plan.members.map((m) => [m.part.vm, m.to])),
    restoreMs: Math.round((now.ms - data.startedAtMs) * 1000) / 1000,
    transferredBytes: data.transferredBytes,
    channelFrames: Object.values(data.loaded).reduce((n, l) => n + l.channelFrames, 0),
    resumedSkewMs: times.length === 0 ? 0 : (Math.max(...times) - Math.min(...times)) / 1000,
  }
  return at('done', known, { do: 'finish', outcome: { type: 'done', report } })
}

/** The one door to failure once a target may have begun: tell every one of them that does not run for certain. */
function fail(data: RestoreData, error: ErrorReport, now: Instant): RestoreStep {
  const targets = data.input.plan.targets.filter((host) => data.resumed[host] === undefined)
  const timer = data.timer + 1
  const known: RestoreData = {
    ...data,
    timer,
    failure: failureOf(data, error),
    waitingTransfers: [],
    aborting: Object.fromEntries(targets.map((h) => [h, 1])),
  }
  if (targets.length === 0) return aborted(known, '', now)
  return at(
    'aborting',
    known,
    ...targets.map((host) => ({ do: 'abort', host, delayMs: 0, timeoutMs: abortCallMs }) as const),
    { do: 'timer', timer, afterMs: abortLimitMs },
    { do: 'progress', text: `undoing: ${error.message}` },
  )
}

function failureOf(data: RestoreData, error: ErrorReport): ErrorReport {
  const { network, name } = data.input.manifest
  const which = `${network}/${name}`
  const running = Object.keys(data.resumed)
  if (running.length === 0) {
    return { ...error, message: `the restore of ${which} was undone; the snapshot is untouched. ${error.message}` }
  }
  return {
    code: 'RESTORE_FAILED',
    message: `${which} is restored only in part: the machines of ${listed(running.map((h) => `host ${h}`))} run, but ${error.message}`,
    action: `Restore it again: snapswitch snapshot restore ${which} --replace`,
  }
}

function aborted(data: RestoreData, host: string, _now: Instant): RestoreStep {
  const { [host]: _, ...aborting } = data.aborting
  const known = { ...data, aborting }
  return Object.keys(aborting).length > 0 ? at('aborting', known) : conclude(known)
}

function abortFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  const attempts = data.aborting[host]
  if (attempts === undefined) return at('aborting', data)
  // It never heard of it, or has let go of it already: nothing to undo there.
  if (error.code === 'SNAPSHOT_UNKNOWN') return aborted(data, host, now)
  if (attempts >= abortAttempts) return aborted({ ...data, unaborted: [...data.unaborted, host] }, host, now)
  const known = { ...data, aborting: { ...data.aborting, [host]: attempts + 1 } }
  const delayMs = retryDelayMs(attempts + 1)
  return at('aborting', known, { do: 'abort', host, delayMs, timeoutMs: abortCallMs })
}

function conclude(data: RestoreData): RestoreStep {
  const failure = data.failure as ErrorReport
  const error: ErrorReport =
    data.unaborted.length === 0
      ? failure
      : {
          ...failure,
          message: `${failure.message}. ${listed(data.unaborted.map((h) => `host ${h}`))} could not be told to undo it`,
          action: `Restart the switch there; machines that it loaded are paused. ${failure.action}`,
        }
  return at('failed', { ...data, failure: error }, { do: 'finish', outcome: { type: 'failed', error } })
}

function late(data: RestoreData, doing: string, hosts: readonly string[]): ErrorReport {
  return {
    code: 'DEADLINE',
    message: `${doing} was not finished after ${data.input.deadlineMs} ms on ${listed(hosts.map((h) => `host ${h}`))}`,
    action: 'Give a longer --deadline, and see the log of the switch there.',
  }
}

function fileName(path: string): string {
  return path.split('/').slice(-2).join('/')
}

// --- the table ------------------------------------------------------------------------------------------------------

type Act = (data: RestoreData, now: Instant) => RestoreStep

const onTimer =
  (state: RestoreState, act: Act) =>
  (data: RestoreData, event: { readonly timer: number }, now: Instant): RestoreStep =>
    event.timer === data.timer ? act(data, now) : at(state, data)

const failOnHost = (data: RestoreData, event: { host: string; error: ErrorReport }, now: Instant) =>
  fail(data, onHost(event.host, event.error), now)

const inert = (state: RestoreState) => {
  const ignore = (data: RestoreData): RestoreStep => at(state, data)
  return {
    preflighted: ignore,
    checked: ignore,
    transferred: ignore,
    removed: ignore,
    loaded: ignore,
    resumed: ignore,
    aborted: ignore,
    agentFailed: ignore,
    deadline: ignore,
    cancel: ignore,
  }
}

export const restoreTable = {
  preflight: {
    ...inert('preflight'),
    preflighted: (data, event, now) =>
      afterPreflight(
        {
          ...data,
          preflights: { ...data.preflights, [event.host]: event.preflight },
          holds: { ...data.holds, [event.host]: event.holds },
        },
        now,
      ),
    agentFailed: (data, event, now) =>
      data.input.plan.required.includes(event.host)
        ? refuse(data, onHost(event.host, event.error))
        : afterPreflight({ ...data, absent: [...data.absent, event.host] }, now),
    deadline: onTimer('preflight', (data) =>
      refuse(
        data,
        late(
          data,
          'asking',
          data.input.plan.hosts.filter((h) => data.preflights[h] === undefined),
        ),
      ),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  checking: {
    ...inert('checking'),
    checked: (data, event, now) => checked(data, event.host, event.purpose, event.check, now),
    agentFailed: (data, event, now) =>
      // A former host that no longer knows the machine has nothing that could run.
      event.call.do === 'check' && event.call.purpose === 'former' && event.error.code === 'MACHINE_UNKNOWN'
        ? checked(data, event.host, 'former', { missing: [], running: [], problems: [] }, now)
        : refuse(data, onHost(event.host, event.error)),
    deadline: onTimer('checking', (data) =>
      refuse(data, late(data, 'checking', [...new Set(data.checking.map((c) => c.split(' ')[1] as string))])),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  transferring: {
    ...inert('transferring'),
    transferred: (data, event, now) => transferred(data, event.host, event.digest, now),
    agentFailed: failOnHost,
    deadline: onTimer('transferring', (data, now) =>
      fail(data, late(data, 'copying files', [...new Set(data.runningTransfers.map((t) => t.to))]), now),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  removing: {
    ...inert('removing'),
    removed: (data, event, now) => removed(data, event.host, event.vm, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'remove' && event.error.code === 'MACHINE_UNKNOWN'
        ? removed(data, event.host, event.call.vm, now)
        : failOnHost(data, event, now),
    deadline: onTimer('removing', (data, now) =>
      fail(data, late(data, 'removing machines', [...new Set(data.removing.map((r) => r.host))]), now),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  loading: {
    ...inert('loading'),
    loaded: (data, event, now) => loaded(data, event.host, event.loaded, now),
    agentFailed: failOnHost,
    deadline: onTimer('loading', (data, now) =>
      fail(
        data,
        late(
          data,
          'loading',
          data.input.plan.targets.filter((h) => data.loaded[h] === undefined),
        ),
        now,
      ),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  resuming: {
    ...inert('resuming'),
    resumed: (data, event, now) => resumed(data, event.host, event.resumed, now),
    agentFailed: (data, event, now) => resumeFailed(data, event.host, event.error, now),
    deadline: onTimer('resuming', (data, now) =>
      fail(
        data,
        late(
          data,
          'resuming',
          data.input.plan.targets.filter((h) => data.resumed[h] === undefined),
        ),
        now,
      ),
    ),
    // Beyond the barrier there is nothing left to call off: machines run.
    cancel: (data) => at('resuming', data),
  },
  aborting: {
    ...inert('aborting'),
    aborted: (data, event, now) => aborted(data, event.host, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'abort' ? abortFailed(data, event.host, event.error, now) : at('aborting', data),
    deadline: onTimer('aborting', (data) =>
      conclude({ ...data, unaborted: [...data.unaborted, ...Object.keys(data.aborting)], aborting: {} }),
    ),
  },
  done: inert('done'),
  failed: inert('failed'),
  refused: inert('refused'),
} satisfies Table<RestoreState, RestoreData, RestoreEvent, RestoreEffect>
