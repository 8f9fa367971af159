// Snapshots of which hosts have parts, and the store no manifest: it was lost, or another coordinator’s store was in
// use. They take names and space, and can be deleted.

import type { Manifest } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { HostAnswers } from './health.js'
import type { Network } from './network.js'
import { listed } from './sequence/table.js'
import type { ManifestStore } from './store/catalogue.js'

type Named = Pick<Manifest, 'network' | 'name'>

const partCallMs = 10_000

/** `known`: those that have a manifest. */
export function withoutManifest(known: readonly Named[], answers: HostAnswers): (Named & { hosts: string[] })[] {
  const found = new Map<string, Named & { hosts: string[] }>()
  for (const [network, hosts] of answers) {
    for (const [host, answer] of hosts) {
      for (const { snapshot: name } of 'parts' in answer ? answer.parts : []) {
        if (known.some((one) => one.network === network && one.name === name)) continue
        const before = found.get(`${network}/${name}`)?.hosts ?? []
        found.set(`${network}/${name}`, { network, name, hosts: [...before, host] })
      }
    }
  }
  return [...found.values()]
}

export function lost(network: string, name: string, hosts: readonly string[]): SnapswitchError {
  const whose = `${listed(hosts.map((host) => `host ${host}`))} ${hosts.length === 1 ? 'has its part' : 'have their parts'}`
  return new SnapswitchError(
    'STORE_DAMAGED',
    `the store has no manifest of ${network}/${name}, and ${whose}`,
    `Bring the store back from a backup, or remove the parts: snapswitch snapshot delete ${network}/${name}`,
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
    const hosts = await holders(network, name)
    throw hosts.length === 0 ? thrown : lost(network.name, name, hosts)
  }
}

/** Hosts that have a part of it, in whatever state. */
async function holders(network: Network, name: string): Promise<string[]> {
  const has = await Promise.all(
    network.hosts.map((host) =>
      network.agents.part(host, name, { timeoutMs: partCallMs }).then(
        () => true,
        (thrown) => asSnapswitchError(thrown).code === 'STORE_DAMAGED',
      ),
    ),
  )
  return network.hosts.filter((_, nth) => has[nth])
}
