// `snapshot prune`: records of failed snapshots go, deletions that were begun are finished, and every host removes what
// nobody needs. A host that does not answer is told, and costs nobody else. A host cannot know which snapshots have the
// content of its copies: with `orphans` it names those that it has no need of, and is told which of them may go.

import type { Manifest, Pruned, PruneOrder, PruneReport, PruneRequest } from '../src/api/schemas.js'
import { asSnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import { attended } from './attended.js'
import type { Network } from './network.js'

const pruneCallMs = 24 * 3_600_000

const afterwards = 'Then prune again.'

export interface PruneOptions {
  /** All manifests of the networks. */
  readonly manifests: readonly Manifest[]
  /** Removes what is left of a failed snapshot. False: it is failed no more. */
  readonly finish: (network: Network, name: string) => Promise<boolean>
  /** Those of the contents that no snapshot has. */
  readonly unnamed: (digests: readonly string[]) => Promise<string[]>
  readonly clock: Clock
  readonly signal: AbortSignal
}

export async function prune(
  networks: readonly Network[],
  { orphans, dryRun }: PruneOrder,
  { manifests, finish, unnamed, clock, signal }: PruneOptions,
): Promise<PruneReport> {
  const failed: PruneReport['failed'] = []
  for (const network of networks) {
    for (const { name, state } of manifests.filter((one) => one.network === network.name)) {
      if (state !== 'failed') continue
      try {
        const isFailed = dryRun === true || (await finish(network, name))
        if (isFailed) failed.push({ network: network.name, name, error: null })
      } catch (thrown) {
        failed.push({ network: network.name, name, error: asSnapswitchError(thrown).report() })
      }
    }
  }
  const hosts = new Map(
    networks.flatMap((network) => network.hosts.map((host) => [network.sockets[host], { network, host }])),
  )
  const request = { ...(orphans === undefined ? {} : { orphans }), ...(dryRun === undefined ? {} : { dryRun }) }
  return {
    failed,
    hosts: await Promise.all(
      [...hosts.values()].map(async ({ network, host }) => {
        try {
          const ask = (request: PruneRequest) =>
            attended(network, host, { clock, signal, afterwards }, (signal) =>
              network.agents.prune(host, request, { timeoutMs: pruneCallMs, signal }),
            )
          return { host, pruned: await pruneHost(request, ask, unnamed), error: null }
        } catch (thrown) {
          return { host, pruned: null, error: asSnapswitchError(thrown).report() }
        }
      }),
    ),
  }
}

async function pruneHost(
  request: PruneRequest,
  ask: (request: PruneRequest) => Promise<Pruned>,
  unnamed: PruneOptions['unnamed'],
): Promise<Omit<Pruned, 'copies'>> {
  const { copies = [], ...first } = await ask(request)
  const released = copies.length === 0 ? [] : await unnamed(copies.map(({ digest }) => digest))
  if (released.length === 0) return first
  if (request.dryRun === true) {
    const would = copies.filter(({ digest }) => released.includes(digest))
    const files = would.map(({ file }) => file)
    return {
      ...first,
      freedBytes: would.reduce((sum, { bytes }) => sum + bytes, first.freedBytes),
      removed: [...first.removed, ...files],
      kept: first.kept.filter(({ file }) => !files.includes(file)),
    }
  }
  const { copies: _, ...second } = await ask({ ...request, released })
  return {
    ...second,
    freedBytes: first.freedBytes + second.freedBytes,
    merged: [...first.merged, ...second.merged],
    removed: [...first.removed, ...second.removed],
  }
}
