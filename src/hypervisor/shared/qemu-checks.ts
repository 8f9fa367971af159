// What must hold before a machine can be saved, and how to bring it about: connected, not frozen, nothing under way.

import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import type { Deadline, MachineState, UnsupportedDrive } from '../hypervisor.js'
import { readBlockGraph } from './block-graph.js'
import { pauseFor, remaining, within } from './deadline.js'
import { listenerOf } from './descriptors.js'
import type { ProcessIdentity } from './process.js'
import { isUnderWay, migrationStatus } from './qemu-migration.js'
import { stateDetail } from './qemu-state.js'
import { type JsonObject, type Qmp, QmpClient } from './qmp.js'
import { isObject } from './qmp-messages.js'
import { isFrozen, liftWriteProtection } from './write-protection.js'

export const unsupported = (message: string, action: string) =>
  new SnapswitchError('MACHINE_UNSUPPORTED', message, action)

/** A drive in the way of a snapshot, as an error. */
export const unsupportedDrive = (machine: string, { name, reason }: UnsupportedDrive) =>
  unsupported(
    `${machine}’s drive ${name} cannot be snapshot: ${reason}.`,
    'Use qcow2 or raw image files that nobody else writes to, or make the drive read-only.',
  )

/** QEMU's run states (qapi/run-state.json) in our words. */
export function machineState(status: string): MachineState {
  if (status === 'running') return 'running'
  return status === 'paused' || status === 'postmigrate' || status === 'prelaunch' ? 'paused' : 'other'
}

/** Connects, also to a QEMU that a broken background save has frozen with its monitor: that one is freed first. */
export async function connectOrFree(path: string, deadline: Deadline): Promise<QmpClient> {
  try {
    return await QmpClient.connect(path, within(Math.max(100, remaining(deadline) / 3), deadline))
  } catch (error) {
    const { code } = asSnapswitchError(error)
    const pid = code === 'HYPERVISOR_UNREACHABLE' ? listenerOf(path) : 0
    if (remaining(deadline) === 0 || pid === 0) throw error
    if (await isFrozen(pid)) liftWriteProtection(pid)
    return QmpClient.connect(path, deadline)
  }
}

function migrating(name: string): SnapswitchError {
  return new SnapswitchError(
    'SNAPSHOT_BUSY',
    `${name} is being migrated or saved already`,
    'Wait until that is done. (Cancelling a background save freezes the guest.)',
  )
}

/** Guest RAM by the answer of `query-memory-size-summary`. */
export function memoryBytes(answer: unknown): number {
  if (!isObject(answer)) return 0
  const plugged = answer['plugged-memory']
  return Number(answer['base-memory'] ?? 0) + (typeof plugged === 'number' ? plugged : 0)
}

/**
 * Waits for the end of a background save that a daemon before us began. Capabilities stay as they are: every capture
 * sets all of them, and what a killed daemon had found is on its record.
 */
export async function settleMigration(
  name: string,
  qmp: Qmp,
  process: ProcessIdentity | null,
  deadline: Deadline,
): Promise<void> {
  let status = await migrationStatus(qmp, deadline)
  while (isUnderWay(status)) {
    if (remaining(deadline) === 0) throw migrating(name)
    await pauseFor(20, deadline)
    status = await migrationStatus(qmp, deadline)
  }
  const failed = status.status === 'failed' || status.status === 'cancelled'
  if (failed && process !== null) liftWriteProtection(process.pid)
}

/** Throws MACHINE_NOT_RUNNING when a machine in this QEMU run state cannot be saved. */
export function checkRunState(name: string, state: string): void {
  if (state === 'running' || state === 'paused') return
  if (state === 'prelaunch') {
    throw new SnapswitchError(
      'MACHINE_NOT_RUNNING',
      `${name} has never run: it was started with -S and waits for its first \`cont\``,
      'Let it run first. (QEMU aborts when a machine that never ran is saved in the background.)',
    )
  }
  throw new SnapswitchError(
    'MACHINE_NOT_RUNNING',
    `${name} is ${stateDetail(state, [])}, so it cannot be saved`,
    'Bring it to run, or take it out of the network.',
  )
}

/**
 * Throws MACHINE_NOT_RUNNING when a machine that was stopped for its cut had stopped by itself before: restored, it
 * would stand still, too. `state`: QEMU's run state after `stop`.
 */
export async function checkStopped(name: string, qmp: Qmp, state: string, deadline: Deadline): Promise<void> {
  if (state === 'paused') return
  const block = await qmp.execute('query-block', {}, within(1000, deadline)).catch(() => [])
  const { drives } = readBlockGraph([block])
  throw new SnapswitchError(
    'MACHINE_NOT_RUNNING',
    `${name} stopped before its cut: ${stateDetail(state, drives) ?? 'it does not stay paused'}`,
    'Bring it to run again, then take the snapshot again.',
  )
}

/** Throws when the answer of `query-migrate` says that a machine cannot be saved now, or at all. */
export function checkMigration(name: string, status: JsonObject): void {
  if (isUnderWay(status)) throw migrating(name)
  checkBlockers(name, status)
}

/** Throws when it says that a machine cannot be saved at all. */
export function checkBlockers(name: string, status: JsonObject): void {
  const reasons = status['blocked-reasons']
  if (Array.isArray(reasons) && reasons.length > 0) {
    throw unsupported(
      `${name} cannot be saved: ${reasons.map(String).join('; ')}.`,
      'Remove the device that QEMU names, or take the machine out of the network.',
    )
  }
}
