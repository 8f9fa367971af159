// The steps that the restore table (sequence.ts) is made of, until all files are where they are needed: each decides
// where to go and what is to be done. What follows: switch.ts. Failure and undoing: undo.ts.

import { contentOf, distinctFiles } from '../../../src/api/files.js'
import type { FileReference, RestoreCheck, RestoreRequest } from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import { preflightLimitMs } from '../preflight.js'
import { misnamedHosts, nextEpoch, versionsThatDiffer } from '../snapshot/rules.js'
import { type Instant, joinReports, left, listed, onHost } from '../table.js'
import { formerHosts, planTransfers, requestFor } from './plan.js'
import { load, presentHosts } from './switch.js'
import {
  at,
  type CheckPurpose,
  type RestoreData,
  type RestoreEffect,
  type RestoreInput,
  type RestoreStep,
  transfersAtOnce,
} from './types.js'
import { fail } from './undo.js'

export function beginRestore(input: RestoreInput, now: Instant): RestoreStep {
  const timeoutMs = preflightLimitMs(input.deadlineMs)
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
      loaded: {},
      begun: [],
      paused: {},
      switched: {},
      switchAttempts: {},
      resumed: {},
      resumeAttempts: {},
      failure: null,
      aborting: {},
      survivors: [],
      standing: [],
      unaborted: [],
    },
    effects: [
      { do: 'progress', text: `asking ${listed(input.plan.hosts.map((h) => `host ${h}`))} what is there` },
      // Longer than the calls' own limit: an uninvolved host that stays silent must not end the restore.
      { do: 'timer', timer: 1, afterMs: input.deadlineMs },
      ...input.plan.hosts.map((host) => ({ do: 'preflight', host, timeoutMs }) as const),
    ],
  }
}

export function refuse(data: RestoreData, error: ErrorReport): RestoreStep {
  return at('refused', { ...data, failure: error }, { do: 'finish', outcome: { kind: 'failed', error } })
}

export function afterPreflight(data: RestoreData, now: Instant): RestoreStep {
  const { plan, maxKnownEpoch } = data.input
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
      const request = requestFor(data.input, host, epoch, timeoutMs)
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
  } else {
    const all = [...entries, ...Object.entries(data.former)]
    found.push(...all.flatMap(([host, check]) => (check.silent ?? []).map((p) => onHost(host, p))))
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
  if (known.runningTransfers.length === 0) return load(known, now)
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
