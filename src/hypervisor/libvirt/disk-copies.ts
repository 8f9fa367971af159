// Copies of a domain's disks as they are at the cut, made by QEMU behind the running guest.
//
// libvirt's disk snapshot takes 12 ms with nothing else to do (it forks twice, adds block nodes one by one and writes
// the domain's state four times), far too long for a pause. So its overlays go in before the pause, while the guest
// runs, and libvirt's view is right from then on. What the guest has written between that and the cut lies in the
// overlay, and more comes after the cut; a backup job, started in the pause by one command, copies the overlay as it
// was at that instant into an image of its own (copy before write, docs/interop/live-block-operations.rst). Copy and
// base together are the disk as the cut froze it. libvirt ignores jobs that it did not start (qemu_blockjob.c,
// "untracked job").

import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, DiskLayer } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining, within } from '../shared/deadline.js'
import { findNode } from '../shared/qemu-disks.js'
import type { NewFiles } from '../shared/qemu-overlays.js'
import type { JsonObject } from '../shared/qmp.js'
import { isObject } from '../shared/qmp-messages.js'
import type { DomainLink } from './domain-link.js'
import { type DomainOverlay, makeOverlay } from './overlays.js'

const prefix = 'snapswitch-'

/** Whether a block node is a copy of ours. */
export const isCopy = (node: string): boolean => node.startsWith(prefix)

export interface DiskCopy {
  readonly target: string
  readonly file: string
  /** The block node it is open as, and the job that fills it. */
  readonly node: string
}

/** Makes an empty copy beside the disk and opens it in QEMU. */
export async function openCopy(
  link: DomainLink,
  disk: { readonly target: string; readonly layers: readonly DiskLayer[] },
  target: NewFiles,
  deadline: Deadline,
): Promise<DiskCopy> {
  const { file } = await makeOverlay(link, disk, target, deadline)
  const node = `${prefix}${randomBytes(6).toString('hex')}`
  try {
    await link.execute(
      'blockdev-add',
      {
        driver: 'qcow2',
        'node-name': node,
        file: { driver: 'file', filename: file },
        // The job writes whole clusters, so what it is layered on need not be open.
        backing: null,
        // Saving memory begins with a flush of everything; a copy is synced by us, at the end.
        cache: { 'no-flush': true },
      },
      deadline,
    )
    return { target: disk.target, file, node }
  } catch (error) {
    await rm(file, { force: true })
    throw error
  }
}

/** The one command that begins to copy all overlays as they are at the same point. */
export async function copyTransaction(
  link: DomainLink,
  copies: readonly DiskCopy[],
  overlays: readonly DomainOverlay[],
  deadline: Deadline,
): Promise<readonly [string, JsonObject]> {
  const nodes = await link.execute('query-named-block-nodes', { flat: true }, deadline)
  const actions = copies.map(({ target, node }) => {
    const file = overlays.find((overlay) => overlay.target === target)?.file ?? ''
    const device = findNode(nodes, { file, format: 'qcow2' }, '/')
    if (device === null) throw new SnapswitchError('INTERNAL', `QEMU does not use ${file}`, 'Please report this.')
    // Slow until `finishCopy`: saving memory begins by waiting for all I/O. It stays until it is dismissed: its end can
    // be asked for, and no event is missed.
    const data = { 'job-id': node, device, target: node, sync: 'top', speed: 1, 'auto-dismiss': false }
    return { type: 'blockdev-backup', data }
  })
  return ['transaction', { actions }]
}

function unlessRefused(error: unknown): void {
  if (!(error instanceof SnapswitchError) || error.code !== 'HYPERVISOR_REFUSED') throw error
}

async function job(link: DomainLink, id: string, deadline: Deadline): Promise<JsonObject | null> {
  const jobs = await link.patiently(() => link.execute('query-jobs', {}, deadline), deadline)
  return (Array.isArray(jobs) ? jobs.filter(isObject) : []).find((one) => one.id === id) ?? null
}

/** Lets the job go on at full speed, waits until the copy is complete, and closes it. */
export async function finishCopy(
  link: DomainLink,
  { node, file, target }: DiskCopy,
  deadline: Deadline,
): Promise<void> {
  const faster = () => link.execute('block-job-set-speed', { device: node, speed: 0 }, deadline)
  // Refused when it has ended already.
  await link.patiently(() => faster().catch(unlessRefused), deadline)
  for (;;) {
    const found = await job(link, node, deadline)
    if (found === null || (found.status === 'concluded' && typeof found.error === 'string')) {
      throw new SnapswitchError(
        'CAPTURE_FAILED',
        `${target} could not be copied to ${file}: ${found === null ? 'the job was ended' : String(found.error)}`,
        'Free some space where the disk images lie, then try again.',
      )
    }
    if (found.status === 'concluded') break
    if (remaining(deadline) === 0) throw deadlinePassed(`Copying ${target}`)
    await pauseFor(20, deadline)
  }
  await link.patiently(() => forget(link, node, deadline), deadline)
}

async function forget(link: DomainLink, node: string, deadline: Deadline): Promise<void> {
  if ((await job(link, node, deadline)) !== null) await link.execute('job-dismiss', { id: node }, deadline)
  await link.execute('blockdev-del', { 'node-name': node }, deadline)
}

/** Removes a copy that nobody wants, whatever has become of it. */
export async function discardCopy(
  link: DomainLink,
  { node, file }: Pick<DiskCopy, 'node' | 'file'>,
  deadline: Deadline,
): Promise<void> {
  await endCopy(link, node, deadline).catch(() => {})
  await rm(file, { force: true })
}

/** Ends copies whose daemon has died: a disk that is being copied cannot be merged. */
export async function endForgottenCopies(link: DomainLink, deadline: Deadline): Promise<void> {
  const jobs = await link.execute('query-jobs', {}, deadline)
  const ids = (Array.isArray(jobs) ? jobs.filter(isObject) : []).map(({ id }) => String(id))
  for (const id of ids.filter(isCopy)) await endCopy(link, id, deadline)
}

async function endCopy(link: DomainLink, node: string, deadline: Deadline): Promise<void> {
  const found = await job(link, node, deadline)
  if (found !== null && found.status !== 'concluded') {
    await link.execute('job-cancel', { id: node }, deadline).catch(() => {})
    for (const limit = within(5000, deadline); remaining(limit) > 0; await pauseFor(10, limit)) {
      if ((await job(link, node, deadline))?.status === 'concluded') break
    }
  }
  await forget(link, node, deadline)
}
