// The steps of the restore table (restore.ts) from the first failure on: whatever was begun is undone, and what cannot be
// undone is said.

import type { ErrorReport } from '../../src/errors/errors.js'
import { abortAttempts, abortCallMs, abortLimitMs, at, type RestoreData, type RestoreStep } from './restore-types.js'
import { listed, retryDelayMs } from './table.js'

/** The one door to failure once a target may have begun: tell every one of them that does not run for certain. */
export function fail(data: RestoreData, error: ErrorReport): RestoreStep {
  const targets = data.input.plan.targets.filter((host) => data.resumed[host] === undefined)
  const timer = data.timer + 1
  const known: RestoreData = {
    ...data,
    timer,
    failure: error,
    waitingTransfers: [],
    aborting: Object.fromEntries(targets.map((h) => [h, 1])),
  }
  if (targets.length === 0) return conclude(known)
  return at(
    'aborting',
    known,
    ...targets.map((host) => ({ do: 'abort', host, delayMs: 0, timeoutMs: abortCallMs }) as const),
    { do: 'timer', timer, afterMs: abortLimitMs },
    { do: 'progress', text: `undoing: ${error.message}` },
  )
}

export function aborted(data: RestoreData, host: string, running: readonly string[]): RestoreStep {
  const { [host]: _, ...aborting } = data.aborting
  const known = { ...data, aborting, survivors: [...data.survivors, ...running] }
  return Object.keys(aborting).length > 0 ? at('aborting', known) : conclude(known)
}

export function abortFailed(data: RestoreData, host: string, error: ErrorReport): RestoreStep {
  const attempts = data.aborting[host]
  if (attempts === undefined) return at('aborting', data)
  // It never heard of it, or has let go of it already: nothing to undo there.
  if (error.code === 'SNAPSHOT_UNKNOWN') return aborted(data, host, [])
  if (attempts >= abortAttempts) return aborted({ ...data, unaborted: [...data.unaborted, host] }, host, [])
  const known = { ...data, aborting: { ...data.aborting, [host]: attempts + 1 } }
  const delayMs = retryDelayMs(attempts + 1)
  return at('aborting', known, { do: 'abort', host, delayMs, timeoutMs: abortCallMs })
}

export function conclude(data: RestoreData): RestoreStep {
  const outcome = failureOf(data, data.failure as ErrorReport)
  const error: ErrorReport =
    data.unaborted.length === 0
      ? outcome
      : {
          ...outcome,
          message: `${outcome.message}. ${listed(data.unaborted.map((h) => `host ${h}`))} could not be told to undo it`,
          action: `Restart the switch there: what it has loaded and never run ends with that. ${outcome.action}`,
        }
  return at('failed', { ...data, failure: error }, { do: 'finish', outcome: { type: 'failed', error } })
}

/** What the failure leaves: machines that ran already are not ended. */
function failureOf(data: RestoreData, error: ErrorReport): ErrorReport {
  const { manifest, plan } = data.input
  const which = `${manifest.network}/${manifest.name}`
  const resumed = plan.members.filter((m) => data.resumed[m.to] !== undefined).map((m) => m.part.vm)
  const running = [...new Set([...resumed, ...data.survivors])].sort()
  if (running.length === 0) {
    return { ...error, message: `the restore of ${which} was undone; the snapshot is untouched. ${error.message}` }
  }
  return {
    code: 'RESTORE_FAILED',
    message: `${which} is restored only in part: ${listed(running)} run, but ${error.message}`,
    action: `Restore it again: snapswitch snapshot restore ${which} --replace`,
  }
}

export function late(data: RestoreData, doing: string, hosts: readonly string[]): ErrorReport {
  return {
    code: 'DEADLINE',
    message: `${doing} was not finished after ${data.input.deadlineMs} ms on ${listed(hosts.map((h) => `host ${h}`))}`,
    action: 'Give a longer --deadline, and see the log of the switch there.',
  }
}
