// Overlays of a domain's disks: made before the cut, slid under the machine by libvirt's own snapshot call, and merged
// back by libvirt's block commit, so that `virsh domblklist` and the stored configuration always name what QEMU writes
// to. Snapshots leave no metadata in libvirt: `virsh snapshot-list` shows what `virsh snapshot-revert` could use, and a
// global snapshot is not libvirt's to revert.

import { type FileHandle, rm, stat } from 'node:fs/promises'
import { asSnapswitchError } from '../../errors/errors.js'
import type { CollapseOptions, Deadline, DiskLayer } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining, within } from '../shared/deadline.js'
import { mergeFailed } from '../shared/qemu-collapse.js'
import { commitOverlay } from '../shared/qemu-img.js'
import { makeOverlayFile, type NewFiles } from '../shared/qemu-overlays.js'
import { placeDisks } from './domain-edits.js'
import type { DomainLink } from './domain-link.js'
import { describeDomain } from './domain-xml.js'
import { closeNodes, mergeBehind, useOf } from './forgotten-nodes.js'
import { LibvirtUnreachable } from './process-handle.js'
import { type BlockInfo, type BlockJob, xmlFlags } from './protocol.js'

export interface DomainOverlay {
  readonly target: string
  /** What was the disk before, the active image first. */
  readonly layers: readonly DiskLayer[]
  readonly file: string
}

/** Makes an overlay that may be opened by whoever may open the disk. */
export async function makeOverlay(
  link: DomainLink,
  disk: { readonly target: string; readonly layers: readonly DiskLayer[] },
  target: NewFiles,
  deadline: Deadline,
): Promise<DomainOverlay> {
  const active = disk.layers[0]!
  const { capacity } = (await link.call('blockInfo', { disk: disk.target }, deadline)) as BlockInfo
  const { target: name, layers } = disk
  // Where libvirt sets owners itself (dynamic_ownership) this changes nothing in the end.
  const { uid, gid, mode } = await stat(active.file)
  const give = async (made: FileHandle) => {
    await made.chown(uid, gid)
    await made.chmod(mode & 0o777)
  }
  return {
    target: name,
    layers,
    file: await makeOverlayFile({ name, layers, bytes: capacity }, target, give, deadline),
  }
}

/** How long ending a block job may take; a restart of libvirtd fits in. */
const abortMs = 20_000

/**
 * Commits the active overlay and what is between into a base further down while the machine runs, and pivots to that. A
 * libvirtd that is started again meanwhile finds the job that the last one began, and ends it.
 */
export async function mergeActive(
  link: DomainLink,
  overlay: { readonly target: string; readonly file: string; readonly base: string },
  deadline: Deadline,
  { signal, bytesPerSecond = 0 }: CollapseOptions = {},
): Promise<void> {
  const disk = overlay.target
  let asked = false
  const commit = async () => {
    // Only a job that was asked for here is taken for ours.
    if (asked && (await blockJob(link, disk, deadline)).found) return
    asked = true
    await link.call('blockCommit', { disk, base: overlay.base, bytesPerSecond }, deadline)
  }
  let reason = 'the job ended early'
  // libvirt forgets a job that has failed, and with it the reason.
  const stop = link.onEvent(({ name, data }) => {
    if (name === 'BLOCK_JOB_COMPLETED' && typeof data.error === 'string') reason = data.error
  })
  try {
    await link.patiently(commit, deadline)
    await pivot(link, disk, overlay.file, deadline, signal, () => reason)
  } catch (error) {
    const limit = within(abortMs)
    await link.patiently(() => link.call('blockAbort', { disk }, limit), limit).catch(() => {})
    throw error
  } finally {
    stop()
  }
}

/**
 * Copies what lies between the active overlay and a base up into the overlay, by libvirt's block pull, whose job ends
 * by itself. Libvirt's view is the new chain then.
 */
export async function pullActive(
  link: DomainLink,
  { target: disk, file, base }: { readonly target: string; readonly file: string; readonly base: string },
  deadline: Deadline,
  { signal, bytesPerSecond = 0 }: CollapseOptions = {},
): Promise<void> {
  await link.call('blockRebase', { disk, base, bytesPerSecond }, deadline)
  try {
    while ((await link.patiently(() => blockJob(link, disk, deadline), deadline)).found) {
      signal?.throwIfAborted()
      if (remaining(deadline) === 0) throw deadlinePassed(`Shortening the chain of ${file}`)
      await pauseFor(50, deadline)
    }
  } catch (error) {
    const limit = within(abortMs)
    await link.patiently(() => link.call('blockAbort', { disk }, limit), limit).catch(() => {})
    throw error
  }
}

const blockJob = async (link: DomainLink, disk: string, deadline: Deadline): Promise<BlockJob> =>
  (await link.call('blockJob', { disk }, deadline)) as BlockJob

async function pivot(
  link: DomainLink,
  disk: string,
  file: string,
  deadline: Deadline,
  signal: AbortSignal | undefined,
  reason: () => string,
): Promise<void> {
  for (;;) {
    signal?.throwIfAborted()
    const job = await link.patiently(() => blockJob(link, disk, deadline), deadline)
    if (!job.found) {
      // The answer to the pivot may have been lost.
      if (!(await useOf(link, file, deadline)).active) return
      throw mergeFailed(file, reason())
    }
    if (job.cur === job.end && job.end > 0) {
      try {
        await link.call('blockPivot', { disk }, deadline)
        return
      } catch (error) {
        // As long as the last blocks are on their way: "block copy still active: disk 'vda' not ready for pivot yet".
        const isLost = error instanceof LibvirtUnreachable
        if (!isLost && !/not ready|still active/.test((error as Error).message)) throw error
      }
    }
    if (remaining(deadline) === 0) throw deadlinePassed(`Merging ${file}`)
    await pauseFor(20, deadline)
  }
}

/** Throws when that cannot be told: images of a machine that may be running are nobody's to touch. */
async function isActive(link: DomainLink, deadline: Deadline): Promise<boolean> {
  try {
    return (await link.patiently(() => link.describe(deadline), deadline)).active
  } catch (thrown) {
    if (asSnapswitchError(thrown).code === 'MACHINE_UNKNOWN') return false
    throw thrown
  }
}

/** Takes overlays back after a capture that failed: merged where the machine uses them, removed where it does not. */
export async function takeBack(
  link: DomainLink,
  overlays: readonly DomainOverlay[],
  mayBeUsed: boolean,
  deadline: Deadline,
): Promise<void> {
  if (overlays.length === 0) return
  if (!mayBeUsed) {
    for (const { file } of overlays) await rm(file, { force: true })
    return
  }
  if (!(await isActive(link, deadline))) return takeBackOffline(link, overlays, deadline)
  for (const overlay of overlays) await takeOneBack(link, overlay, deadline)
}

async function takeOneBack(link: DomainLink, { target, file, layers }: DomainOverlay, deadline: Deadline) {
  const use = await useOf(link, file, deadline)
  const base = layers[0]!
  if (use.active) {
    const { disks } = describeDomain(await link.patiently(() => link.xml(0, deadline), deadline))
    const isKnown = disks.some((disk) => disk.target === target && disk.layers[0]?.file === file)
    if (isKnown) await mergeActive(link, { target, file, base: base.file }, deadline)
    else await mergeBehind(link, use, base, deadline)
  } else await closeNodes(link, use, deadline)
  await rm(file, { force: true })
}

/**
 * The machine has died: what it wrote after the cut goes back into the disk, and its configuration names that again.
 */
async function takeBackOffline(link: DomainLink, overlays: readonly DomainOverlay[], deadline: Deadline) {
  const stored = await link.xml(xmlFlags.inactive | xmlFlags.secure, deadline).catch(() => null)
  const known = stored === null ? [] : describeDomain(stored).disks
  const back = []
  for (const { target, file, layers } of overlays) {
    await commitOverlay(file, layers[0]!.file, deadline)
    if (known.some((disk) => disk.target === target && disk.layers[0]?.file === file)) back.push({ target, layers })
  }
  if (stored !== null && back.length > 0) await link.call('define', { xml: placeDisks(stored, back) }, deadline)
  for (const { file } of overlays) await rm(file, { force: true })
}
