// Merges the upper images of a live disk's chain into one further down: QEMU's block-commit from the active image, with
// the machine running, and the pivot onto the base. What left the chain is closed; its files are the caller's to
// remove.

import { randomBytes } from 'node:crypto'
import { SnapswitchError } from '../../errors/errors.js'
import type { CollapseOptions, Deadline, DiskLayer } from '../hypervisor.js'
import { findImageNode, type LiveDisk } from './block-drives.js'
import { obstacleToMerge, ownJobs } from './block-graph.js'
import { deadlinePassed, pauseFor, remaining, within } from './deadline.js'
import { datedInMerge } from './overlay-dates.js'
import type { MachineBlocks } from './qemu-blocks.js'
import { localFile } from './qemu-disks.js'
import type { Qmp } from './qmp.js'
import { isObject, type JsonObject } from './qmp-messages.js'

const pollMs = 20
/** A job that copies nothing for so long is stuck. */
const stallMs = 60_000

const objects = (answer: unknown): JsonObject[] => (Array.isArray(answer) ? answer.filter(isObject) : [])

export function notInChain(base: string, disk: string): SnapswitchError {
  return new SnapswitchError(
    'HYPERVISOR_REFUSED',
    `${base} is no lower image of ${disk}: its chain has changed`,
    'Try again. If it stays so, the file was replaced under the running machine, which goes on with the former one: copy the machine’s data out of it, then restart it or restore a snapshot.',
  )
}

/**
 * Why an image may not leave the chain by a commit, which carries the guest's data and nothing else; null when it may.
 * `nodes`: the answer of query-named-block-nodes.
 */
export function mergeObstacle(nodes: unknown, layer: DiskLayer, directory: string): string | null {
  for (const node of objects(nodes)) {
    if (localFile(node.file, directory) !== layer.file) continue
    const snapshots = isObject(node.image) ? objects(node.image.snapshots).map(({ name }) => String(name)) : []
    if (snapshots.length > 0) return `it holds internal snapshots (savevm): ${[...new Set(snapshots)].join(', ')}`
    const bitmaps = objects(node['dirty-bitmaps']).flatMap(({ name }) => (typeof name === 'string' ? [name] : []))
    if (bitmaps.length > 0) return `it holds dirty bitmaps of a backup program: ${bitmaps.join(', ')}`
  }
  return null
}

export function carriesMore(file: string, obstacle: string): SnapswitchError {
  return new SnapswitchError(
    'SNAPSHOT_NEEDED',
    `${file} cannot be merged: ${obstacle}, which merging would destroy`,
    'Remove them (QEMU’s `delvm`, `virsh snapshot-delete`, or the backup program’s own command), or keep the snapshot.',
  )
}

/** Throws SNAPSHOT_NEEDED when one of the images that would leave the chain holds what a commit does not carry. */
export function refuseObstacles(nodes: unknown, leaving: readonly DiskLayer[], directory: string): void {
  for (const layer of leaving) {
    const obstacle = mergeObstacle(nodes, layer, directory)
    if (obstacle !== null) throw carriesMore(layer.file, obstacle)
  }
}

/**
 * A disk's chain as it is, and how deep in it an image lies. Throws HYPERVISOR_REFUSED when it is no image of the
 * chain.
 */
export function placeInChain({ disks }: MachineBlocks, disk: string, base: string) {
  const live = disks.find(({ name }) => name === disk)
  const depth = live?.layers.findIndex(({ file }) => file === base) ?? -1
  if (live === undefined || depth < 0) throw notInChain(base, disk)
  return { active: { node: live.node, root: live.root }, layers: live.layers, depth }
}

/**
 * The nodes of images that are to leave the chain. Throws SNAPSHOT_NEEDED when one holds what a commit does not carry.
 */
export function nodesToLeave({ graph, locate }: MachineBlocks, leaving: readonly DiskLayer[]): string[] {
  return leaving.flatMap((layer) => {
    const node = findImageNode(graph, layer, locate)
    const obstacle = node === null ? null : obstacleToMerge(graph, node)
    if (obstacle !== null) throw carriesMore(layer.file, obstacle)
    return node ?? []
  })
}

/** How long a job may take to end that is called off. */
const endMs = 5000

/**
 * Ends jobs of ours that nobody waits for: a merge whose daemon was killed is ready to end, and never does by itself.
 * To be called where no job of ours can be under way. Until they have ended their images cannot be used in other ways.
 */
export async function endForgottenJobs(qmp: Qmp, deadline: Deadline): Promise<void> {
  const forgotten = async () => {
    const jobs = objects(await qmp.execute('query-block-jobs', {}, deadline))
    return jobs.map(({ device }) => String(device)).filter((id) => id.startsWith(ownJobs))
  }
  const limit = within(endMs, deadline)
  for (let ids = await forgotten(); ids.length > 0 && remaining(limit) > 0; ids = await forgotten()) {
    // Refused when it has ended meanwhile.
    for (const device of ids) await qmp.execute('block-job-cancel', { device, force: true }, limit).catch(() => {})
    await pauseFor(pollMs, limit)
  }
}

/** `layers`: the chain as it is, of which `layers[depth]` is to be the active image. Returns the files above it. */
export async function collapseChain(
  qmp: Qmp,
  blocks: MachineBlocks,
  active: ActiveImage,
  layers: readonly DiskLayer[],
  depth: number,
  deadline: Deadline,
  options: CollapseOptions = {},
): Promise<string[]> {
  const leaving = layers.slice(0, depth)
  const nodes = nodesToLeave(blocks, leaving)
  const base = findImageNode(blocks.graph, layers[depth]!, blocks.locate)
  if (base === null) throw notInChain(layers[depth]!.file, active.node)
  const files = leaving.map(({ file }) => file)
  await datedInMerge(files, layers[depth]!.file, () => commitActive(qmp, active, base, files[0]!, deadline, options))
  // A node that blockdev-add made stays until it is deleted, upper ones first; one that came with the drive is gone
  // already.
  for (const node of nodes) await qmp.execute('blockdev-del', { 'node-name': node }, within(2000)).catch(() => {})
  return files
}

/** What a machine writes to: the image's node, and what its device is wired to, a filter above it or that itself. */
export type ActiveImage = Pick<LiveDisk, 'node' | 'root'>

/** Commits the active image into `base` and pivots. On failure, or when called off, the machine goes on with it. */
export async function commitActive(
  qmp: Qmp,
  { node, root }: ActiveImage,
  base: string,
  file: string,
  deadline: Deadline,
  { signal, bytesPerSecond }: CollapseOptions = {},
): Promise<void> {
  signal?.throwIfAborted()
  const job = `${ownJobs}${randomBytes(6).toString('hex')}`
  const failed = (reason: string) => mergeFailed(file, reason)
  const completed = qmp.event(
    (event) => event.name === 'BLOCK_JOB_COMPLETED' && event.data.device === job,
    `block-commit of ${file}`,
    deadline,
  )
  const cancelled = qmp.event(
    (event) => event.name === 'BLOCK_JOB_CANCELLED' && event.data.device === job,
    `block-commit of ${file}`,
    deadline,
  )
  for (const end of [completed, cancelled]) end.catch(() => {})
  let ended = false
  void Promise.race([completed, cancelled]).then(
    () => {
      ended = true
    },
    () => {},
  )
  const speed = bytesPerSecond === undefined ? {} : { speed: bytesPerSecond }
  const image = { device: root, ...(root !== node && { 'top-node': node }), 'base-node': base }
  await qmp.execute('block-commit', { 'job-id': job, ...image, ...speed }, deadline)
  try {
    await jobIsReady(qmp, job, file, () => ended, deadline, signal)
    if (!ended) await qmp.execute('block-job-complete', { device: job }, deadline)
    const last = await Promise.race([completed, cancelled.then(() => Promise.reject(failed('the job was cancelled')))])
    if (last.data.error !== undefined) throw failed(String(last.data.error))
  } catch (error) {
    await qmp.execute('block-job-cancel', { device: job, force: true }, within(2000)).catch(() => {})
    // Until then its images are in use in ways that a snapshot cannot begin under.
    await Promise.race([completed, cancelled, pauseFor(endMs, within(endMs))]).catch(() => {})
    throw error
  }
}

/**
 * Copies what lies between a disk's active image and `layers[depth]` up into the active one, while the machine runs:
 * nothing but that is written, so frozen images stay as they are, and the chain is short. Returns the files that left
 * it.
 */
export async function streamChain(
  qmp: Qmp,
  blocks: MachineBlocks,
  active: string,
  layers: readonly DiskLayer[],
  depth: number,
  deadline: Deadline,
  { signal, bytesPerSecond }: CollapseOptions = {},
): Promise<string[]> {
  const leaving = layers.slice(1, depth)
  const nodes = nodesToLeave(blocks, leaving)
  const base = findImageNode(blocks.graph, layers[depth]!, blocks.locate)
  if (base === null) throw notInChain(layers[depth]!.file, active)
  signal?.throwIfAborted()
  const job = `${ownJobs}${randomBytes(6).toString('hex')}`
  const ends = ['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'].map((name) =>
    qmp.event(
      (event) => event.name === name && event.data.device === job,
      `block-stream of ${layers[0]!.file}`,
      deadline,
    ),
  )
  for (const one of ends) one.catch(() => {})
  const end = Promise.race(ends)
  let ended = false
  end.then(
    () => {
      ended = true
    },
    () => {},
  )
  const speed = bytesPerSecond === undefined ? {} : { speed: bytesPerSecond }
  // The header names the base as the machine's owner would, not as QEMU has pieced it together.
  const backing = { 'base-node': base, 'backing-file': layers[depth]!.file }
  await qmp.execute('block-stream', { 'job-id': job, device: active, ...backing, ...speed }, deadline)
  try {
    await jobIsReady(qmp, job, layers[0]!.file, () => ended, deadline, signal)
    const last = await end
    if (last.name === 'BLOCK_JOB_CANCELLED') throw mergeFailed(layers[0]!.file, 'the job was cancelled')
    if (last.data.error !== undefined) throw mergeFailed(layers[0]!.file, String(last.data.error))
  } catch (error) {
    await qmp.execute('block-job-cancel', { device: job, force: true }, within(2000)).catch(() => {})
    await Promise.race([end, pauseFor(endMs, within(endMs))]).catch(() => {})
    throw error
  }
  for (const node of nodes) await qmp.execute('blockdev-del', { 'node-name': node }, within(2000)).catch(() => {})
  return leaving.map(({ file }) => file)
}

async function jobIsReady(
  qmp: Qmp,
  id: string,
  file: string,
  ended: () => boolean,
  deadline: Deadline,
  signal: AbortSignal | undefined,
): Promise<void> {
  let last = -1
  let moved = performance.now()
  for (;;) {
    signal?.throwIfAborted()
    const jobs = objects(await qmp.execute('query-block-jobs', {}, deadline))
    const job = jobs.find(({ device }) => device === id)
    if (job?.ready === true || job === undefined || ended()) return
    if (job.offset !== last) {
      last = Number(job.offset)
      moved = performance.now()
    }
    if (remaining(deadline) === 0 || performance.now() - moved > stallMs) throw deadlinePassed(`Merging ${file}`)
    await pauseFor(pollMs, deadline)
  }
}

export function mergeFailed(file: string, reason: string): SnapswitchError {
  const full = /No space left|Disk quota/.test(reason)
  return new SnapswitchError(
    full ? 'STORE_FULL' : 'CAPTURE_FAILED',
    `${file} could not be merged into the image below it: ${reason}. The machine goes on using it`,
    'Free some space where the disk images lie, and try again.',
  )
}
