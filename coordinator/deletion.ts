// Deletes a snapshot: first every host's part, then the manifest. The manifest says `failed` meanwhile, so that a crash in the
// middle leaves nothing that looks complete. A host that refuses before any other has deleted undoes nothing.

import type { Logger } from 'pino'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { beingDeleted } from './leftovers.js'
import type { Network } from './network.js'
import { onHost } from './sequence/table.js'
import type { Clock } from './sequence-runner.js'
import type { Catalogue } from './store/catalogue.js'

const deleteCallMs = 60_000

export interface DeletionOptions {
  readonly catalogue: Catalogue
  readonly clock: Clock
  readonly logger: Logger
}

/** Throws SNAPSHOT_UNKNOWN, and what a host says that refuses. */
export async function deleteSnapshot(
  network: Network,
  name: string,
  { catalogue, clock, logger }: DeletionOptions,
): Promise<void> {
  const before = await catalogue.read(network.name, name).catch((error: unknown) => {
    // A damaged manifest can be deleted, too.
    if (error instanceof SnapswitchError && error.code === 'STORE_DAMAGED') return null
    throw error
  })
  if (before !== null) await catalogue.write(beingDeleted(before, clock.now()))
  const holders = before?.parts.map((part) => part.host) ?? network.hosts
  let deleted = 0
  // Hosts with parts first: they may refuse. The others have copies at most, from a restore.
  for (const host of [...network.hosts].sort((a, b) => Number(holders.includes(b)) - Number(holders.includes(a)))) {
    try {
      await network.agents.deleteSnapshot(host, name, { timeoutMs: deleteCallMs })
      deleted++
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (error.code === 'SNAPSHOT_UNKNOWN') continue
      if (!holders.includes(host)) {
        logger.warn({ err: error, host, snapshot: name }, 'copies of a deleted snapshot may remain there')
        continue
      }
      if (deleted === 0 && before !== null) await catalogue.write(before)
      throw SnapswitchError.fromReport(onHost(host, error.report()), error)
    }
  }
  await catalogue.remove(network.name, name)
}
