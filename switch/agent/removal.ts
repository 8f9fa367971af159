// Removing one host's part of a snapshot. What only it needs is merged or removed first, the record of it last: a
// removal that fails says what is left, and is repeated by asking again.

import type { LocalPart, Removal } from '../../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import type { DiskKeeper, Tidied } from './disks/keeper.js'
import { needed } from './disks/plan.js'
import { copyFor, copyForRestores, fetchedFiles } from './disks/state-files.js'
import type { DaemonHost } from './host.js'

/**
 * Harmless when there is no such part. A part of another epoch than the one asked for is of another snapshot of that
 * name, and stays. When it throws SNAPSHOT_NEEDED or SNAPSHOT_BUSY, nothing was changed.
 */
export function removePart(
  host: DaemonHost,
  keeper: DiskKeeper,
  network: string,
  snapshot: string,
  epoch: number | null,
): Promise<Removal> {
  return keeper.exclusively(() => remove(host, keeper, network, snapshot, epoch))
}

async function remove(
  host: DaemonHost,
  keeper: DiskKeeper,
  network: string,
  snapshot: string,
  epoch: number | null,
): Promise<Removal> {
  const { store } = host
  const record = await recordOf(host, network, snapshot)
  const part = record === 'damaged' ? null : record
  if (part !== null && epoch !== null && part.epoch !== epoch) {
    const reason = `it is of another ${network}/${snapshot} (epoch ${part.epoch})`
    return { ...nothing, kept: [{ file: store.directory(network, snapshot), reason }] }
  }
  // The record of a machine that stands still outlives the snapshot that has paused it.
  if (part === null && (await host.journal.hasStuck(network, snapshot))) return nothing
  const vms = new Set(part?.members.map(({ vm }) => vm) ?? [])
  if (part !== null) {
    await keeper.check(network, snapshot, vms)
    await store.beginRemoval(network, snapshot)
  }
  if (record === 'damaged') await store.remove(network, snapshot)
  const tidied = await keeper.tidy(record === 'damaged' ? {} : { vms })
  refuseUnfinished(host, part, tidied)
  const seen = await keeper.look()
  const inUse = new Set([...needed(seen.world)].flatMap(([file]) => seen.names.asked(file)))
  const copies = (await fetchedFiles(store)).map(({ path }) => path)
  const keep = new Set(copies.filter((path) => isNeeded(seen.world, inUse, path, copyFor(network, snapshot))))
  await store.remove(network, snapshot, keep)
  return {
    freedBytes: tidied.freedBytes + imageBytes(part),
    merged: tidied.merged.map(({ vm, disk, files }) => ({ vm, disk, files: [...files] })),
    removed: [...tidied.removed],
    // Copies go when the coordinator knows that no other snapshot has them, in a moment.
    kept: tidied.kept.flatMap(({ file, reason }) => (reason === copyForRestores ? [] : [{ file, reason }])),
  }
}

/**
 * null: there is none. Whoever deletes a snapshot whose record is damaged wants it gone all the same; what it named is
 * told by the disks, when that record is in nobody's way.
 */
async function recordOf(
  { store, log }: DaemonHost,
  network: string,
  snapshot: string,
): Promise<LocalPart | 'damaged' | null> {
  try {
    return (await store.readPart(network, snapshot)) ?? (await store.removal(network, snapshot))
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'STORE_DAMAGED') throw thrown
    log.warn({ err: thrown, network, snapshot }, 'deleting a snapshot whose record is damaged')
    return 'damaged'
  }
}

/** Deletions that a daemon has begun and not finished. What keeps one from its end is logged. */
export async function finishRemovals(host: DaemonHost, keeper: DiskKeeper): Promise<void> {
  for (const { network, snapshot, epoch } of await host.store.removals()) {
    // Another one may have taken the name before its turn comes.
    await removePart(host, keeper, network, snapshot, epoch).catch((thrown) =>
      host.log.warn({ err: thrown, network, snapshot }, 'a deletion that was begun cannot be finished yet'),
    )
  }
}

const nothing: Removal = { freedBytes: 0, merged: [], removed: [], kept: [] }

/** A copy for restores of this very snapshot goes with it, unless something else needs it. */
function isNeeded(
  world: Parameters<typeof needed>[0],
  inUse: ReadonlySet<string>,
  path: string,
  copy: string,
): boolean {
  if (!inUse.has(path)) return false
  const others = new Map([...world.kept].filter(([, reason]) => reason !== copy))
  return needed({ ...world, kept: others }).has(path)
}

function refuseUnfinished(host: DaemonHost, part: LocalPart | null, { failures, merged, removed }: Tidied): void {
  const [first] = failures
  if (first === undefined || part === null) return
  const { error, vm, disk } = first
  host.log.warn({ err: error, vm, disk }, 'a disk could not be merged')
  const more = failures.length === 1 ? '' : ` (and ${failures.length - 1} more)`
  throw new SnapswitchError(
    error.code,
    `${part.snapshot} is not wholly deleted: ${vm}’s disk ${disk}${more} stays layered: ${error.message} (${merged.length} disks merged, ${removed.length} files removed)`,
    error.action,
    error,
  )
}

const imageBytes = (part: LocalPart | null): number =>
  part === null ? 0 : part.channel.bytes + part.members.reduce((sum, { memory }) => sum + memory.bytes, 0)
