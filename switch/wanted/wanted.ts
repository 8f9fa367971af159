// Which networks, ports and machines this host is to have: what several sources want of it (the configuration, bridges
// that were taken over), put together, and what restores have changed of that. Pure.

import { isDeepStrictEqual } from 'node:util'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import type { Moves } from '../agent/host-records.js'
import { MAX_PORTS } from '../forwarding/counters.js'
import type { NetworkSettings } from '../forwarding/network.js'
import { rulesFault } from '../forwarding/port-rules.js'
import { existsError } from '../ports/problems.js'
import type { PortEntry, PortRequest } from '../ports/table.js'

/** `ownsDevice`: made by a daemon for a restored machine, so removed with the port. */
export type WantedPort = PortRequest & { readonly ownsDevice?: boolean }

/** By name. */
export interface Wanted {
  /** null: as another source says, else the defaults. */
  readonly networks: ReadonlyMap<string, NetworkSettings | null>
  readonly ports: ReadonlyMap<string, WantedPort>
  readonly machines: ReadonlyMap<string, MachineSpec>
  /** Of networks that another source may have settings for: what goes before these, or before the defaults. */
  readonly values?: ReadonlyMap<string, BridgeValues>
}

/** What of a network's settings a bridge has, too. */
export interface BridgeValues {
  /** Seconds. */
  readonly ageing?: number
  readonly linkLocal?: NetworkSettings['linkLocal']
}

export function withValues(settings: NetworkSettings, values: BridgeValues): NetworkSettings {
  const { ageing = settings.fdb.ageing, linkLocal = settings.linkLocal } = values
  return { ...settings, linkLocal, fdb: { ...settings.fdb, ageing } }
}

export const NOTHING: Wanted = { networks: new Map(), ports: new Map(), machines: new Map() }

/** What the agent must know of it, at any time; it may change. */
export interface WantedView {
  networks(): readonly string[]
  /** What restores have changed of the wanted ports, by the ports that there are. */
  moves(present: readonly PortEntry[]): PortMoves
}

export type PortMoves = Pick<Moves, 'ports' | 'gone'>

/**
 * What all sources want together, in their order. Throws PORT_EXISTS when two want the same port or device, or an
 * uplink and another way to peers in one network; WANTED_TWICE when they say different things of a network or machine.
 */
export function combine(sources: ReadonlyMap<string, Wanted>): Wanted {
  const networks = new Map<string, NetworkSettings | null>()
  const ports = new Map<string, WantedPort>()
  const machines = new Map<string, MachineSpec>()
  const settledBy = new Map<string, string>()
  const askedBy = new Map<string, string>()
  const reachedBy = new Map<string, string>()
  for (const [source, wanted] of sources) {
    for (const [name, settings] of wanted.networks) {
      const other = settledBy.get(name)
      if (settings !== null && other !== undefined) throw twice(`network ${name}`, other, source)
      if (settings !== null) settledBy.set(name, source)
      networks.set(name, settings ?? networks.get(name) ?? null)
    }
    for (const [name, port] of wanted.ports) {
      const other = askedBy.get(name)
      if (other !== undefined) throw existsError(`${other} and ${source} both want a port ${name}`)
      askedBy.set(name, source)
      ports.set(name, port)
    }
    for (const [vm, spec] of wanted.machines) {
      const other = reachedBy.get(vm)
      if (other !== undefined && !isDeepStrictEqual(machines.get(vm), spec)) throw twice(`machine ${vm}`, other, source)
      reachedBy.set(vm, source)
      machines.set(vm, spec)
    }
  }
  const values = new Map([...sources.values()].flatMap((source) => [...(source.values ?? [])]))
  const all = { networks, ports, machines, values }
  checkPorts(all)
  return all
}

function checkPorts({ networks, ports }: Wanted): void {
  const byDevice = new Map<string, string>()
  const peersIn = new Map<string, WantedPort>()
  for (const port of ports.values()) {
    const { name, network, device, kind } = port
    if (!networks.has(network)) {
      throw new SnapswitchError(
        'NETWORK_UNKNOWN',
        `port ${name} is to be in network ${network}, which nobody wants`,
        'Configure the network, or leave the port out.',
      )
    }
    const other = byDevice.get(device)
    if (other !== undefined) throw existsError(`device ${device} is wanted by port ${other} and by port ${name}`)
    byDevice.set(device, name)
    const fault = rulesFault(port.rules ?? {}, kind)
    if (fault !== null) {
      const message = `the rules of port ${name} do not hold: ${fault.path.join('.')}: ${fault.message}`
      throw new SnapswitchError('CONFIG_INVALID', message, 'Correct them there.')
    }
    if (kind !== 'uplink' && kind !== 'trunk') continue
    const way = peersIn.get(network)
    if (way !== undefined && (kind === 'uplink' || way.kind === 'uplink'))
      throw existsError(`network ${network} has one uplink or trunks, and not both ${way.name} and ${name}`)
    peersIn.set(network, port)
  }
  if (ports.size > MAX_PORTS) throw existsError(`more than ${MAX_PORTS} ports are wanted`)
}

function twice(what: string, one: string, other: string): SnapswitchError {
  return new SnapswitchError(
    'WANTED_TWICE',
    `${one} and ${other} say different things of ${what}`,
    'Take it out of one of the two.',
  )
}

/**
 * Ports as restores have changed them since: what these say goes first. Ports of networks that nobody wants any more
 * are left out. `wanted` is what the networks' owners say.
 */
export function withMoves(wanted: Wanted, moves: PortMoves): Wanted {
  const moved = moves.ports.filter(({ network }) => wanted.networks.has(network))
  const devices = new Set(moved.map(({ device }) => device))
  const names = new Set(moved.map(({ name }) => name))
  const gone = new Set(moves.gone)
  const stays = [...wanted.ports].filter(
    ([name, { device }]) => !gone.has(name) && !names.has(name) && !devices.has(device),
  )
  return { ...wanted, ports: new Map([...stays, ...moved.map((port): [string, WantedPort] => [port.name, port])]) }
}

/**
 * The other way round: what restores have changed of the ports that were wanted, as `present` tells. Which ports a
 * bridge has, it says itself.
 */
export function movedPorts(wanted: ReadonlyMap<string, WantedPort>, present: readonly PortEntry[]): PortMoves {
  const names = new Set(present.map(({ name }) => name))
  return {
    ports: present
      .filter((entry) => {
        if (entry.bridge !== undefined) return false
        const own = wanted.get(entry.name)
        return own === undefined || !isSamePort(own, requestOf(entry))
      })
      .map(({ name, network, device, kind, vm, ownsDevice, rules }) => {
        const port = { name, network, device, kind, vm, ownsDevice }
        return rules === undefined ? port : { ...port, rules }
      }),
    gone: [...wanted].flatMap(([name, { bridge }]) => (bridge === undefined && !names.has(name) ? [name] : [])),
  }
}

/** A port of a change that is under way, or has failed and could not be taken back: no restore has left it so. */
export interface Unsettled {
  /** As it was before the change; null: there was none. */
  readonly before: PortEntry | null
  /** As the change has left it. What differs by now, a restore has changed since. Undefined: it is under way. */
  readonly left?: PortEntry | null
}

/** The ports as they would be, had no change begun but those that are done. */
export function settledPorts(
  present: readonly PortEntry[],
  unsettled: ReadonlyMap<string, Unsettled>,
): readonly PortEntry[] {
  const ports = byName(present)
  for (const [name, { before, left }] of unsettled) {
    if (left !== undefined && !isSameEntry(ports.get(name) ?? null, left)) continue
    if (before === null) ports.delete(name)
    else ports.set(name, before)
  }
  return [...ports.values()]
}

export function byName(ports: readonly PortEntry[]): Map<string, PortEntry> {
  return new Map(ports.map((port) => [port.name, port]))
}

export function isSameEntry(one: PortEntry | null, other: PortEntry | null): boolean {
  if (one === null || other === null) return one === other
  return isSamePort(requestOf(one), requestOf(other))
}

/** What was asked for when the port came. */
export function requestOf(entry: PortEntry): PortRequest {
  const { index, ifindex, ifname, mtu, mac, queueLength, ownsDevice, ...request } = entry
  return request
}

/** Who owns the device is no difference: a port that is there keeps its owner. */
export function isSamePort(one: WantedPort, other: WantedPort): boolean {
  return isDeepStrictEqual(asked(one), asked(other))
}

function asked({ ownsDevice, ...port }: WantedPort): Record<string, unknown> {
  return Object.fromEntries(Object.entries(port).filter(([, value]) => value !== undefined))
}
