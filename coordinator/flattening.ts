// `snapshot flatten`: every host copies the chains of its disks into one image each; then the manifest names these;
// then each host's part does. Interrupted before the manifest, nothing has changed, and the copies are given up; after
// it, asking again finishes it.

import type { Logger } from 'pino'
import { withDisks } from '../src/api/files.js'
import type { FlatDisks, FlattenReport, Manifest } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import { noHost } from './agents.js'
import { attended } from './attended.js'
import { release, unnamed } from './copies.js'
import type { Network } from './network.js'
import { onHost } from './sequence/table.js'
import type { ManifestStore } from './store/catalogue.js'

const leastMs = 60_000
/** A disk at its slowest. */
const bytesPerSecond = 1 << 20
const longestMs = 24 * 3_600_000

const afterwards = 'Then flatten it again.'

export interface FlatteningOptions {
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly catalogue: Pick<ManifestStore, 'list' | 'write'>
  readonly logger: Logger
}

/**
 * Throws SNAPSHOT_NOT_COMPLETE, SOCKET_UNREACHABLE when a host of it is none of the network any more, and what a host
 * says that cannot.
 */
export async function flattenSnapshot(
  network: Network,
  manifest: Manifest,
  options: FlatteningOptions,
): Promise<FlattenReport> {
  const { clock, signal, catalogue } = options
  const { name, parts } = manifest
  if (manifest.state !== 'complete') {
    const action = 'Flatten a snapshot that `snapswitch snapshot list` shows as complete.'
    throw new SnapswitchError('SNAPSHOT_NOT_COMPLETE', `snapshot ${network.name}/${name} is ${manifest.state}`, action)
  }
  // Before the others copy their disks in vain.
  const gone = parts.find(({ host }) => !network.hosts.includes(host))
  if (gone !== undefined) throw noHost(network.name, gone.host)
  const timeoutMs = Math.min(longestMs, leastMs + (bytesOf(manifest) / bytesPerSecond) * 1000)
  const made = new Map<string, FlatDisks>()
  const flatten = async () => {
    await onEach(parts, async ({ host }) => {
      const disks = await attended(network, host, { clock, signal, afterwards }, (signal) =>
        network.agents.flatten(host, name, { timeoutMs, signal }),
      )
      made.set(host, disks)
    })
    const flat = { ...manifest, parts: parts.map((part) => withDisks(part, made.get(part.host)?.members ?? [])) }
    await catalogue.write(flat)
    return flat
  }
  const flat = await flatten().catch(async (thrown) => {
    await giveUp(network, made, options)
    throw thrown
  })
  // Also where nothing was copied now: a host may have been interrupted before.
  await onEach(flat.parts, async ({ host, members }) => {
    const disks = { members: members.map(({ vm, disks }) => ({ vm, disks })) }
    await network.agents.adoptFlat(host, name, disks, { timeoutMs: leastMs, signal })
  })
  return reportOf(manifest, flat)
}

/**
 * Copies that hosts have made for nothing go: no manifest names them, and no deletion would find them. A manifest whose
 * writing has failed may be there all the same, and names them then. Never rejects.
 */
async function giveUp(
  network: Network,
  made: ReadonlyMap<string, FlatDisks>,
  { catalogue, logger }: FlatteningOptions,
): Promise<void> {
  try {
    const listed = await catalogue.list()
    await Promise.all(
      [...made].map(async ([host, disks]) => {
        const copies = unnamed(digestsOfDisks(disks), listed)
        if (copies.length > 0) await release(network, host, copies, logger)
      }),
    )
  } catch (thrown) {
    logger.warn({ err: thrown, network: network.name }, 'copies of disks that were not wanted in the end may stay')
  }
}

const digestsOfDisks = ({ members }: FlatDisks): string[] =>
  members.flatMap(({ disks }) => disks.flatMap(({ layers }) => layers.map(({ file }) => file.digest)))

/** All are asked, also when one fails. */
async function onEach<T extends { readonly host: string }>(parts: readonly T[], ask: (part: T) => Promise<void>) {
  const results = await Promise.allSettled(
    parts.map(async (part) => {
      try {
        await ask(part)
      } catch (thrown) {
        const error = asSnapswitchError(thrown)
        throw SnapswitchError.fromReport(onHost(part.host, error.report()), error)
      }
    }),
  )
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

const bytesOf = ({ parts }: Manifest): number =>
  parts
    .flatMap(({ members }) => members.flatMap(({ disks }) => disks.flatMap(({ layers }) => layers)))
    .reduce((sum, { file, data }) => sum + file.bytes + (data?.bytes ?? 0), 0)

function reportOf(before: Manifest, after: Manifest): FlattenReport {
  const disks = before.parts.flatMap(({ host, members }, p) =>
    members.flatMap(({ vm, disks: former }, m) =>
      former.flatMap(({ name, layers }, d) => {
        const now = after.parts[p]?.members[m]?.disks[d]
        if (now === undefined || now.layers.length === layers.length) return []
        const { path, bytes } = now.layers[0]!.file
        return [{ host, vm, disk: name, images: layers.length, file: path, bytes }]
      }),
    ),
  )
  return { network: before.network, name: before.name, disks }
}
