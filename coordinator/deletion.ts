// Deletes a snapshot: first every host's part, then the manifest. The manifest says `failed` meanwhile, so that a crash
// in the middle leaves nothing that looks complete. When the first host refuses before it has touched anything, the
// snapshot is what it was. A host that does not answer any more may go on with its part: then the mark stays. What a
// host has under the name and is of another snapshot stays.

import { dirname } from 'node:path'
import type { Logger } from 'pino'
import type { DeleteReport, LocalPart, Manifest, Removal } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import type { Call } from './agents.js'
import { attended, isSilence } from './attended.js'
import { digestsOf, release, unnamed } from './copies.js'
import type { Network } from './network.js'
import { beingDeleted } from './recovery.js'
import { onHost } from './sequence/table.js'
import type { ManifestStore } from './store/catalogue.js'
import { readManifest } from './strays.js'

/** Merging disks takes as long as copying what was written since; each host gives up by itself when nothing moves. */
const deleteCallMs = 24 * 3_600_000

const partCallMs = 10_000

export interface DeletionOptions {
  readonly catalogue: ManifestStore
  readonly clock: Clock
  readonly logger: Logger
  /** The coordinator stops: its reason is thrown. */
  readonly signal: AbortSignal
}

const afterwards = 'Then delete the snapshot again, which finishes it.'

/** Throws SNAPSHOT_UNKNOWN, and what a host says that refuses. */
export async function deleteSnapshot(
  network: Network,
  name: string,
  { catalogue, clock, logger, signal }: DeletionOptions,
): Promise<DeleteReport> {
  const before = await readManifest(catalogue, network, name).catch((error: unknown) => {
    // A damaged manifest can be deleted, too, and what hosts have of one that is lost.
    if (error instanceof SnapswitchError && error.code === 'STORE_DAMAGED') return null
    throw error
  })
  const isMarked = before !== null && (await mark(catalogue, beingDeleted(before, clock.now()), logger))
  const holders = holdersOf(network, before)
  const found = new Set<string>()
  const hosts: DeleteReport['hosts'] = []
  let isTouched = false
  // Hosts with parts first: they may refuse. The others have copies at most, from a restore.
  for (const host of [...network.hosts].sort((a, b) => Number(holders.includes(b)) - Number(holders.includes(a)))) {
    try {
      const removal = await attended(network, host, { clock, signal, afterwards }, async (signal) => {
        const call = { timeoutMs: deleteCallMs, signal }
        const other = before === null ? null : await otherPart(network, host, before, found, call)
        if (other !== null) return other
        const removal = await network.agents.deleteSnapshot(host, name, before?.epoch ?? null, call)
        isTouched = true
        return removal
      })
      for (const { file, reason } of removal.kept) logger.info({ host, snapshot: name, file, reason }, 'a file stays')
      hosts.push({ host, ...removal })
    } catch (thrown) {
      if (signal.aborted) throw thrown
      const error = asSnapswitchError(thrown)
      if (error.code === 'SNAPSHOT_UNKNOWN') continue
      if (!holders.includes(host)) {
        logger.warn({ err: error, host, snapshot: name }, 'copies of a deleted snapshot may remain there')
        continue
      }
      const refused = !isTouched && !isSilence(thrown)
      if (refused && isMarked && (await isWhole(network, host, name))) await catalogue.write(before)
      throw SnapswitchError.fromReport(onHost(host, error.report()), error)
    }
  }
  hosts.push(...partsLeft(network, before, found, logger))
  await catalogue.remove(network.name, name)
  const released = unnamed(before === null ? [] : digestsOf(before), await catalogue.list())
  // Also, on a file system that hosts share, one may have had to wait for what another has let go of since.
  await Promise.all(network.hosts.map((host) => release(network, host, released, logger)))
  return { network: network.name, name, hosts }
}

/**
 * What a host has under the name of a manifest and is not its part, which stays; null: there is none. The host itself
 * looks at the epoch, too, but one of a former version does not. `found`: by what names hosts that have their part took
 * it. Throws what keeps it from being known.
 */
async function otherPart(
  network: Network,
  host: string,
  manifest: Manifest,
  found: Set<string>,
  call: Call,
): Promise<Removal | null> {
  const { name, epoch, parts } = manifest
  let part: LocalPart
  try {
    part = await network.agents.part(host, name, call)
  } catch (thrown) {
    const { code, message } = asSnapswitchError(thrown)
    if (code === 'SNAPSHOT_UNKNOWN') return null
    if (code !== 'STORE_DAMAGED') throw thrown
    // Of a host that has a part of it, that is the one. Nobody else could have used the name there.
    if (parts.some((one) => one.host === host)) return null
    const file = `the record of ${network.name}/${name}`
    return { ...nothing, kept: [{ file, reason: `it cannot be read, and may be of another snapshot: ${message}` }] }
  }
  if (part.epoch === epoch) {
    found.add(part.host)
    return null
  }
  return { ...nothing, kept: [{ file: dirname(part.channel.path), reason: ofAnother(network.name, part) }] }
}

const ofAnother = (network: string, { snapshot, epoch }: LocalPart): string =>
  `it is of another ${network}/${snapshot} (epoch ${epoch}), which this coordinator has no manifest of`

const nothing: Removal = { freedBytes: 0, merged: [], removed: [], kept: [] }

/**
 * On a full disk the deletion goes on without the mark, for it is what makes room. Should it be cut short, the snapshot
 * is listed as damaged, no restore finds its files, and it can be deleted again.
 */
async function mark(catalogue: ManifestStore, manifest: Manifest, logger: Logger): Promise<boolean> {
  try {
    await catalogue.write(manifest)
    return true
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'STORE_FULL') throw thrown
    logger.warn({ err: thrown, snapshot: manifest.name }, 'no room to say that a deletion has begun')
    return false
  }
}

/**
 * Hosts that may have a part: any, when it is not known which; or when one of them is not of the network any more, for
 * it may have another name.
 */
function holdersOf({ hosts }: Network, manifest: Manifest | null): readonly string[] {
  if (manifest === null || manifest.state === 'pending') return hosts
  const named = [...manifest.parts.map(({ host }) => host), ...(manifest.undiscarded ?? [])]
  return named.every((host) => hosts.includes(host)) ? named : hosts
}

/** On hosts that are of the network no more, and were not `found` under another name: nobody could be asked. */
function partsLeft(
  { name: network, hosts }: Network,
  before: Manifest | null,
  found: ReadonlySet<string>,
  logger: Logger,
): DeleteReport['hosts'] {
  const left = (before?.parts ?? []).filter(({ host }) => !hosts.includes(host) && !found.has(host))
  return left.map(({ host, snapshot, channel }) => {
    logger.warn(
      { network, snapshot, host },
      'the part of a deleted snapshot stays on a host that is of the network no more',
    )
    const reason = `network ${network} has no host ${host} any more; when it has, delete the snapshot again`
    return { host, freedBytes: 0, merged: [], removed: [], kept: [{ file: dirname(channel.path), reason }] }
  })
}

/** Whether a host that has not deleted its part still has it whole. */
async function isWhole(network: Network, host: string, name: string): Promise<boolean> {
  return network.agents.part(host, name, { timeoutMs: partCallMs }).then(
    () => true,
    () => false,
  )
}
