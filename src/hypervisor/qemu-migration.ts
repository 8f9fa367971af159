// QEMU's migration engine as snapshots use it: capabilities and limits set and put back, the end of a migration awaited.

import { SnapswitchError } from '../errors/errors.js'
import { within } from './deadline.js'
import type { Deadline } from './hypervisor.js'
import type { JsonObject, QmpClient, QmpEvent } from './qmp.js'
import { isObject } from './qmp-messages.js'

/** More than any disk takes; QEMU's default of 128 MiB/s would be the limit otherwise. */
const unlimitedBytesPerSecond = 2 ** 43

export async function capabilities(qmp: QmpClient, deadline: Deadline): Promise<Map<string, boolean>> {
  const answer = await qmp.execute('query-migrate-capabilities', {}, deadline)
  const list = Array.isArray(answer) ? answer.filter(isObject) : []
  return new Map(list.map((entry) => [String(entry.capability), entry.state === true]))
}

export const setCapabilities = (states: Readonly<Record<string, boolean>>): readonly [string, JsonObject] => [
  'migrate-set-capabilities',
  { capabilities: Object.entries(states).map(([capability, state]) => ({ capability, state })) },
]

/** Whether a migration is under way, and how the last one ended. */
export async function migrationStatus(qmp: QmpClient, deadline: Deadline): Promise<JsonObject> {
  const answer = await qmp.execute('query-migrate', {}, deadline)
  return isObject(answer) ? answer : {}
}

const ended = new Set(['completed', 'failed', 'cancelled'])

export const isUnderWay = (status: JsonObject): boolean =>
  typeof status.status === 'string' && status.status !== 'none' && !ended.has(status.status)

/**
 * Why this machine cannot be saved in the background; null when it can. Asks by setting the capability, which makes QEMU
 * check the kernel (userfaultfd with write protection), its memory backends and the other capabilities.
 */
export async function backgroundObstacle(qmp: QmpClient, deadline: Deadline): Promise<string | null> {
  if (qmp.greeting.major < 6) return `QEMU ${qmp.greeting.version} is older than 6.0`
  try {
    await qmp.execute(...setCapabilities({ 'background-snapshot': true }), deadline)
  } catch (error) {
    if (error instanceof SnapswitchError && error.code === 'HYPERVISOR_REFUSED') return reasonOf(error)
    throw error
  }
  await qmp.execute(...setCapabilities({ 'background-snapshot': false }), deadline)
  return null
}

/** QEMU's own words of a refusal. */
export function reasonOf(error: SnapswitchError): string {
  return error.message.replace(/^QEMU \(.*?\) refused [\w-]+: /, '')
}

/** Unsets what a snapshot sets, for a daemon that died before it could. */
export async function clearCapabilities(qmp: QmpClient, deadline: Deadline): Promise<void> {
  const now = await capabilities(qmp, deadline)
  const ours = ['background-snapshot', 'events'].filter((name) => now.get(name) === true)
  // `events` alone may be someone else's, like a management tool's.
  if (!ours.includes('background-snapshot')) return
  await qmp.execute(...setCapabilities(Object.fromEntries(ours.map((name) => [name, false]))), deadline)
}

export interface MigrationSettings {
  /** Puts everything back as it was found. */
  restore(): Promise<void>
}

/** Lifts the bandwidth cap and sets the capabilities of one capture. */
export async function applySettings(
  qmp: QmpClient,
  background: boolean,
  deadline: Deadline,
): Promise<MigrationSettings> {
  const before = await capabilities(qmp, deadline)
  const parameters = await qmp.execute('query-migrate-parameters', {}, deadline)
  const bandwidth = isObject(parameters) ? parameters['max-bandwidth'] : undefined
  const wanted: Record<string, boolean> = { events: true }
  if (background) wanted['background-snapshot'] = true
  const changed = Object.entries(wanted).filter(([name, state]) => before.get(name) !== state)
  const restore = async () => {
    const limit = within(2000)
    await Promise.allSettled(
      qmp.executeAll(
        [
          setCapabilities(Object.fromEntries(changed.map(([name, state]) => [name, !state]))),
          ['migrate-set-parameters', typeof bandwidth === 'number' ? { 'max-bandwidth': bandwidth } : {}],
        ],
        limit,
      ),
    )
  }
  try {
    await Promise.all(
      qmp.executeAll(
        [
          setCapabilities(Object.fromEntries(changed)),
          ['migrate-set-parameters', { 'max-bandwidth': unlimitedBytesPerSecond }],
        ],
        deadline,
      ),
    )
  } catch (error) {
    await restore()
    throw error
  }
  return { restore }
}

/**
 * Resolves when the migration that is about to start has ended: with null when it completed, else with QEMU's reason.
 * Needs the `events` capability. Rejects when the connection is lost. Has no deadline of its own.
 */
export async function migrationEnd(qmp: QmpClient): Promise<string | null> {
  const isEnd = ({ name, data }: QmpEvent) => name === 'MIGRATION' && ended.has(String(data.status))
  const event = await qmp.event(isEnd, 'migrate', Number.POSITIVE_INFINITY)
  if (event.data.status === 'completed') return null
  const status = await migrationStatus(qmp, within(1000))
  return typeof status['error-desc'] === 'string' ? status['error-desc'] : `the migration ${String(event.data.status)}`
}
