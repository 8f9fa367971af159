// `snapshot prune` on one host: what nobody needs goes, and what only looks like ours is told.

import { basename } from 'node:path'
import type { Pruned, PruneRequest } from '../../../src/api/schemas.js'
import type { DaemonHost } from '../host.js'
import type { DiskKeeper } from './keeper.js'
import type { Observation } from './observe.js'
import { type Kept, needed } from './plan.js'
import { copyForRestores, settledCopies } from './state-files.js'

export function prune(
  { store }: Pick<DaemonHost, 'store'>,
  keeper: DiskKeeper,
  { orphans, dryRun, released = [] }: PruneRequest,
): Promise<Pruned> {
  return keeper.exclusively(async () => {
    if (dryRun !== true && released.length > 0) {
      // One of that content may have come since the coordinator was told.
      const settled = await settledCopies(store)
      await store.images.release(released.filter((digest) => settled.has(digest)))
    }
    const tidied = await keeper.tidy({ dryRun: dryRun ?? false, strays: orphans ?? false })
    const seen = orphans === true ? await keeper.look({ learn: false }) : null
    const strangers = seen === null ? [] : lookalikes(seen)
    return {
      freedBytes: tidied.freedBytes,
      merged: tidied.merged.map(({ vm, disk, files }) => ({ vm, disk, files: [...files] })),
      removed: [...tidied.removed],
      kept: [...tidied.kept, ...strangers].map(({ file, reason }) => ({ file, reason })),
      failures: tidied.failures.map(({ vm, disk, error }) => ({
        ...error.report(),
        message: `disk ${disk} of ${vm}: ${error.message}`,
      })),
      ...(seen === null ? {} : { copies: await spare(seen, await settledCopies(store)) }),
    }
  })
}

/** Copies that would go if no snapshot had their content. */
async function spare(
  { world, names, blind }: Observation,
  copies: ReadonlyMap<string, string>,
): Promise<NonNullable<Pruned['copies']>> {
  if (blind !== null) return []
  const others = new Map([...world.kept].filter(([, reason]) => reason !== copyForRestores))
  const needs = needed({ ...world, kept: others })
  const found: NonNullable<Pruned['copies']> = []
  for (const [digest, file] of copies) {
    const name = await names.of(file)
    if (world.fetched.has(name) && !needs.has(name)) found.push({ file, digest, bytes: names.allocated(name) })
  }
  return found
}

/**
 * Images named as overlays are that no record has and nobody uses: of a lost state directory, perhaps. Their owner must
 * say.
 */
function lookalikes({ world }: Observation): Kept[] {
  const used = new Set([
    ...world.pins.keys(),
    ...world.machines.flatMap(({ disks, files }) => [
      ...files,
      ...disks.flatMap(({ chain }) => chain.map(({ file }) => file)),
    ]),
  ])
  const isBase = (file: string) => [...world.backing.values()].some((bases) => bases.includes(file))
  return [...world.present]
    .filter((file) => /\.[A-Za-z0-9_.-]+-e\d+(-\d+)?\.qcow2$/.test(basename(file)))
    .filter((file) => !world.made.has(file) && !world.fetched.has(file) && !used.has(file) && !isBase(file))
    .map((file) => ({
      file,
      reason: 'it is named as an overlay of a snapshot, and stands on no record: it is yours to remove',
    }))
}
