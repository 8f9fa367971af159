// What a port lets in and out besides what its kind says, as a forwarder reads it per frame. The rules are those of
// the kernel's bridge (net/bridge/br_vlan.c, br_forward.c, br_input.c). A port without any has none of this: null.
//
// A frame of a VLAN has its 802.1Q tag beside it between the port that it came in by and the one that it leaves by.
// Those that are of no VLAN (0) are untagged ones of ports without `vlan`.

import type { PortKind, PortRules } from '../../src/api/schemas.js'
import { formatMac, parseMac } from '../../src/frame/mac.js'

const LAST_VLAN = 4094

/** What a port does with a VLAN's frames. */
export const Membership = { NONE: 0, TAGGED: 1, UNTAGGED: 2 } as const
export type Membership = (typeof Membership)[keyof typeof Membership]

export interface PortVlans {
  /** 0: untagged frames do not enter. */
  readonly pvid: number
  /** By VLAN: a Membership. */
  readonly members: Uint8Array
}

/** Most lists of VLANs, and what they say alone, are short: `10`, `20-29`. */
type Vlan = NonNullable<NonNullable<PortRules['vlan']>['tagged']>[number]

export interface RulesFault {
  readonly path: readonly (string | number)[]
  readonly message: string
}

/** The VLANs that a list means. */
export function vlansOf(list: readonly Vlan[] = []): number[] {
  return list.flatMap((vlan) => {
    const [first, last] = boundsOf(vlan)
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i)
  })
}

function boundsOf(vlan: Vlan): [first: number, last: number] {
  if (typeof vlan === 'number') return [vlan, vlan]
  const [first, last] = vlan.split('-').map(Number)
  return [first!, last!]
}

/** What is wrong with rules that fit the schema; null: nothing. */
export function rulesFault(rules: PortRules, kind: PortKind): RulesFault | null {
  const fault = (path: RulesFault['path'], message: string): RulesFault => ({ path, message })
  if (rules.hairpin === true && (kind === 'trunk' || kind === 'uplink'))
    return fault(['hairpin'], `a ${kind} port has no \`hairpin:\`: between switches it would be a loop`)
  const { vlan } = rules
  const seen = new Map<number, string>()
  for (const list of ['untagged', 'tagged'] as const) {
    for (const [at, one] of (vlan?.[list] ?? []).entries()) {
      const [first, last] = boundsOf(one)
      if (first > last || last > LAST_VLAN)
        return fault(['vlan', list, at], `${one} is no range of VLANs from 1 to ${LAST_VLAN}`)
      for (let id = first; id <= last; id++) {
        const before = seen.get(id)
        if (before !== undefined) {
          const where = before === list ? `twice in \`${list}\`` : 'in both `untagged` and `tagged`'
          return fault(['vlan', list, at], `VLAN ${id} is ${where}`)
        }
        seen.set(id, list)
      }
    }
  }
  return addressFault(rules)
}

function addressFault(rules: PortRules): RulesFault | null {
  const vlans = rules.vlan === undefined ? null : compileVlans(rules.vlan)
  const seen = new Set<string>()
  for (const [at, { mac, vlan }] of (rules.fdb ?? []).entries()) {
    const path = ['fdb', at]
    if ((parseMac(mac)[0]! & 1) === 1 || mac === formatMac(new Uint8Array(6)))
      return { path: [...path, 'mac'], message: `${mac} is no address that anybody sends from` }
    const found = vlan ?? vlans?.pvid ?? 0
    if (vlans !== null && vlans.members[found] === Membership.NONE) {
      const message =
        vlan === undefined ? '`vlan:` is needed where the port has no `pvid`' : `the port is not in VLAN ${vlan}`
      return { path, message }
    }
    const key = `${mac} ${found}`
    if (seen.has(key)) return { path, message: `${mac} is there twice` }
    seen.add(key)
  }
  return null
}

function compileVlans(vlan: NonNullable<PortRules['vlan']>): PortVlans {
  const members = new Uint8Array(LAST_VLAN + 2)
  for (const id of vlansOf(vlan.tagged)) members[id] = Membership.TAGGED
  for (const id of vlansOf(vlan.untagged)) members[id] = Membership.UNTAGGED
  const pvid = vlan.pvid ?? 0
  if (pvid !== 0 && members[pvid] === Membership.NONE) members[pvid] = Membership.UNTAGGED
  return { pvid, members }
}
