// The rules of ports of a bridge, said once more in the plainest way, for tests to compare the forwarder with:
// net/bridge, br_allowed_ingress, br_handle_vlan, br_fdb_update, should_deliver, br_flood.

import type { PortRules } from '../../src/api/schemas.js'

/** Outermost first. */
export type Tags = readonly (readonly [tpid: number, tci: number])[]

export interface ModelFrame {
  readonly id: number
  readonly from: number
  /** -1: broadcast, -2: another group. */
  readonly to: number
  readonly tags: Tags
}

interface ModelPort {
  readonly isHost: boolean
  readonly isTrunk: boolean
  rules: PortRules
}

export interface Delivery {
  readonly id: number
  readonly tags: Tags
}

const VLAN = 0x8100

export class BridgeModel {
  readonly ports: ModelPort[]
  /** By port: what it is given, in order. */
  readonly given: Delivery[][]
  readonly dropped: { vlan: number; locked: number }[]
  readonly #fdb = new Map<string, { port: number; kind: 'learned' | 'static' | 'sticky' }>()

  constructor(kinds: readonly string[]) {
    this.ports = kinds.map((kind) => ({ isHost: kind === 'host', isTrunk: kind === 'trunk', rules: {} }))
    this.given = kinds.map(() => [])
    this.dropped = kinds.map(() => ({ vlan: 0, locked: 0 }))
  }

  /** All that was learned is forgotten. */
  age(): void {
    for (const [key, { kind }] of this.#fdb) if (kind === 'learned') this.#fdb.delete(key)
  }

  /** The port has lost its carrier: all that was learned there is forgotten. */
  unplug(index: number): void {
    for (const [key, { kind, port }] of this.#fdb) if (kind === 'learned' && port === index) this.#fdb.delete(key)
  }

  setRules(index: number, rules: PortRules): void {
    const port = this.ports[index]!
    const before = port.rules
    for (const [key, entry] of this.#fdb) {
      if (entry.port !== index) continue
      const vlan = Number(key.split('/')[1])
      const named = before.fdb?.some((one) => keyOf(one.mac, vlanOf(before, one.vlan)) === key)
      const left = rules.vlan === undefined ? before.vlan !== undefined : isIn(rules, vlan) === null
      if (named || (entry.kind === 'learned' && left)) this.#fdb.delete(key)
    }
    port.rules = rules
    for (const { mac, vlan, sticky } of rules.fdb ?? [])
      this.#fdb.set(keyOf(mac, vlanOf(rules, vlan)), { port: index, kind: sticky === true ? 'sticky' : 'static' })
  }

  receive(at: number, frame: ModelFrame): void {
    const port = this.ports[at]!
    const { rules } = port
    let { tags } = frame
    let vlan = tags[0]?.[0] === VLAN ? tags[0][1] & 0xfff : 0
    if (rules.vlan !== undefined) {
      if (vlan === 0) {
        const pvid = rules.vlan.pvid ?? 0
        if (pvid === 0) {
          this.dropped[at]!.vlan++
          return
        }
        const priority = tags[0]?.[0] === VLAN ? tags[0][1] & 0xf000 : 0
        tags = [[VLAN, priority | pvid], ...(tags[0]?.[0] === VLAN ? tags.slice(1) : tags)]
        vlan = pvid
      } else if (isIn(rules, vlan) === null) {
        this.dropped[at]!.vlan++
        return
      }
    }
    const source = keyOf(macText(frame.from), vlan)
    if (rules.locked === true && this.#fdb.get(source)?.port !== at) {
      this.dropped[at]!.locked++
      return
    }
    const known = this.#fdb.get(source)
    if (rules.learning !== false && known?.kind !== 'sticky')
      this.#fdb.set(source, { port: at, kind: known?.kind ?? 'learned' })
    const destination = frame.to < 0 ? undefined : this.#fdb.get(keyOf(macText(frame.to), vlan))
    this.ports.forEach((to, index) => {
      if (destination !== undefined && destination.port !== index) return
      if (index === at && to.rules.hairpin !== true) return
      if (port.isTrunk && to.isTrunk) return
      if (rules.isolated === true && to.rules.isolated === true) return
      if (destination === undefined && !floodsTo(to.rules, frame.to, port.isHost)) return
      const egress = to.rules.vlan === undefined ? 'tagged' : isIn(to.rules, vlan)
      if (egress === null) return
      this.given[index]!.push({ id: frame.id, tags: egress === 'untagged' ? tags.slice(1) : tags })
    })
  }
}

export const macText = (n: number) => `02:00:00:00:00:${n.toString(16).padStart(2, '0')}`

const keyOf = (mac: string, vlan: number) => `${mac}/${vlan}`
const vlanOf = (rules: PortRules, vlan: number | undefined) => vlan ?? rules.vlan?.pvid ?? 0

function isIn({ vlan }: PortRules, id: number): 'tagged' | 'untagged' | null {
  if (vlan?.untagged?.includes(id)) return 'untagged'
  if (vlan?.tagged?.includes(id)) return 'tagged'
  return vlan?.pvid === id && id !== 0 ? 'untagged' : null
}

function floodsTo(rules: PortRules, to: number, fromHost: boolean): boolean {
  if (to >= 0) return rules.flood !== false
  if (fromHost) return true
  return to === -1 ? rules.bcastFlood !== false : rules.mcastFlood !== false
}
