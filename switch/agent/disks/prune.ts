// `snapshot prune` on one host: what nobody needs goes, and what only looks like ours is told.

import { basename } from 'node:path'
import type { Pruned, PruneRequest } from '../../../src/api/schemas.js'
import type { DiskKeeper } from './keeper.js'
import type { Observation } from './observe.js'
import type { Kept } from './plan.js'

export function prune(keeper: DiskKeeper, { orphans, dryRun }: PruneRequest): Promise<Pruned> {
  return keeper.exclusively(async () => {
    const tidied = await keeper.tidy({ dryRun: dryRun ?? false, strays: orphans ?? false })
    const strangers = orphans === true ? lookalikes(await keeper.look({ learn: false })) : []
    return {
      freedBytes: tidied.freedBytes,
      merged: tidied.merged.map(({ vm, disk, files }) => ({ vm, disk, files: [...files] })),
      removed: [...tidied.removed],
      kept: [...tidied.kept, ...strangers].map(({ file, reason }) => ({ file, reason })),
      failures: tidied.failures.map(({ vm, disk, error }) => ({
        ...error.report(),
        message: `disk ${disk} of ${vm}: ${error.message}`,
      })),
    }
  })
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
