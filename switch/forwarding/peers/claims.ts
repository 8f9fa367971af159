// The addresses that this switch claims towards its peers on a shared LAN: those of its members, as they have spoken. A
// claim is what lets a frame travel without a carrier; nothing is wrong without one. So a guest gets a few per port,
// the first it used, and one that makes up addresses by the thousand has only its own frames carried.

import type { StateExchange } from '../../../src/epoch/state.js'
import { MAX_CLAIMS } from '../../../src/frame/agreement.js'
import type { Network } from '../network.js'
import type { PortState } from '../port-state.js'
import { macNumber } from './addresses.js'

const PER_PORT = 4
/** Of a claim whose port has left. */
const GONE = -1

interface Claim {
  /** The port itself: its index may be another one's by now. Null: it had left when a saved state was taken up. */
  readonly port: PortState | null
  /** When the FDB had it last. */
  seen: number
}

export class Claims {
  /** Grows with every change, also from one uplink to the next that takes its place; 0 is no version. */
  version = 1
  list: readonly number[] = []
  readonly #network: Network
  #most = 0
  readonly #claims = new Map<number, Claim>()

  /** `limit`: most claims, because of the LAN's MTU. */
  constructor(network: Network, limit: number) {
    this.#network = network
    this.limit = limit
  }

  set limit(most: number) {
    this.#most = Math.max(0, Math.min(most, MAX_CLAIMS))
  }

  /** Brings the claims in line with what is known of where addresses are. True when they have changed. */
  refresh(now: number): boolean {
    const network = this.#network
    const claims = this.#claims
    const elsewhere = new Set<number>()
    const found = new Map<number, PortState>()
    network.fdb.visit(
      (high, low, _vlan, index) => {
        const mac = macNumber(high, low)
        const port = network.byIndex[index]
        const claim = claims.get(mac)
        const isOurs = port?.isMember === true && !port.leaving && (claim === undefined || claim.port === port)
        if (!isOurs) elsewhere.add(mac)
        else found.set(mac, port)
      },
      Math.floor(now / 1000),
    )
    let changed = this.version === 1
    for (const [mac, claim] of claims) {
      if (found.has(mac)) claim.seen = now
      const isStale = now - claim.seen > network.options.fdb.ageing * 1000
      if (!elsewhere.has(mac) && !isStale && this.#isHere(claim.port)) continue
      claims.delete(mac)
      changed = true
    }
    // The latest go first, when there is no room for them any more.
    for (const mac of [...claims.keys()].slice(this.#most)) {
      claims.delete(mac)
      changed = true
    }
    for (const [mac, port] of found) {
      if (claims.has(mac) || elsewhere.has(mac) || claims.size >= this.#most || this.#ofPort(port) >= PER_PORT) continue
      claims.set(mac, { port, seen: now })
      changed = true
    }
    if (!changed) return false
    this.version = Math.max(this.version + 1, Math.floor(now / 100) % 2 ** 32)
    this.list = [...claims.keys()]
    return true
  }

  exchange(state: StateExchange): void {
    this.version = state.value('version', this.version)
    this.list = state.value('list', this.list)
    this.#most = state.value('most', this.#most)
    const claims = state.value(
      'claims',
      // A claim of a port that has left goes with the next look.
      [...this.#claims].map(([mac, { port, seen }]) => ({ mac, port: this.#isHere(port) ? port.index : GONE, seen })),
    )
    if (!state.isLoading) return
    for (const { mac, port, seen } of claims) this.#claims.set(mac, { port: this.#network.byIndex[port] ?? null, seen })
  }

  #isHere(port: PortState | null): port is PortState {
    return port !== null && this.#network.byIndex[port.index] === port
  }

  #ofPort(port: PortState): number {
    let count = 0
    for (const claim of this.#claims.values()) if (claim.port === port) count++
    return count
  }
}
