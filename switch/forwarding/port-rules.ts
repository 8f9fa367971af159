// What a port lets in and out besides what its kind says, as a forwarder reads it per frame. The rules are those of
// the kernel's bridge (net/bridge/br_vlan.c, br_forward.c, br_input.c). A port without any has none of this: null.
//
// A frame of a VLAN has its 802.1Q tag beside it between the port that it came in by and the one that it leaves by.
// Those that are of no VLAN (0) are untagged ones of ports without `vlan`.

import type { PortKind, PortRules } from '../../src/api/schemas.js'
import { ETHERNET_HEADER_LENGTH, EtherType, macHigh, macLow, VLAN_TAG_LENGTH } from '../../src/frame/ethernet.js'
import { type Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'

import { formatMac, parseMac } from '../../src/frame/mac.js'
import { Vnet } from '../../src/frame/vnet-header.js'

const LAST_VLAN = 4094
const ADDRESSES = 12

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
  const { vlan, mirror } = rules
  if (mirror !== undefined && kind !== 'plain')
    return fault(['mirror'], `a ${kind} port is no mirror: one of kind plain is`)
  if (mirror !== undefined && Object.keys(rules).length > 1)
    return fault(['mirror'], 'a mirror has no other rules: nothing but copies leaves by it')
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

/** A static address, in the words of the FDB. */
export interface PlacedAddress {
  readonly high: number
  readonly low: number
  readonly vlan: number
  readonly sticky: boolean
}

export interface CompiledRules {
  /** Null: in all VLANs, tagged. */
  readonly vlans: PortVlans | null
  readonly learns: boolean
  readonly isLocked: boolean
  readonly hairpin: boolean
  readonly fdb: readonly PlacedAddress[]
}

/** Null when they leave everything as it is without rules, but for what `barriersOf` (port-state.ts) says. */
export function compileRules(rules: PortRules): CompiledRules | null {
  const { vlan, learning = true, locked = false, hairpin = false, fdb = [] } = rules
  if (vlan === undefined && learning && !locked && !hairpin && fdb.length === 0) return null
  const vlans = vlan === undefined ? null : compileVlans(vlan)
  const placed = fdb.map((entry) => {
    const mac = parseMac(entry.mac)
    const inVlan = entry.vlan ?? vlans?.pvid ?? 0
    return { high: macHigh(mac, 0), low: macLow(mac, 0), vlan: inVlan, sticky: entry.sticky ?? false }
  })
  return { vlans, learns: learning, isLocked: locked, hairpin, fdb: placed }
}

function compileVlans(vlan: NonNullable<PortRules['vlan']>): PortVlans {
  const members = new Uint8Array(LAST_VLAN + 2)
  for (const id of vlansOf(vlan.tagged)) members[id] = Membership.TAGGED
  for (const id of vlansOf(vlan.untagged)) members[id] = Membership.UNTAGGED
  const pvid = vlan.pvid ?? 0
  if (pvid !== 0 && members[pvid] === Membership.NONE) members[pvid] = Membership.UNTAGGED
  return { pvid, members }
}

/** The first of a port's VLANs, the pvid before all others. */
export function firstOf({ pvid, members }: PortVlans, most: number): number[] {
  const found = pvid === 0 ? [] : [pvid]
  for (let vlan = 1; vlan <= LAST_VLAN && found.length < most; vlan++)
    if (vlan !== pvid && members[vlan] !== Membership.NONE) found.push(vlan)
  return found
}

/** A frame of a VLAN that the port is not in. */
export const NOT_ADMITTED = -1

/**
 * The VLAN of a frame that enters a port with `vlans`; NOT_ADMITTED: it does not enter. As __allowed_ingress does it.
 * An outermost 802.1Q tag lies beside the frame (`bringTagBeside`), before and after.
 */
export function admitTo(vlans: PortVlans, frame: Frame): number {
  const tagged = frame.tagTpid === EtherType.VLAN
  const vlan = tagged ? frame.tagTci & 0xfff : 0
  if (vlan !== 0) return vlans.members[vlan] === Membership.NONE ? NOT_ADMITTED : vlan
  const { pvid } = vlans
  if (pvid === 0) return NOT_ADMITTED
  if (frame.tagTpid !== 0 && !tagged) putTagInside(frame)
  // A priority-tagged frame keeps its priority.
  frame.tagTci = tagged ? (frame.tagTci & 0xf000) | pvid : pvid
  frame.tagTpid = EtherType.VLAN
  return pvid
}

/**
 * Takes an outermost 802.1Q tag that lies in the frame, as behind a trunk's color, out of it: what is before it moves
 * up to where it ends.
 */
export function bringTagBeside(frame: Frame): void {
  const { bytes, vnet, start } = frame
  const at = start + ADDRESSES
  if (frame.tagTpid !== 0 || bytes[at] !== 0x81 || bytes[at + 1] !== 0x00) return
  if (frame.length < ETHERNET_HEADER_LENGTH + VLAN_TAG_LENGTH) return
  frame.tagTpid = EtherType.VLAN
  frame.tagTci = (bytes[at + 2] << 8) | bytes[at + 3]
  bytes.copyWithin(vnet + VLAN_TAG_LENGTH, vnet, at)
  frame.vnet = vnet + VLAN_TAG_LENGTH
  frame.start = start + VLAN_TAG_LENGTH
  frame.length -= VLAN_TAG_LENGTH
  moveOffsets(bytes, frame.vnet, -VLAN_TAG_LENGTH)
}

/** Rare, and the frame has no room before it: the memory is made when it is first needed. */
let scratch: Uint8Array | null = null

/** The other way round, for a service tag that gets one outside it. The frame lies elsewhere after that. */
function putTagInside(frame: Frame): void {
  scratch ??= new Uint8Array(VNET_HEADER_LENGTH + MAX_FRAME_LENGTH + VLAN_TAG_LENGTH)
  const { bytes, vnet, start, length } = frame
  const at = VNET_HEADER_LENGTH + ADDRESSES
  scratch.set(bytes.subarray(vnet, vnet + VNET_HEADER_LENGTH))
  scratch.set(bytes.subarray(start, start + ADDRESSES), VNET_HEADER_LENGTH)
  scratch[at] = frame.tagTpid >> 8
  scratch[at + 1] = frame.tagTpid & 0xff
  scratch[at + 2] = frame.tagTci >> 8
  scratch[at + 3] = frame.tagTci & 0xff
  scratch.set(bytes.subarray(start + ADDRESSES, start + length), at + VLAN_TAG_LENGTH)
  moveOffsets(scratch, 0, VLAN_TAG_LENGTH)
  frame.bytes = scratch
  frame.address = 0
  frame.vnet = 0
  frame.start = VNET_HEADER_LENGTH
  frame.length = length + VLAN_TAG_LENGTH
}

/** What a virtio-net header counts from the frame's start: csum_start, and hdr_len of a GSO frame. */
function moveOffsets(bytes: Uint8Array, vnet: number, by: number): void {
  if ((bytes[vnet] & Vnet.NEEDS_CSUM) !== 0) move(bytes, vnet + Vnet.CSUM_START, by)
  if (bytes[vnet + Vnet.GSO_TYPE] !== 0) move(bytes, vnet + Vnet.HEADER_LENGTH, by)
}

function move(bytes: Uint8Array, at: number, by: number): void {
  const moved = Math.max(0, (bytes[at] | (bytes[at + 1] << 8)) + by)
  bytes[at] = moved & 0xff
  bytes[at + 1] = moved >> 8
}
