// The steps that the snapshot table (sequence.ts) is made of: each decides where to go and what is to be done.

import type { LocalEvent, LocalPart, Manifest, Preflight, PrepareRequest } from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import { preflightLimitMs } from '../preflight.js'
import { type Instant, isoTime, joinReports, left, listed, onHost, retryDelayMs } from '../table.js'
import { failedManifest, figuresOf, judgePreflights, nextEpoch, partFault } from './rules.js'
import {
  discardAttempts,
  discardCallMs,
  discardLimitMs,
  type SnapshotData,
  type SnapshotEffect,
  type SnapshotInput,
  type SnapshotState,
  type SnapshotStep,
} from './types.js'

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
    askedAtMs: now.ms - (input.waitedMs ?? 0),
    takenAtMs: 0,
    parts: {},
    failure: null,
    discarding: {},
    undiscarded: [],
  }
  const timeoutMs = preflightLimitMs(input.deadlineMs)
  return {
    state: 'preflight',
    data,
    effects: [
      { do: 'progress', text: `asking ${listed(input.hosts.map((h) => `host ${h}`))} whether a snapshot can be taken` },
      { do: 'timer', timer: 1, afterMs: timeoutMs },
      ...input.hosts.map((host) => ({ do: 'preflight', host, timeoutMs }) as const),
    ],
  }
}

export const stay =
  (state: SnapshotState) =>
  (data: SnapshotData): SnapshotStep => ({ state, data, effects: [] })

export function refuse(data: SnapshotData, error: ErrorReport): SnapshotStep {
  return {
    state: 'refused',
    data: { ...data, failure: error },
    effects: [{ do: 'finish', outcome: { kind: 'failed', error, manifest: null } }],
  }
}

export function preflighted(data: SnapshotData, host: string, preflight: Preflight, now: Instant): SnapshotStep {
  const known = { ...data, preflights: { ...data.preflights, [host]: preflight } }
  if (waiting(known.input.hosts, known.preflights).length > 0) return { state: 'preflight', data: known, effects: [] }
  const problem = joinReports(judgePreflights(known.preflights, data.input.record === true))
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
  return {
    state: 'recording',
    data: { ...known, epoch, manifest },
    effects: [...notes(known.preflights), { do: 'store', manifest }],
  }
}

/** What is on the network and no part of the snapshot, for a person who might take it for one. */
function notes(preflights: SnapshotData['preflights']): SnapshotEffect[] {
  return Object.entries(preflights).flatMap(([host, { undriven = [], bridges = [] }]) => {
    const texts = [
      ...undriven.map(({ port, problem }) => `port ${port}, no part of it: ${problem.message}`),
      ...bridges.map(({ bridge, problem }) => `WARNING: bridge ${bridge} is not as it should be: ${problem.message}`),
    ]
    return texts.map((text) => ({ do: 'progress', host, text }) as const)
  })
}

/** The pending manifest is on disk: whatever happens now, a later start of the coordinator knows of it. */
export function recorded(data: SnapshotData, now: Instant): SnapshotStep {
  if (data.failure !== null) return conclude(data, data.failure, now)
  const { input, epoch } = data
  const timeoutMs = left(data.deadlineAtMs, now)
  const timer = data.timer + 1
  const order = { epoch, policy: input.policy, deadlineMs: timeoutMs }
  const request: PrepareRequest = input.record === true ? { ...order, record: true } : order
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

export function prepared(data: SnapshotData, host: string, now: Instant): SnapshotStep {
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

export function local(data: SnapshotData, host: string, event: LocalEvent, now: Instant): SnapshotStep {
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

export function done(data: SnapshotData, host: string, part: LocalPart, now: Instant): SnapshotStep {
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
    figures: figuresOf(parts, { globalMs: now.ms - known.takenAtMs, tookMs: now.ms - known.askedAtMs }),
  }
  return { state: 'committing', data: { ...known, manifest }, effects: [finished, { do: 'store', manifest }] }
}

export function committed(data: SnapshotData): SnapshotStep {
  const manifest = data.manifest as Manifest
  return { state: 'complete', data, effects: [{ do: 'finish', outcome: { kind: 'complete', manifest } }] }
}

/** The one door to failure once hosts may have begun: tell every one of them. */
export function fail(data: SnapshotData, error: ErrorReport, now: Instant): SnapshotStep {
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

export function discard(data: SnapshotData, host: string, delayMs: number): SnapshotEffect {
  return { do: 'discard', host, epoch: data.epoch, delayMs, timeoutMs: discardCallMs }
}

export function discarded(data: SnapshotData, host: string, now: Instant): SnapshotStep {
  const { [host]: _, ...discarding } = data.discarding
  const known = { ...data, discarding }
  if (Object.keys(discarding).length > 0) return { state: 'discarding', data: known, effects: [] }
  return conclude(known, known.failure as ErrorReport, now)
}

export function discardFailed(data: SnapshotData, host: string, error: ErrorReport, now: Instant): SnapshotStep {
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
export function discardsLate(data: SnapshotData, now: Instant): SnapshotStep {
  const undiscarded = [...data.undiscarded, ...Object.keys(data.discarding)]
  return conclude({ ...data, undiscarded, discarding: {} }, data.failure as ErrorReport, now)
}

export function conclude(data: SnapshotData, error: ErrorReport, now: Instant): SnapshotStep {
  const named = data.undiscarded.length === 0 ? error : withUndiscarded(error, data.undiscarded)
  const manifest = failedManifest(data.manifest as Manifest, isoTime(now), named, data.undiscarded)
  return { state: 'failing', data: { ...data, failure: named, manifest }, effects: [{ do: 'store', manifest }] }
}

export function concluded(data: SnapshotData): SnapshotStep {
  const outcome = { kind: 'failed', error: data.failure as ErrorReport, manifest: data.manifest } as const
  return { state: 'failed', data, effects: [{ do: 'finish', outcome }] }
}

export function late(data: SnapshotData, what: string, hosts: readonly string[]): ErrorReport {
  return {
    code: 'DEADLINE',
    message: `${listed(hosts.map((host) => `host ${host}`))} had not ${what} after ${data.input.deadlineMs} ms`,
    action: 'Give a longer --deadline, and see the log of the switch there.',
  }
}

/** A machine has ended, or nobody can tell. */
const ofItsMachine: readonly string[] = ['HYPERVISOR_UNREACHABLE', 'MACHINE_NOT_RUNNING', 'MACHINE_PAUSED']

export function undone(data: SnapshotData, error: ErrorReport): ErrorReport {
  const { network, name } = data.input
  const who = ofItsMachine.includes(error.code) ? 'the other machines' : 'all machines'
  return { ...error, message: `snapshot ${network}/${name} was not taken; ${who} run on. ${error.message}` }
}

export function withUndiscarded(error: ErrorReport, hosts: readonly string[]): ErrorReport {
  return {
    ...error,
    message: `${error.message}. ${listed(hosts.map((h) => `host ${h}`))} could not be told; its agent ends by its own deadline`,
  }
}

export const epochsUsedUp: ErrorReport = {
  code: 'EPOCH_STALE',
  message: 'the network has used up all 2^32 epochs',
  action: 'Restart the switches with a new network name.',
}

export function waiting(hosts: readonly string[], answered: Readonly<Record<string, unknown>>): string[] {
  return hosts.filter((host) => answered[host] === undefined)
}
