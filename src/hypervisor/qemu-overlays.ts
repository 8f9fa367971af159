// Overlays of a live machine's disks: made and opened before the cut, slid under the machine in one transaction at the cut,
// merged back when they are not wanted.

import { randomBytes } from 'node:crypto'
import { chown, open, rm } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../errors/errors.js'
import { within } from './deadline.js'
import type { Deadline, DiskLayer } from './hypervisor.js'
import { isAlive, type ProcessIdentity } from './process.js'
import type { LiveDisk } from './qemu-disks.js'
import { commitOverlay, createOverlay } from './qemu-img.js'
import type { JsonObject, QmpClient } from './qmp.js'
import { isObject } from './qmp-messages.js'

export interface Overlay {
  readonly disk: LiveDisk
  readonly file: string
  /** The block node it is opened as. */
  readonly node: string
}

/** `disk.qcow2` and label `before-upgrade` give `disk.before-upgrade.qcow2`, beside the disk; numbered when that exists. */
export async function reserveOverlayFile(layers: readonly DiskLayer[], label: string): Promise<string> {
  const directory = path.dirname(layers[0]!.file)
  // Named after the chain's first image, so that names do not grow with every snapshot.
  const stem = path.basename(layers.at(-1)!.file).replace(/\.(qcow2|raw|img)$/, '')
  for (let i = 1; i < 1000; i++) {
    const file = path.join(directory, `${stem}.${label}${i === 1 ? '' : `-${i}`}.qcow2`)
    try {
      await (await open(file, 'wx', 0o600)).close()
      return file
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST') continue
      if (code === 'ENOSPC') throw storeFull(directory, error)
      throw new SnapswitchError('STORE_IO', `${file} cannot be made: ${code}.`, 'Make the directory writable.', error)
    }
  }
  throw new SnapswitchError(
    'STORE_IO',
    `${directory} has too many overlays named ${label}.`,
    'Remove overlays that no machine and no snapshot uses.',
  )
}

export function storeFull(where: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'STORE_FULL',
    `${where}: no space left.`,
    'Free some space there, or move the store.',
    cause,
  )
}

/** Makes an overlay and opens it in QEMU beside the disk, not yet in use. */
export async function openOverlay(
  qmp: QmpClient,
  disk: LiveDisk,
  label: string,
  owner: { readonly uid: number; readonly gid: number },
  deadline: Deadline,
): Promise<Overlay> {
  const file = await reserveOverlayFile(disk.layers, label)
  const overlay = { disk, file, node: `snapswitch-${randomBytes(6).toString('hex')}` }
  try {
    await createOverlay(file, disk.layers[0]!, disk.bytes, deadline)
    await chown(file, owner.uid, owner.gid)
    await qmp.execute(
      'blockdev-add',
      {
        driver: 'qcow2',
        'node-name': overlay.node,
        file: { driver: 'file', filename: file },
        // Attached by the transaction; opened now it would be opened twice.
        backing: null,
        discard: 'unmap',
        'detect-zeroes': disk.detectZeroes,
        cache: { direct: disk.cache.direct, 'no-flush': disk.cache.noFlush },
      },
      deadline,
    )
    return overlay
  } catch (error) {
    await rm(file, { force: true })
    throw error
  }
}

/** Undoes `openOverlay` for an overlay that was never put in use. */
export async function discardOverlay(qmp: QmpClient, overlay: Overlay): Promise<void> {
  await qmp.execute('blockdev-del', { 'node-name': overlay.node }, within(2000)).catch(() => {})
  await rm(overlay.file, { force: true })
}

/** The one command that freezes all disks at the same point and puts the overlays on top. */
export function snapshotTransaction(overlays: readonly Overlay[]): readonly [string, JsonObject] {
  const actions = overlays.map(({ disk, node }) => ({
    type: 'blockdev-snapshot',
    data: { node: disk.node, overlay: node },
  }))
  return ['transaction', { actions }]
}

/** The block nodes that machine's devices write to now. */
export async function activeNodes(qmp: QmpClient, deadline: Deadline): Promise<Set<string>> {
  const answer = await qmp.execute('query-block', {}, deadline)
  const devices = Array.isArray(answer) ? answer.filter(isObject) : []
  return new Set(devices.flatMap(({ inserted }) => (isObject(inserted) ? [String(inserted['node-name'])] : [])))
}

/**
 * Commits the active overlay `node` into `base`, its backing node, while the machine runs, pivots to that, and removes
 * `file`. Without a base QEMU would go on down to the bottom of the chain, through layers that others need.
 */
export async function mergeDown(
  qmp: QmpClient,
  node: string,
  base: string,
  file: string,
  deadline: Deadline,
): Promise<void> {
  const job = `snapswitch-${randomBytes(6).toString('hex')}`
  const jobEvent = (name: string) =>
    qmp.event((event) => event.name === name && event.data.device === job, `block-commit of ${file}`, deadline)
  const ready = jobEvent('BLOCK_JOB_READY')
  const completed = jobEvent('BLOCK_JOB_COMPLETED')
  const failed = (reason: unknown) =>
    new SnapswitchError(
      'CAPTURE_FAILED',
      `${file} could not be merged into its base: ${String(reason)}. The machine goes on using it.`,
      'Free some space where the disk images lie, and delete the snapshot again.',
    )
  await qmp.execute('block-commit', { 'job-id': job, device: node, 'base-node': base }, deadline)
  try {
    const first = await Promise.race([ready, completed])
    if (first.name === 'BLOCK_JOB_COMPLETED') throw failed(first.data.error ?? 'the job ended early')
    await qmp.execute('block-job-complete', { device: job }, deadline)
    const last = await completed
    if (last.data.error !== undefined) throw failed(last.data.error)
  } catch (error) {
    await qmp.execute('block-job-cancel', { device: job, force: true }, within(2000)).catch(() => {})
    throw error
  }
  // A node that blockdev-add made stays until it is deleted; one that came with the drive is gone already.
  await qmp.execute('blockdev-del', { 'node-name': node }, within(2000)).catch(() => {})
  await rm(file, { force: true })
}

/** Takes overlays back after a capture that failed. `mayBeUsed`: the transaction was sent. */
export async function takeBackOverlays(
  qmp: QmpClient,
  process: ProcessIdentity | null,
  overlays: readonly Overlay[],
  mayBeUsed: boolean,
  deadline: Deadline,
): Promise<void> {
  const lost = qmp.failure !== null
  const inUse = mayBeUsed && !lost ? await activeNodes(qmp, deadline) : new Set<string>()
  for (const overlay of overlays) {
    const { node, file, disk } = overlay
    if (!mayBeUsed || (!lost && !inUse.has(node))) await discardOverlay(qmp, overlay)
    else if (!lost) await mergeDown(qmp, node, disk.node, file, deadline).catch(() => {})
    else if (process !== null && !isAlive(process)) {
      // QEMU has died: what it wrote after the cut goes back into the disk that its owner knows.
      await commitOverlay(file, deadline)
      await rm(file, { force: true })
    }
  }
}
