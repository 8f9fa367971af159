// Which networks there are, and on which hosts: as the configuration says, or as the switches say themselves.

import type { Logger } from 'pino'
import { isName } from '../src/api/names.js'
import { SwitchClient } from '../src/api/switch-client.js'
import { type Agents, SocketAgents } from './agents.js'
import type { CoordinatorConfig } from './config.js'
import type { Network } from './network.js'

export type AgentsOf = (network: string, sockets: Readonly<Record<string, string>>) => Agents

export interface Networks {
  /** As last known. */
  all(): ReadonlyMap<string, Network>
  /** Looks anew; what cannot be told stays as it was. Never rejects. */
  refresh(): Promise<void>
  close(): Promise<void>
}

const socketAgents: AgentsOf = (network, sockets) => new SocketAgents(network, sockets)

function networkOf(name: string, sockets: Readonly<Record<string, string>>, agents: Agents): Network {
  return { name, sockets, hosts: Object.keys(sockets), agents }
}

export class ConfiguredNetworks implements Networks {
  readonly #all: ReadonlyMap<string, Network>

  constructor(networks: CoordinatorConfig['networks'], agentsOf: AgentsOf = socketAgents) {
    this.#all = new Map(
      Object.entries(networks).map(([name, { hosts }]) => {
        const sockets = Object.fromEntries(Object.entries(hosts).map(([host, { socket }]) => [host, socket]))
        return [name, networkOf(name, sockets, agentsOf(name, sockets))]
      }),
    )
  }

  all(): ReadonlyMap<string, Network> {
    return this.#all
  }

  async refresh(): Promise<void> {}

  async close(): Promise<void> {
    await Promise.all([...this.#all.values()].map(({ agents }) => agents.close()))
  }
}

const STATUS_MS = 3_000

/** The networks that the switch of this host has, at any time, and where else they are. */
export class LocalNetworks implements Networks {
  readonly #local: string
  readonly #clients: ReadonlyMap<string, SwitchClient>
  readonly #sockets: Readonly<Record<string, string>>
  readonly #agentsOf: AgentsOf
  readonly #log: Logger
  /** By network, for every host there is: what is under way keeps them while hosts come and go. */
  readonly #agents = new Map<string, Agents>()
  #all = new Map<string, Network>()
  #refreshing: Promise<void> | null = null

  /** `sockets`: of the switches of all hosts, by host; `local` is this one. */
  constructor(
    local: string,
    sockets: Readonly<Record<string, string>>,
    log: Logger,
    agentsOf: AgentsOf = socketAgents,
  ) {
    this.#local = local
    this.#sockets = sockets
    this.#log = log
    this.#agentsOf = agentsOf
    this.#clients = new Map(
      Object.entries(sockets).map(([host, socket]) => [
        host,
        new SwitchClient(socket, `the switch daemon of host ${host}`),
      ]),
    )
  }

  all(): ReadonlyMap<string, Network> {
    return this.#all
  }

  refresh(): Promise<void> {
    this.#refreshing ??= this.#look().finally(() => {
      this.#refreshing = null
    })
    return this.#refreshing
  }

  async close(): Promise<void> {
    await Promise.all([
      ...[...this.#agents.values()].map((agents) => agents.close()),
      ...[...this.#clients.values()].map((client) => client.close()),
    ])
  }

  async #look(): Promise<void> {
    const asked = [...this.#clients].map(
      async ([host, client]) => [host, await this.#networksOf(host, client)] as const,
    )
    const told = new Map(await Promise.all(asked))
    const own = told.get(this.#local) ?? null
    if (own === null) return
    const now = new Map<string, Network>()
    for (const name of own) {
      // One that does not answer may have machines of the network: a snapshot is to say so, and not to leave them out.
      const sockets = Object.fromEntries(
        Object.entries(this.#sockets).filter(([host]) => told.get(host)?.includes(name) ?? true),
      )
      const before = this.#all.get(name)
      const same = before !== undefined && before.hosts.join() === Object.keys(sockets).join()
      now.set(name, same ? before : networkOf(name, sockets, this.#agentsFor(name)))
    }
    this.#all = now
  }

  #agentsFor(network: string): Agents {
    const agents = this.#agents.get(network) ?? this.#agentsOf(network, this.#sockets)
    this.#agents.set(network, agents)
    return agents
  }

  /** null: it cannot be told. */
  async #networksOf(host: string, client: SwitchClient): Promise<string[] | null> {
    try {
      const { networks } = await client.status({ deadlineMs: STATUS_MS })
      return networks.map(({ name }) => name).filter(isName)
    } catch (thrown) {
      this.#log.debug({ err: thrown, host }, 'a host does not say which networks it has')
      return null
    }
  }
}
