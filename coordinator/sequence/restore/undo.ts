// The steps of the restore table (sequence.ts) from the first failure on: whatever was begun is undone, and what cannot
// be undone is said.

import type { ErrorReport } from '../../../src/errors/errors.js'
import { listed, retryDelayMs } from '../table.js'
import { abortAttempts, abortCallMs, abortLimitMs, at, type RestoreData, type RestoreStep } from './types.js'

/** The one door to failure once a host may have begun: tell every one of them that is not done for certain. */
export function fail(data: RestoreData, error: ErrorReport): RestoreStep {
  const isDone = (host: string) =>
    data.resumed[host] !== undefined || (data.switched[host] !== undefined && !data.input.plan.targets.includes(host))
  const hosts = data.begun.length === 0 ? data.input.plan.targets : data.begun
  const targets = hosts.filter((host) => !isDone(host))
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
    ...targets.map((host) => ({ do: 'abort', host, epoch: data.epoch, delayMs: 0, timeoutMs: abortCallMs }) as const),
    { do: 'timer', timer, afterMs: abortLimitMs },
    { do: 'progress', text: `undoing: ${error.message}` },
  )
}

export function aborted(
  data: RestoreData,
  host: string,
  running: readonly string[],
  standing: readonly string[] = [],
): RestoreStep {
  const { [host]: _, ...aborting } = data.aborting
  const survivors = [...data.survivors, ...running]
  const known = { ...data, aborting, survivors, standing: [...data.standing, ...standing] }
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
  return at('aborting', known, { do: 'abort', host, epoch: data.epoch, delayMs, timeoutMs: abortCallMs })
}

export function conclude(data: RestoreData): RestoreStep {
  const outcome = withStanding(data, failureOf(data, data.failure as ErrorReport))
  const error: ErrorReport =
    data.unaborted.length === 0
      ? outcome
      : {
          ...outcome,
          message: `${outcome.message}. ${listed(data.unaborted.map((h) => `host ${h}`))} could not be told to undo it`,
          action: `Restart the switch there: what it has loaded and never run ends with that. ${outcome.action}`,
        }
  return at('failed', { ...data, failure: error }, { do: 'finish', outcome: { kind: 'failed', error } })
}

/** Names former machines that their hosts could not resume. */
function withStanding({ standing }: RestoreData, error: ErrorReport): ErrorReport {
  if (standing.length === 0) return error
  const names = [...new Set(standing)].sort()
  const still = names.length === 1 ? 'stands still: it was paused, and does' : 'stand still: they were paused, and do'
  return {
    ...error,
    message: `${error.message.replace(/\.$/, '')}. ${listed(names)} ${still} not go on`,
    action: `The switch there tries again and again; \`snapswitch status\` says how to resume a machine by hand. ${error.action}`,
  }
}

/** What the failure leaves: machines that ran already are not ended. */
function failureOf(data: RestoreData, error: ErrorReport): ErrorReport {
  const { manifest, plan } = data.input
  const which = `${manifest.network}/${manifest.name}`
  const resumed = plan.members.filter((m) => data.resumed[m.to] !== undefined).map((m) => m.part.vm)
  const running = [...new Set([...resumed, ...data.survivors])].sort()
  if (running.length === 0) {
    const ended = endedBy(data)
    const message = `the restore of ${which} was undone; the snapshot is untouched. ${error.message}`
    if (ended === null) return { ...error, message }
    return {
      code: 'RESTORE_FAILED',
      message: `${message.replace(/\.$/, '')}. ${ended}`,
      action: `${error.action} Then restore again: snapswitch snapshot restore ${which} --replace`,
    }
  }
  return {
    code: 'RESTORE_FAILED',
    message: `${which} is restored only in part: ${listed(running)} run, but ${error.message}`,
    action: `Restore it again: snapswitch snapshot restore ${which} --replace`,
  }
}

/** Beyond the barrier what ran before is gone, where hosts had come that far; null: nothing was ended. */
function endedBy(data: RestoreData): string | null {
  if (Object.keys(data.switchAttempts).length === 0) return null
  const all = Object.entries(data.paused).filter(([, { paused }]) => paused.length > 0)
  const where = (ended: boolean) =>
    all
      .filter(([host]) => (data.switched[host] !== undefined) === ended)
      .map(([host, { paused }]) => `${listed(paused)} (host ${host})`)
  const [gone, unclear] = [where(true), where(false)]
  if (gone.length + unclear.length === 0) return null
  return [
    gone.length === 0 ? '' : `What ran before is ended: ${listed(gone)}`,
    unclear.length === 0 ? '' : `What ran before may be ended: ${listed(unclear)}`,
  ]
    .filter((text) => text !== '')
    .join('. ')
}

export function late(data: RestoreData, doing: string, hosts: readonly string[]): ErrorReport {
  return {
    code: 'DEADLINE',
    message: `${doing} was not finished after ${data.input.deadlineMs} ms on ${listed(hosts.map((h) => `host ${h}`))}`,
    action: 'Give a longer --deadline, and see the log of the switch there.',
  }
}
