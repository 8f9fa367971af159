// The steps of the restore table (sequence.ts) from the loads on: everything is made ready beside what runs, then what
// runs stands still, and past the barrier the new takes its place.

import type {
  RestoreLoaded,
  RestorePaused,
  RestoreReport,
  RestoreResumed,
  RestoreSwitched,
} from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import { type Instant, left, listed, onHost, retryDelayMs } from '../table.js'
import { formerHosts, requestFor } from './plan.js'
import {
  at,
  fenceLimitMs,
  pauseLimitMs,
  type RestoreData,
  type RestoreEffect,
  type RestoreStep,
  resumeAttempts,
  resumeCallMs,
  switchAttempts,
} from './types.js'
import { fail } from './undo.js'

export const presentHosts = (data: RestoreData) => data.input.plan.hosts.filter((host) => !data.absent.includes(host))

/** On the hosts that get machines; what runs there runs on. */
export function load(data: RestoreData, now: Instant): RestoreStep {
  const { plan } = data.input
  const timeoutMs = left(data.deadlineAtMs, now)
  const timer = data.timer + 1
  return at(
    'loading',
    { ...data, timer, begun: plan.targets },
    { do: 'progress', text: `loading ${listed(plan.members.map((m) => m.part.vm))}` },
    { do: 'timer', timer, afterMs: timeoutMs },
    ...plan.targets.map((host) => {
      const request = requestFor(data.input, host, data.epoch, timeoutMs)
      return { do: 'load', host, request, timeoutMs } as const
    }),
  )
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
  const progress = { do: 'progress', text: `loaded ${listed(expected)}`, host } as const
  if (plan.targets.some((h) => known.loaded[h] === undefined)) return at('loading', known, progress)
  const next = pause(known, now)
  return { ...next, effects: [progress, ...next.effects] }
}

/** On every host: a machine that is to come here may run there. */
function pause(data: RestoreData, now: Instant): RestoreStep {
  const { plan, replace } = data.input
  const hosts = presentHosts(data)
  const timeoutMs = Math.min(pauseLimitMs, left(data.deadlineAtMs, now))
  const machines = plan.members.map((m) => m.part.vm)
  // The guests stand still: should this coordinator be gone, they go on when the time for the rest has passed.
  const deadlineMs = left(data.deadlineAtMs, now)
  // A host says which machine does not stand still before it is taken for silent itself.
  const order = { epoch: data.epoch, machines, replace, pauseMs: Math.floor(timeoutMs * 0.8), deadlineMs }
  return at(
    'pausing',
    { ...data, begun: hosts },
    { do: 'progress', text: 'all loaded: pausing what runs' },
    ...hosts.map((host) => ({ do: 'pause', host, order, timeoutMs }) as const),
  )
}

export function paused(data: RestoreData, host: string, answer: RestorePaused, now: Instant): RestoreStep {
  return afterPause({ ...data, paused: { ...data.paused, [host]: answer } }, now)
}

/** Whether machines come to the host, or may have to go from it. */
function matters(data: RestoreData, host: string): boolean {
  const { plan } = data.input
  return plan.targets.includes(host) || formerHosts(plan, data.holds).some((former) => former.host === host)
}

/** A host that plays no part and cannot be fenced is done without: the fence of the others stops its frames. */
export function pauseFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (matters(data, host)) return fail(data, onHost(host, error))
  return afterPause({ ...data, absent: [...data.absent, host] }, now)
}

/** The barrier: all is ready everywhere, and nothing of before sends any more. From here on it goes forward only. */
function afterPause(data: RestoreData, now: Instant): RestoreStep {
  const hosts = presentHosts(data)
  if (hosts.some((host) => data.paused[host] === undefined)) return at('pausing', data)
  return at(
    'switching',
    { ...data, switchAttempts: Object.fromEntries(hosts.map((host) => [host, 1])) },
    { do: 'progress', text: 'changing over' },
    ...hosts.map((host) => switchOver(data, host, 0, now)),
  )
}

function switchOver(data: RestoreData, host: string, delayMs: number, now: Instant): RestoreEffect {
  const timeoutMs = left(data.deadlineAtMs, now)
  const limitMs = data.input.plan.targets.includes(host) ? timeoutMs : Math.min(fenceLimitMs, timeoutMs)
  return { do: 'switch', host, delayMs, timeoutMs: limitMs }
}

export function switched(data: RestoreData, host: string, answer: RestoreSwitched, now: Instant): RestoreStep {
  return afterSwitch({ ...data, switched: { ...data.switched, [host]: answer } }, now)
}

export function switchFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (data.switched[host] !== undefined) return at('switching', data)
  const attempts = data.switchAttempts[host] ?? 1
  // SNAPSHOT_UNKNOWN: the agent holds no such restore any more, so that asking again is of no use.
  const last = attempts >= switchAttempts || error.code === 'SNAPSHOT_UNKNOWN'
  if (last && matters(data, host)) return fail(data, onHost(host, error))
  if (last) return afterSwitch({ ...data, absent: [...data.absent, host] }, now)
  const known = { ...data, switchAttempts: { ...data.switchAttempts, [host]: attempts + 1 } }
  return at('switching', known, switchOver(data, host, retryDelayMs(attempts + 1), now))
}

/** No machine runs before all have taken their places, and the former ones are fenced off everywhere. */
function afterSwitch(data: RestoreData, now: Instant): RestoreStep {
  const { targets } = data.input.plan
  if (presentHosts(data).some((host) => data.switched[host] === undefined)) return at('switching', data)
  return at(
    'resuming',
    { ...data, resumeAttempts: Object.fromEntries(targets.map((host) => [host, 1])) },
    ...targets.map((host) => resume(data, host, 0, now)),
    { do: 'progress', text: 'all in place: resuming' },
  )
}

function resume(data: RestoreData, host: string, delayMs: number, now: Instant): RestoreEffect {
  const timeoutMs = Math.min(resumeCallMs, left(data.deadlineAtMs, now))
  return { do: 'resume', host, delayMs, timeoutMs }
}

export function resumeFailed(data: RestoreData, host: string, error: ErrorReport, now: Instant): RestoreStep {
  if (data.resumed[host] !== undefined) return at('resuming', data)
  const attempts = data.resumeAttempts[host] ?? 1
  if (attempts >= resumeAttempts || error.code === 'SNAPSHOT_UNKNOWN') return fail(data, onHost(host, error))
  const known = { ...data, resumeAttempts: { ...data.resumeAttempts, [host]: attempts + 1 } }
  return at('resuming', known, resume(data, host, retryDelayMs(attempts + 1), now))
}

export function resumed(data: RestoreData, host: string, answer: RestoreResumed, now: Instant): RestoreStep {
  const known = { ...data, resumed: { ...data.resumed, [host]: answer } }
  const { plan, manifest } = data.input
  if (plan.targets.some((h) => known.resumed[h] === undefined)) return at('resuming', known)
  const resumptions = Object.values(known.resumed).flatMap((r) => r.resumed)
  const times = resumptions.map((m) => m.atUs)
  const report: RestoreReport = {
    network: manifest.network,
    name: manifest.name,
    epoch: data.epoch,
    placement: Object.fromEntries(plan.members.map((m) => [m.part.vm, m.to])),
    restoreMs: Math.round((now.ms - data.startedAtMs) * 1000) / 1000,
    transferredBytes: data.transferredBytes,
    channelFrames: Object.values(data.loaded).reduce((n, l) => n + l.channelFrames, 0),
    warnings: warningsOf(data),
    disks: Object.fromEntries(resumptions.flatMap(({ vm, disks }) => (disks === undefined ? [] : [[vm, disks]]))),
    resumedSkewMs: times.length === 0 ? 0 : (Math.max(...times) - Math.min(...times)) / 1000,
  }
  return at('done', known, { do: 'finish', outcome: { kind: 'done', report } })
}

/** What the user should know of a restore that has succeeded. */
function warningsOf(data: RestoreData): string[] {
  const absent = data.absent.flatMap((host) => {
    const moved = data.input.plan.members.filter((m) => m.from === host).map((m) => m.part.vm)
    if (moved.length === 0) return []
    return [
      `host ${host} did not answer: if ${listed(moved)} of before ${moved.length === 1 ? 'runs' : 'run'} there, end it by hand; its frames are dropped by the other hosts`,
    ]
  })
  const told = Object.entries(data.switched).flatMap(([host, { warnings }]) =>
    warnings.map((w) => `host ${host}: ${w}`),
  )
  return [...absent, ...told]
}
