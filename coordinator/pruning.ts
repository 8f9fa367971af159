// `snapshot prune`: records of failed snapshots go, deletions that were begun are finished, and every host removes what
// nobody needs. A host that does not answer is told, and costs nobody else.

import type { Manifest, PruneOrder, PruneReport } from '../src/api/schemas.js'
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
  readonly clock: Clock
  readonly signal: AbortSignal
}

export async function prune(
  networks: readonly Network[],
  { orphans, dryRun }: PruneOrder,
  { manifests, finish, clock, signal }: PruneOptions,
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
          const pruned = await attended(network, host, { clock, signal, afterwards }, (signal) =>
            network.agents.prune(host, request, { timeoutMs: pruneCallMs, signal }),
          )
          return { host, pruned, error: null }
        } catch (thrown) {
          return { host, pruned: null, error: asSnapswitchError(thrown).report() }
        }
      }),
    ),
  }
}
