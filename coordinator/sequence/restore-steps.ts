// The steps that the restore table (restore.ts) is made of, as long as nothing fails: each decides where to go and what is to
// be done. Failure and undoing: restore-undo.ts.

import { contentOf, distinctFiles } from '../../src/api/files.js'
import type {
  FileReference,
  RestoreCheck,
  RestoreLoaded,
  RestoreReport,
  RestoreRequest,
  RestoreResumed,
} from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import { formerHosts, planTransfers, requestFor } from './restore-plan.js'
import {
  at,
  type CheckPurpose,
  fenceLimitMs,
  preflightLimitMs,
  type RestoreData,
  type RestoreEffect,
  type RestoreInput,
  type RestoreStep,
  resumeAttempts,
  resumeCallMs,
  transfersAtOnce,
} from './restore-types.js'
import { fail } from './restore-undo.js'
import { misnamedHosts, nextEpoch, versionsThatDiffer } from './snapshot-rules.js'
import { type Instant, joinReports, left, listed, onHost, retryDelayMs } from './table.js'

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
      lacking: {},
      waitingTransfers: [],
      runningTransfers: [],
      transferredBytes: 0,
      removing: [],
      loaded: {},
      resumed: {},
      resumeAttempts: {},
      failure: null,
      aborting: {},
      survivors: [],
      unaborted: [],
    },
    effects: [
      { do: 'progress', text: `asking ${listed(input.plan.hosts.map((h) => `host ${h}`))} what they have` },
      // Longer than the calls' own limit: an uninvolved host that stays silent must not end the restore.
      { do: 'timer', timer: 1, afterMs: input.deadlineMs },
      ...input.plan.hosts.map((host) => ({ do: 'preflight', host, timeoutMs }) as const),
    ],
  }
}

export function refuse(data: RestoreData, error: ErrorReport): RestoreStep {
  return at('refused', { ...data, failure: error }, { do: 'finish', outcome: { type: 'failed', error } })
}

export function afterPreflight(data: RestoreData, now: Instant): RestoreStep {
  const { plan, manifest, maxKnownEpoch } = data.input
  const awaited = plan.hosts.filter((h) => data.preflights[h] === undefined && !data.absent.includes(h))
  if (awaited.length > 0) return at('preflight', data)
  const involved = Object.entries(data.preflights).filter(([host]) => takesPart(data, host))
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

export function checked(
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

/** Hosts that machines come to or go from. */
const takesPart = ({ input }: RestoreData, host: string) =>
  input.plan.members.some((member) => member.from === host || member.to === host)

export function afterChecks(data: RestoreData, now: Instant): RestoreStep {
  const { replace } = data.input
  const entries = Object.entries(data.checks)
  const running = runningOriginals(data)
  const found = entries.flatMap(([host, check]) => check.problems.map((p) => onHost(host, p)))
  if (running.length > 0 && !replace) {
    found.unshift({
      code: 'MACHINE_RUNNING',
      message: `still running: ${running.map((r) => `${r.vm} on host ${r.host}`).join(', ')}`,
      action: 'Shut them down, or give --replace to end them.',
    })
  }
  const problem = joinReports(found)
  if (problem !== null) return refuse(data, problem)
  return locate(data, now)
}

/** Files that a target misses are looked for on every host: who has them shows by looking, not from the manifest. */
function locate(data: RestoreData, now: Instant): RestoreStep {
  const files = distinctFiles(Object.values(data.checks).flatMap((check) => check.missing))
  if (files.length === 0) return transfer(data, now)
  const timeoutMs = left(data.deadlineAtMs, now)
  const hosts = presentHosts(data)
  const request: RestoreRequest = { epoch: data.epoch, members: [], channels: [], files, deadlineMs: timeoutMs }
  const timer = data.timer + 1
  return at(
    'locating',
    { ...data, timer, checking: hosts.map((host) => `holder ${host}`) },
    { do: 'progress', text: `looking for ${files.length === 1 ? 'a file' : `${files.length} files`}` },
    { do: 'timer', timer, afterMs: timeoutMs },
    ...hosts.map((host) => ({ do: 'check', host, purpose: 'holder', request, timeoutMs }) as const),
  )
}

/** `lacking` null: the host could not say what it has, and so it has nothing to give. */
export function located(
  data: RestoreData,
  host: string,
  lacking: readonly FileReference[] | null,
  now: Instant,
): RestoreStep {
  const known: RestoreData = {
    ...data,
    checking: data.checking.filter((c) => c !== `holder ${host}`),
    lacking: { ...data.lacking, [host]: lacking },
  }
  return known.checking.length > 0 ? at('locating', known) : afterSearch(known, now)
}

function afterSearch(data: RestoreData, now: Instant): RestoreStep {
  const { manifest, plan } = data.input
  const missing = Object.fromEntries(Object.entries(data.checks).map(([host, check]) => [host, check.missing]))
  const answers = Object.entries(data.lacking).filter((one): one is [string, FileReference[]] => one[1] !== null)
  const lacking = Object.fromEntries(answers)
  const silent = plan.hosts.filter((host) => lacking[host] === undefined)
  const { transfers, problems } = planTransfers(manifest, missing, { lacking, silent })
  const problem = joinReports(problems)
  if (problem !== null) return refuse(data, problem)
  const bytes = transfers.reduce((sum, { file }) => sum + file.bytes, 0)
  const what = transfers.length === 1 ? 'a file' : `${transfers.length} files`
  const from = listed([...new Set(transfers.map((t) => `host ${t.from}`))])
  const started = transfer({ ...data, waitingTransfers: transfers }, now)
  const progress = {
    do: 'progress',
    text: `copying ${what}, ${bytes} bytes, from ${from}`,
    copying: transfers,
  } as const
  return { ...started, effects: [progress, ...started.effects] }
}

export function runningOriginals(data: RestoreData): { readonly host: string; readonly vm: string }[] {
  return [...Object.entries(data.checks), ...Object.entries(data.former)].flatMap(([host, check]) =>
    check.running.map((vm) => ({ host, vm })),
  )
}

/** Keeps a bounded number of transfers going; on with the rest when there are none left. */
export function transfer(data: RestoreData, now: Instant): RestoreStep {
  const free = transfersAtOnce - data.runningTransfers.length
  const started = data.waitingTransfers.slice(0, free)
  const known: RestoreData = {
    ...data,
    waitingTransfers: data.waitingTransfers.slice(started.length),
    runningTransfers: [...data.runningTransfers, ...started],
  }
  if (known.runningTransfers.length === 0) return remove(known, now)
  const timeoutMs = left(data.deadlineAtMs, now)
  return at('transferring', known, ...started.map((t): RestoreEffect => ({ do: 'transfer', ...t, timeoutMs })))
}

/** Another host that has the file is asked for it. */
export function transferFailed(
  data: RestoreData,
  host: string,
  content: string,
  error: ErrorReport,
  now: Instant,
): RestoreStep {
  const ended = data.runningTransfers.find((t) => t.to === host && contentOf(t.file) === content)
  if (ended === undefined) return at('transferring', data)
  const [from, ...others] = ended.others
  if (from === undefined) return fail(data, error)
  const again = { ...ended, from, others }
  const runningTransfers = data.runningTransfers.filter((t) => t !== ended)
  const next = transfer({ ...data, runningTransfers, waitingTransfers: [again, ...data.waitingTransfers] }, now)
  const progress = { do: 'progress', text: `${error.message}; asking host ${from} for it`, host } as const
  return { ...next, effects: [progress, ...next.effects] }
}

export function transferred(data: RestoreData, host: string, content: string, now: Instant): RestoreStep {
  const ended = data.runningTransfers.find((t) => t.to === host && contentOf(t.file) === content)
  if (ended === undefined) return at('transferring', data)
  const runningTransfers = data.runningTransfers.filter((t) => t !== ended)
  return transfer({ ...data, runningTransfers, transferredBytes: data.transferredBytes + ended.file.bytes }, now)
}

/** Ends originals that run, and takes the ports of machines that move off their former hosts. */
export function remove(data: RestoreData, now: Instant): RestoreStep {
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

export function removed(data: RestoreData, host: string, vm: string, now: Instant): RestoreStep {
  const removing = data.removing.filter((r) => r.host !== host || r.vm !== vm)
  const known = { ...data, removing }
  return removing.length > 0 ? at('removing', known) : load(known, now)
}

export function load(data: RestoreData, now: Instant): RestoreStep {
  const { plan, manifest } = data.input
  const timeoutMs = left(data.deadlineAtMs, now)
  return at(
    'loading',
    data,
    { do: 'progress', text: `loading ${listed(plan.members.map((m) => m.part.vm))}` },
    // A host that gets no machines is fenced all the same: what it has learned, and what it still carries, is of before.
    ...presentHosts(data).map((host) => {
      const limitMs = plan.targets.includes(host) ? timeoutMs : Math.min(fenceLimitMs, timeoutMs)
      const request = requestFor(manifest, plan, host, data.epoch, limitMs)
      return { do: 'load', host, request, timeoutMs: limitMs } as const
    }),
  )
}

const presentHosts = (data: RestoreData) => data.input.plan.hosts.filter((host) => !data.absent.includes(host))

/** A host that plays no part and cannot be fenced is done without: the fence of the others stops its frames. */
export function loadFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (data.input.plan.targets.includes(host)) return fail(data, onHost(host, error))
  return passBarrier({ ...data, absent: [...data.absent, host] }, now)
}

export function loaded(data: RestoreData, host: string, answer: RestoreLoaded, now: Instant): RestoreStep {
  const { plan } = data.input
  const expected = plan.members.filter((m) => m.to === host).map((m) => m.part.vm)
  const absent = expected.filter((vm) => !answer.loaded.includes(vm))
  if (absent.length > 0) {
    const message = `host ${host} did not load ${listed(absent)}`
    return fail(data, { code: 'RESTORE_FAILED', message, action: 'See the log of the switch there.' })
  }
  const known = { ...data, loaded: { ...data.loaded, [host]: answer } }
  const text = expected.length === 0 ? 'fenced' : `loaded ${listed(expected)}`
  return passBarrier(known, now, { do: 'progress', text, host })
}

/** The barrier: everything is in memory everywhere, and the former incarnation is fenced off everywhere. */
function passBarrier(data: RestoreData, now: Instant, ...effects: RestoreEffect[]): RestoreStep {
  const { targets } = data.input.plan
  if (presentHosts(data).some((host) => data.loaded[host] === undefined)) return at('loading', data, ...effects)
  return at(
    'resuming',
    { ...data, resumeAttempts: Object.fromEntries(targets.map((host) => [host, 1])) },
    ...targets.map((host) => resume(data, host, 0, now)),
    ...effects,
    { do: 'progress', text: 'all loaded: resuming' },
  )
}

export function resume(data: RestoreData, host: string, delayMs: number, now: Instant): RestoreEffect {
  const timeoutMs = Math.min(resumeCallMs, left(data.deadlineAtMs, now))
  return { do: 'resume', host, delayMs, timeoutMs }
}

export function resumeFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (data.resumed[host] !== undefined) return at('resuming', data)
  const attempts = data.resumeAttempts[host] ?? 1
  // SNAPSHOT_UNKNOWN: the agent holds no loaded restore any more, so that asking again is of no use.
  if (attempts >= resumeAttempts || error.code === 'SNAPSHOT_UNKNOWN') return fail(data, onHost(host, error))
  const known = { ...data, resumeAttempts: { ...data.resumeAttempts, [host]: attempts + 1 } }
  return at('resuming', known, resume(data, host, retryDelayMs(attempts + 1), now))
}

/** What the user should know of a restore that has succeeded. */
function warningsOf(data: RestoreData): string[] {
  return data.absent.flatMap((host) => {
    const moved = data.input.plan.members.filter((m) => m.from === host).map((m) => m.part.vm)
    if (moved.length === 0) return []
    return [
      `host ${host} did not answer: if ${listed(moved)} of before ${moved.length === 1 ? 'runs' : 'run'} there, end it by hand; its frames are dropped by the other hosts`,
    ]
  })
}

export function resumed(data: RestoreData, host: string, answer: RestoreResumed, now: Instant): RestoreStep {
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
    warnings: warningsOf(data),
    resumedSkewMs: times.length === 0 ? 0 : (Math.max(...times) - Math.min(...times)) / 1000,
  }
  return at('done', known, { do: 'finish', outcome: { type: 'done', report } })
}
