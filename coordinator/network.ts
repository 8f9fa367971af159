// A network as the coordinator knows it: its hosts and how to reach them; and how a host of it is.

import type { CoordinatorStatus } from '../src/api/schemas.js'
import { asSnapswitchError } from '../src/errors/errors.js'
import type { Agents } from './agents.js'

const statusCallMs = 3_000

export interface Network {
  readonly name: string
  readonly sockets: Readonly<Record<string, string>>
  readonly hosts: readonly string[]
  readonly agents: Agents
}

/** A host that does not answer within 3 s is shown as unreachable. */
export async function hostStatus(
  network: Network,
  host: string,
): Promise<CoordinatorStatus['networks'][number]['hosts'][number]> {
  const socket = network.sockets[host] as string
  try {
    const ports = await network.agents.ports(host, { timeoutMs: statusCallMs })
    const members = ports.filter((p) => p.network === network.name).flatMap((p) => (p.vm === null ? [] : [p.vm]))
    return { host, socket, reachable: true, error: null, members: [...new Set(members)].sort() }
  } catch (error) {
    return { host, socket, reachable: false, error: asSnapswitchError(error).report(), members: [] }
  }
}

/** Ports to the outside world, of hosts that answer: `port lan of host a`. Never rejects. */
export async function outsidePorts(network: Network): Promise<string[]> {
  const found = await Promise.all(
    network.hosts.map(async (host) => {
      const ports = await network.agents.ports(host, { timeoutMs: statusCallMs }).catch(() => [])
      const outside = ports.filter((p) => p.network === network.name && p.kind !== 'member' && p.kind !== 'trunk')
      return outside.map((port) => `port ${port.name} of host ${host}`)
    }),
  )
  return found.flat()
}
