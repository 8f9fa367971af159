// What a libvirtd leaves in QEMU that is killed in the middle of its disk snapshot. It adds the overlay's block nodes,
// puts the overlay in use, and writes that down last (libvirt 9.0, qemu_snapshot.c, qemuSnapshotDiskPrepare and after):
// the next libvirtd knows nothing of it, names its next nodes alike, and QEMU refuses them ("Duplicate nodes"). So
// nodes that no disk uses are closed, and an overlay that is in use without libvirt's knowledge is merged behind its
// back, which makes its view true again.

import { randomBytes } from 'node:crypto'
import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, DiskLayer } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining } from '../shared/deadline.js'
import { findNode, localFile } from '../shared/qemu-disks.js'
import type { JsonObject } from '../shared/qmp.js'
import { isObject } from '../shared/qmp-messages.js'
import type { DomainLink } from './domain-link.js'

const objects = (answer: unknown): JsonObject[] => (Array.isArray(answer) ? answer.filter(isObject) : [])
const nameOf = (node: JsonObject): string => String(node['node-name'])

/** How QEMU has an image open, whatever libvirt believes. */
export interface ImageUse {
  /** Its block nodes, the uppermost first. */
  readonly nodes: readonly string[]
  /** Whether a disk of the guest is on it. */
  readonly active: boolean
}

export async function useOf(link: DomainLink, file: string, deadline: Deadline): Promise<ImageUse> {
  const found = await namedNodes(link, file, deadline)
  const nodes = [...found.filter(({ drv }) => drv !== 'file'), ...found.filter(({ drv }) => drv === 'file')].map(nameOf)
  const drives = objects(await link.patiently(() => link.execute('query-block', {}, deadline), deadline))
  const active = drives.some(({ inserted }) => isObject(inserted) && nodes.includes(nameOf(inserted)))
  return { nodes, active }
}

async function namedNodes(link: DomainLink, file: string, deadline: Deadline): Promise<JsonObject[]> {
  const ask = () => link.execute('query-named-block-nodes', { flat: true }, deadline)
  return objects(await link.patiently(ask, deadline)).filter((node) => localFile(node.file, '/') === file)
}

/** Refused while something stands on them. */
export async function closeNodes(link: DomainLink, { nodes }: ImageUse, deadline: Deadline): Promise<void> {
  for (const node of nodes) await link.execute('blockdev-del', { 'node-name': node }, deadline)
}

/** Commits an overlay in use into its base, behind libvirt's back, and closes it. */
export async function mergeBehind(link: DomainLink, use: ImageUse, base: DiskLayer, deadline: Deadline): Promise<void> {
  const baseNode = findNode(await link.execute('query-named-block-nodes', { flat: true }, deadline), base, '/')
  const device = use.nodes[0]
  if (baseNode === null || device === undefined) {
    throw new SnapswitchError('INTERNAL', `QEMU does not use ${base.file}`, 'Please report this.')
  }
  const id = `merge-${randomBytes(6).toString('hex')}`
  await link.execute('block-commit', { 'job-id': id, device, 'base-node': baseNode, 'auto-dismiss': false }, deadline)
  await jobComes(link, id, 'ready', deadline)
  await link.execute('job-complete', { id }, deadline)
  await jobComes(link, id, 'concluded', deadline)
  await link.execute('job-dismiss', { id }, deadline)
  await closeNodes(link, use, deadline)
}

async function jobComes(link: DomainLink, id: string, status: string, deadline: Deadline): Promise<void> {
  for (;;) {
    const job = objects(await link.execute('query-jobs', {}, deadline)).find((one) => one.id === id)
    if (job?.status === status && typeof job.error !== 'string') return
    if (job === undefined || job.status === 'concluded') {
      const reason = job === undefined ? 'the job was ended' : String(job.error)
      throw new SnapswitchError('CAPTURE_FAILED', `Merging an overlay failed: ${reason}`, 'See the domain’s log.')
    }
    if (remaining(deadline) === 0) throw deadlinePassed('Merging an overlay')
    await pauseFor(20, deadline)
  }
}
