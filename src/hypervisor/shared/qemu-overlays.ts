// Overlays of a live machine's disks: made and opened before the cut, slid under the machine in one transaction at the
// cut, merged back when they are not wanted.

import { randomBytes } from 'node:crypto'
import { type FileHandle, lstat, open, rm } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type { CaptureTarget, Deadline, DiskLayer } from '../hypervisor.js'
import type { LiveDisk } from './block-drives.js'
import { activeNodes, askBlockGraph } from './block-graph.js'
import { pauseFor, remaining, within } from './deadline.js'
import { datedInMerge } from './overlay-dates.js'
import { isAlive, type ProcessIdentity } from './process.js'
import { commitActive } from './qemu-collapse.js'
import { commitOverlay, createOverlay } from './qemu-img.js'
import type { JsonObject, Qmp, QmpClient } from './qmp.js'

export interface Overlay {
  readonly disk: LiveDisk
  readonly file: string
  /** The block node it is opened as. */
  readonly node: string
}

/** `machine`: whose disks they are for. */
export type NewFiles = Pick<CaptureTarget, 'label' | 'creating'> & { readonly machine: string }

const stemMost = 120

/**
 * The first part of the names of a disk's overlays: whose disk it is shows in a directory, wherever the disk has come
 * from.
 */
export function overlayStem(machine: string, disk: string): string {
  return `${machine}-${disk.replace(/[^A-Za-z0-9_.-]+/g, '_').replace(/^[._]+/, '')}`.slice(0, stemMost)
}

/** `web-disk0.before-upgrade.qcow2`, beside the disk; numbered when that exists. The caller closes the handle. */
async function reserveOverlayFile(
  disk: Pick<OverlayDisk, 'name' | 'layers'>,
  { label, creating, machine }: NewFiles,
): Promise<{ readonly file: string; readonly handle: FileHandle }> {
  const directory = path.dirname(disk.layers[0]!.file)
  const stem = overlayStem(machine, disk.name)
  for (let i = 1; i < 1000; i++) {
    const file = path.join(directory, `${stem}.${label}${i === 1 ? '' : `-${i}`}.qcow2`)
    // Nobody else's file may come on the record, not even for a moment.
    if (await exists(file)) continue
    await creating?.(file)
    try {
      return { file, handle: await open(file, 'wx', 0o600) }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST') continue
      if (code === 'ENOSPC') throw storeFull(directory, error)
      throw new SnapswitchError('STORE_IO', `${file} cannot be made: ${code}`, 'Make the directory writable.', error)
    }
  }
  throw new SnapswitchError(
    'STORE_IO',
    `${directory} has too many overlays named ${label}`,
    'Remove overlays that no machine and no snapshot uses.',
  )
}

export interface OverlayDisk {
  readonly name: string
  readonly layers: readonly DiskLayer[]
  readonly bytes: number
}

/**
 * Makes an overlay beside a disk. The directory may be a user's, who can have another file under any name at any time:
 * so the one that was made is written, and given away by `give`, through its descriptor.
 */
export async function makeOverlayFile(
  disk: OverlayDisk,
  target: NewFiles,
  give: (file: FileHandle) => Promise<void>,
  deadline: Deadline,
): Promise<string> {
  const { file, handle } = await reserveOverlayFile(disk, target)
  try {
    await createOverlay(`/proc/${process.pid}/fd/${handle.fd}`, disk.layers[0]!, disk.bytes, deadline)
    await give(handle)
    return file
  } catch (error) {
    await rm(file, { force: true })
    throw error
  } finally {
    await handle.close()
  }
}

const exists = (file: string) =>
  lstat(file).then(
    () => true,
    () => false,
  )

export function storeFull(where: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'STORE_FULL',
    `${where}: no space left`,
    'Free some space there, or mount a larger disk there.',
    cause,
  )
}

/** Makes an overlay and opens it in QEMU beside the disk, not yet in use. */
export async function openOverlay(
  qmp: Qmp,
  disk: LiveDisk,
  target: NewFiles,
  owner: { readonly uid: number; readonly gid: number },
  deadline: Deadline,
): Promise<Overlay> {
  const file = await makeOverlayFile(disk, target, (made) => made.chown(owner.uid, owner.gid), deadline)
  const overlay = { disk, file, node: `snapswitch-${randomBytes(6).toString('hex')}` }
  try {
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
export async function discardOverlay(qmp: Qmp, overlay: Overlay): Promise<void> {
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

/** How long a QEMU whose socket has closed may take to end. */
const DYING_MS = 2000

/** Takes overlays back after a capture that failed. `mayBeUsed`: the transaction was sent. */
export async function takeBackOverlays(
  qmp: QmpClient,
  process: ProcessIdentity | null,
  overlays: readonly Overlay[],
  mayBeUsed: boolean,
  deadline: Deadline,
): Promise<void> {
  const lost = qmp.failure !== null
  // A killed QEMU's socket closes before its last thread has ended, and its images are free only then.
  const limit = within(DYING_MS, deadline)
  while (lost && process !== null && isAlive(process) && remaining(limit) > 0) await pauseFor(10, limit)
  const inUse = mayBeUsed && !lost ? activeNodes(await askBlockGraph(qmp, deadline)) : new Set<string>()
  for (const overlay of overlays) {
    const { node, file } = overlay
    if (!mayBeUsed || (!lost && !inUse.has(node))) await discardOverlay(qmp, overlay)
    else if (!lost) await mergeBack(qmp, overlay, deadline).catch(() => {})
    else if (process !== null && !isAlive(process)) {
      // QEMU has died: what it wrote after the cut goes back into the disk that its owner knows.
      await commitOverlay(file, overlay.disk.layers[0]!.file, deadline)
      await rm(file, { force: true })
    }
  }
}

async function mergeBack(qmp: Qmp, { node, file, disk }: Overlay, deadline: Deadline): Promise<void> {
  const root = disk.root === disk.node ? node : disk.root
  await datedInMerge([file], disk.layers[0]!.file, () => commitActive(qmp, { node, root }, disk.node, file, deadline))
  await qmp.execute('blockdev-del', { 'node-name': node }, within(2000)).catch(() => {})
  await rm(file, { force: true })
}
