// Snapshots of which hosts have parts, and the store no manifest: it was lost, or another coordinator’s store was in
// use. They take names and space, and can be deleted.

import type { Manifest } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { HostAnswers } from './health.js'
import type { Network } from './network.js'
import { listed } from './sequence/table.js'
import type { ManifestStore } from './store/catalogue.js'

type Named = Pick<Manifest, 'network' | 'name'>

export interface Stray extends Named {
  readonly hosts: readonly string[]
  /** The store has a manifest of another snapshot of that name. */
  readonly isShadowed: boolean
}

/** Whoever waits for the answer gives 10 s (`snapshot show`), of which looking for the networks may have taken 3. */
const partCallMs = 3_000

/** `known`: those that have a manifest. The epoch of one that cannot be read is 0: it may be of what the hosts have. */
export function withoutManifest(
  known: readonly (Named & Pick<Manifest, 'epoch'>)[],
  answers: HostAnswers,
): readonly Stray[] {
  const found = new Map<string, Stray>()
  for (const [network, hosts] of answers) {
    for (const [host, answer] of hosts) {
      for (const { snapshot: name, epoch } of 'parts' in answer ? answer.parts : []) {
        const namesakes = known.filter((one) => one.network === network && one.name === name)
        if (namesakes.some((one) => one.epoch === epoch || one.epoch === 0)) continue
        const before = found.get(`${network}/${name}`)?.hosts ?? []
        const isShadowed = namesakes.length > 0
        found.set(`${network}/${name}`, { network, name, hosts: [...before, host], isShadowed })
      }
    }
  }
  return [...found.values()]
}

export function lost({ network, name, hosts, isShadowed }: Stray): SnapswitchError {
  const whose = `${listed(hosts.map((host) => `host ${host}`))} ${hosts.length === 1 ? 'has its part' : 'have their parts'}`
  const remove = `snapswitch snapshot delete ${network}/${name}`
  return isShadowed
    ? new SnapswitchError(
        'STORE_DAMAGED',
        `the store has a manifest of another ${network}/${name} than the one of which ${whose}`,
        `Bring the store back from a backup. Or remove that manifest, and the parts the second time: ${remove}`,
      )
    : new SnapswitchError(
        'STORE_DAMAGED',
        `the store has no manifest of ${network}/${name}, and ${whose}`,
        `Bring the store back from a backup, or remove the parts: ${remove}`,
      )
}

/** Throws what the catalogue does, and STORE_DAMAGED when only the hosts have it. */
export async function readManifest(
  catalogue: Pick<ManifestStore, 'read'>,
  network: Network,
  name: string,
): Promise<Manifest> {
  try {
    return await catalogue.read(network.name, name)
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'SNAPSHOT_UNKNOWN') throw thrown
    const hosts = await holders(network, name, partCallMs)
    throw hosts.length === 0 ? thrown : lost({ network: network.name, name, hosts, isShadowed: false })
  }
}

/** Hosts that have a part of it, in whatever state. */
export async function holders(network: Network, name: string, timeoutMs: number): Promise<string[]> {
  const has = await Promise.all(
    network.hosts.map((host) =>
      network.agents.part(host, name, { timeoutMs }).then(
        () => true,
        (thrown) => asSnapswitchError(thrown).code === 'STORE_DAMAGED',
      ),
    ),
  )
  return network.hosts.filter((_, nth) => has[nth])
}
