// The switches on an uplink's LAN: who has been met, who is a peer, and whose the addresses are that they claim or send
// from. The uplink's own side decides what is believed (uplink.ts); one neighbor's agreement is in uplink-peer.ts.

import type { PortRules } from '../../../src/api/schemas.js'
import type { StateExchange } from '../../../src/epoch/state.js'
import { MAX_CLAIMS } from '../../../src/frame/agreement.js'
import { macHigh, macLow } from '../../../src/frame/ethernet.js'
import { MAX_PORTS } from '../counters.js'
import { Fdb, NO_PORT } from '../fdb.js'
import type { Network } from '../network.js'
import { MAX_PEERS, type Output, PortState } from '../port-state.js'
import { AddressTable, macNumber } from './addresses.js'
import type { Trunks } from './trunks.js'
import { UplinkPeer } from './uplink-peer.js'

/** Longest frames for the LAN that carriers and agreements are made for, whatever our own device could send. */
export const MADE_MTU = 1500
/** A switch that has said nothing that is believed for so long makes room for others. */
const CANDIDATE_TIMEOUT_MS = 5000

export interface Neighbor {
  readonly port: PortState
  readonly peer: UplinkPeer
  /** A HELLO of it was believed: it is among the network's ports. */
  joined: boolean
}

export class Neighbors {
  /** Indexes of peers' ports by the addresses that they claim. */
  readonly claimed = new AddressTable(MAX_PEERS * MAX_CLAIMS, MAX_PORTS + MAX_PEERS)
  /**
   * And by those whose frames came in carriers: of machines over there whose addresses are not claimed. The network's
   * FDB would not do: a restore clears it, and an address that has just been used here as well is elsewhere in it.
   */
  readonly carriedFrom: Fdb
  readonly #network: Network
  readonly #trunks: Trunks
  readonly #uplink: PortState
  readonly #device: Output
  #mtu: number
  /** By place; the index of a peer's port is MAX_PORTS and its place. */
  readonly #places: (Neighbor | undefined)[] = new Array(MAX_PEERS).fill(undefined)
  /** Their indexes by the addresses of their switches. */
  readonly #switches = new AddressTable(MAX_PEERS, MAX_PORTS + MAX_PEERS)
  #owners = new Map<number, Neighbor>()

  /** `mtu`: of the LAN. */
  constructor(network: Network, trunks: Trunks, uplink: PortState, device: Output, mtu: number) {
    this.#network = network
    this.#trunks = trunks
    this.#uplink = uplink
    this.#device = device
    this.#mtu = mtu
    this.carriedFrom = new Fdb(network.options.fdb, MAX_PORTS + MAX_PEERS)
  }

  /** The LAN has another MTU from now on. */
  resize(mtu: number): void {
    this.#mtu = mtu
    for (const neighbor of this.#places) neighbor?.peer.resize(Math.min(mtu, MADE_MTU), mtu)
  }

  setRules(rules: PortRules): void {
    for (const neighbor of this.#places) if (neighbor !== undefined) this.#network.setRules(neighbor.port, rules)
  }

  /** Whose port has this index. */
  of(index: number): Neighbor {
    return this.#places[index - MAX_PORTS]!
  }

  /** The switch with this address. */
  find(bytes: Uint8Array, at: number): Neighbor | undefined {
    const index = this.#switches.get(macHigh(bytes, at), macLow(bytes, at))
    return index === NO_PORT ? undefined : this.of(index)
  }

  joined(): Neighbor[] {
    return this.#places.filter((neighbor): neighbor is Neighbor => neighbor?.joined === true)
  }

  /** A switch has said HELLO. Null: there is no room. */
  meet(mac: Uint8Array, now: number): Neighbor | null {
    const place = this.#places.indexOf(undefined)
    if (place < 0) return null
    return this.#seat(place, mac, now)
  }

  #seat(place: number, mac: Uint8Array, now: number): Neighbor {
    const { spec } = this.#uplink
    const { options } = this.#network
    const usesBit = spec.uplink!.color === 'dscp'
    const mtu = { mtu: Math.min(this.#mtu, MADE_MTU), lanMtu: this.#mtu }
    const words = { bootId: options.bootId, ...mtu, usesBit, keyed: options.controlKey !== null }
    const peer = new UplinkPeer(mac, spec.mac, this.#device, words, now)
    const port = new PortState({ ...spec, kind: 'trunk' }, peer, this.#network, {
      index: MAX_PORTS + place,
      peer,
      lan: this.#uplink,
    })
    const neighbor = { port, peer, joined: false }
    this.#places[place] = neighbor
    this.#switches.add(numberOf(mac), port.index)
    return neighbor
  }

  /** It is believed: a port of the network's from now on. */
  join(neighbor: Neighbor): void {
    const { port } = neighbor
    // The same switch, on another device.
    for (const other of this.joined()) if (other.port.channel!.host === port.channel!.host) this.#leave(other)
    neighbor.joined = true
    // A flooded frame's carriers leave before its plain copy.
    this.#network.add(port, this.#uplink)
  }

  /** Switches that have been silent for long are nobody's peers any more. */
  forget(now: number): void {
    const { ageing } = this.#network.options.fdb
    for (const neighbor of this.#places) {
      if (neighbor === undefined) continue
      const timeout = neighbor.joined ? ageing * 1000 : CANDIDATE_TIMEOUT_MS
      if (now - neighbor.peer.lastSign > timeout) this.#leave(neighbor)
    }
  }

  /** Settles whose the claims are: the first who claims an address has it for as long as it does. */
  grant(): void {
    const owners = new Map<number, Neighbor>()
    const claimants = this.joined()
    for (const neighbor of claimants) {
      for (const mac of neighbor.peer.theirs) if (this.#owners.get(mac) === neighbor) owners.set(mac, neighbor)
    }
    for (const neighbor of claimants) {
      for (const mac of neighbor.peer.theirs) if (!owners.has(mac)) owners.set(mac, neighbor)
      neighbor.peer.refused = neighbor.peer.theirs.map((mac) => owners.get(mac) !== neighbor)
    }
    this.#owners = owners
    this.claimed.clear()
    for (const [mac, { port }] of owners) this.claimed.add(mac, port.index)
  }

  /** The uplink is being removed. */
  close(): void {
    for (const { port } of this.joined()) this.#trunks.remove(port)
  }

  /** Those met, whose ports are not all among the network's. */
  get ports(): readonly PortState[] {
    return this.#places.flatMap((neighbor) => (neighbor === undefined ? [] : [neighbor.port]))
  }

  /** The network's own state comes later. */
  exchange(state: StateExchange): void {
    this.#mtu = state.value('mtu', this.#mtu)
    state.parts(
      'places',
      this.#places.flatMap((neighbor) => (neighbor === undefined ? [] : [neighbor])),
      ({ port, peer, joined }, part) => {
        part.value('place', port.index - MAX_PORTS)
        part.value('mac', peer.mac)
        part.value('joined', joined)
        port.exchange(part)
        part.part('peer', (of) => peer.exchange(of))
      },
      (part) => {
        const mac = part.value('mac', new Uint8Array(6))
        const place = part.value('place', 0)
        const { port, peer } = this.#seat(place, mac, 0)
        port.exchange(part)
        part.part('peer', (of) => peer.exchange(of))
        if (!part.value('joined', false)) return
        this.of(port.index).joined = true
        this.#network.add(port, this.#uplink)
      },
    )
    const owners = state.value(
      'owners',
      [...this.#owners].map(([mac, { port }]) => ({ mac, port: port.index })),
    )
    if (state.isLoading) this.#owners = new Map(owners.map(({ mac, port }) => [mac, this.of(port)]))
    state.part('claimed', (part) => this.claimed.exchange(part))
    state.part('switches', (part) => this.#switches.exchange(part))
    state.part('carriedFrom', (part) => this.carriedFrom.exchange(part))
  }

  #leave(neighbor: Neighbor): void {
    const { index } = neighbor.port
    if (neighbor.joined) this.#trunks.remove(neighbor.port)
    this.carriedFrom.flushPort(index)
    this.#places[index - MAX_PORTS] = undefined
    this.#switches.clear()
    for (const other of this.#places)
      if (other !== undefined) this.#switches.add(numberOf(other.peer.mac), other.port.index)
    this.grant()
  }
}

function numberOf(mac: Uint8Array): number {
  return macNumber(macHigh(mac, 0), macLow(mac, 0))
}
