// QEMU's migration engine as snapshots use it: what it can do, whether it is at work, the end of a migration awaited.

import type { Deadline } from '../hypervisor.js'
import { within } from './deadline.js'
import type { JsonObject, Qmp, QmpEvent } from './qmp.js'
import { isObject } from './qmp-messages.js'

export async function capabilities(qmp: Qmp, deadline: Deadline): Promise<Map<string, boolean>> {
  const answer = await qmp.execute('query-migrate-capabilities', {}, deadline)
  const list = Array.isArray(answer) ? answer.filter(isObject) : []
  return new Map(list.map((entry) => [String(entry.capability), entry.state === true]))
}

export const setCapabilities = (states: Readonly<Record<string, boolean>>): readonly [string, JsonObject] => [
  'migrate-set-capabilities',
  { capabilities: Object.entries(states).map(([capability, state]) => ({ capability, state })) },
]

/** Whether a migration is under way, and how the last one ended. */
export async function migrationStatus(qmp: Pick<Qmp, 'execute'>, deadline: Deadline): Promise<JsonObject> {
  const answer = await qmp.execute('query-migrate', {}, deadline)
  return isObject(answer) ? answer : {}
}

const ended = new Set(['completed', 'failed', 'cancelled'])

export const isUnderWay = (status: JsonObject): boolean =>
  typeof status.status === 'string' && status.status !== 'none' && !ended.has(status.status)

/**
 * Resolves when the migration that is about to start has ended: with null when it completed, else with QEMU's reason.
 * Needs the `events` capability. Rejects when the connection is lost. Has no deadline of its own.
 */
export async function migrationEnd(qmp: Qmp): Promise<string | null> {
  const isEnd = ({ name, data }: QmpEvent) => name === 'MIGRATION' && ended.has(String(data.status))
  const event = await qmp.event(isEnd, 'migrate', Number.POSITIVE_INFINITY)
  if (event.data.status === 'completed') return null
  const status = await migrationStatus(qmp, within(1000))
  return typeof status['error-desc'] === 'string' ? status['error-desc'] : `the migration ${String(event.data.status)}`
}
