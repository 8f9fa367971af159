// The kernel's bridges through rtnetlink: their settings, ports, VLANs and addresses, and the few things that a
// takeover changes. linux/if_bridge.h, linux/if_link.h, net/bridge/br_netlink.c, net/bridge/br_fdb.c.

import { formatMac, parseMac } from '../frame/mac.js'
import { Errno, hasErrno } from './libc.js'
import type { Links } from './link.js'
import { type Link, parseLink } from './link-message.js'
import { attributes, eachAttribute, LITTLE_ENDIAN, NetlinkBody, NLM, readU32 } from './netlink.js'

const AF_BRIDGE = 7
const RTM_NEWLINK = 16
const RTM_GETLINK = 18
const RTM_SETLINK = 19
const RTM_DELLINK = 17
const RTM_NEWNEIGH = 28
const RTM_GETNEIGH = 30
const IFINFO_LENGTH = 16
/** struct ndmsg */
const NEIGHBOR_LENGTH = 12
const IFLA = {
  name: 3,
  mtu: 4,
  address: 1,
  master: 10,
  protInfo: 12,
  linkInfo: 18,
  afSpec: 26,
  extMask: 29,
} as const
const INFO = { kind: 1, data: 2, slaveData: 5 } as const
const VETH_PEER = 1
const RTEXT_FILTER_BRVLAN = 2
/** IFLA_BR_… */
const BRIDGE = {
  ageing: 4,
  stp: 5,
  vlanFiltering: 7,
  vlanProtocol: 8,
  groupForwarding: 9,
  callIptables: 36,
  callIp6tables: 37,
  callArptables: 38,
} as const
/** IFLA_BRPORT_… */
const PORT = {
  state: 1,
  hairpin: 4,
  guard: 5,
  protect: 6,
  learning: 8,
  unicastFlood: 9,
  proxyArp: 10,
  proxyArpWifi: 12,
  multicastRouter: 25,
  multicastFlood: 27,
  multicastToUnicast: 28,
  vlanTunnel: 29,
  broadcastFlood: 30,
  groupForwarding: 31,
  neighborSuppress: 32,
  isolated: 33,
  locked: 39,
} as const
/** MDB_RTR_TYPE_… */
const ROUTER = { whenItQueries: 1, always: 2 } as const
const TAG_8021Q = 0x8100
const BRIDGE_VLAN_INFO = 2
const VLAN = { pvid: 2, untagged: 4, rangeBegin: 8, rangeEnd: 16 } as const
const NDA = { address: 2, cache: 3, vlan: 5, master: 9 } as const
const NTF = { use: 1, self: 2, master: 4, externLearned: 16 } as const
const NUD = { reachable: 2, noArp: 0x40, permanent: 0x80 } as const

export interface BridgeSettings {
  /** Seconds. */
  readonly ageing: number
  /** The kernel's own, or a program's: 0 when nobody speaks it. */
  readonly stp: number
  readonly vlanFiltering: boolean
  /** 0x8100 or 0x88a8. */
  readonly vlanProtocol: number
  /** Bits of link-local groups that it forwards. */
  readonly groupForwarding: number
  /** It has frames looked at by iptables, ip6tables, arptables (its own setting, besides the host's). */
  readonly callsFilters: boolean
}

export interface BridgePort {
  readonly link: Link
  /** 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking. */
  readonly state: number
  readonly hairpin: boolean
  /** Root guard and BPDU guard. */
  readonly guard: boolean
  readonly learning: boolean
  readonly unicastFlood: boolean
  readonly multicastFlood: boolean
  readonly broadcastFlood: boolean
  readonly multicastToUnicast: boolean
  readonly proxyArp: boolean
  readonly neighborSuppress: boolean
  readonly vlanTunnel: boolean
  readonly groupForwarding: number
  readonly isolated: boolean
  readonly locked: boolean
}

/** What a VLAN-aware bridge lets in and out at a port; null pvid: nothing untagged comes in. */
export interface PortVlans {
  readonly pvid: number | null
  /** Leave without a tag. */
  readonly untagged: readonly number[]
  readonly tagged: readonly number[]
}

export interface BridgeAddress {
  readonly mac: string
  /** 0 where the bridge knows no VLANs. */
  readonly vlan: number
  /** Of the port. */
  readonly index: number
  /** Set by hand: it does not age. */
  readonly fixed: boolean
  /** Of the bridge or a port itself. */
  readonly local: boolean
}

/** null: it is no bridge. */
export function bridgeSettings(links: Links, index: number): BridgeSettings | null {
  const [answer] = links.socket.request(`look up network device ${index}`, RTM_GETLINK, 0, linkHeader(0, index))
  const info = infoOf(answer?.payload)
  const data = info?.get(INFO.data)
  const kind = info?.get(INFO.kind)
  if (kind === undefined || data === undefined || new TextDecoder().decode(kind.subarray(0, 6)) !== 'bridge')
    return null
  const found = attributes(data)
  const u32 = (type: number) => (found.has(type) ? readU32(found.get(type)!) : 0)
  const u16 = (type: number) => u16Of(found.get(type))
  const on = (type: number) => (found.get(type)?.[0] ?? 0) !== 0
  return {
    ageing: u32(BRIDGE.ageing) / 100,
    stp: u32(BRIDGE.stp),
    vlanFiltering: on(BRIDGE.vlanFiltering),
    // A kernel without VLAN filtering says nothing of it.
    vlanProtocol: found.has(BRIDGE.vlanProtocol) ? swap16(u16(BRIDGE.vlanProtocol)) : TAG_8021Q,
    groupForwarding: u16(BRIDGE.groupForwarding),
    callsFilters: on(BRIDGE.callIptables) || on(BRIDGE.callIp6tables) || on(BRIDGE.callArptables),
  }
}

/** The ports of a bridge, with what it does at each. */
export function bridgePorts(links: Links, bridge: number): BridgePort[] {
  const body = linkHeader(0, 0).attributeU32(IFLA.master, bridge)
  const answers = links.socket.request('list the ports of a bridge', RTM_GETLINK, NLM.dump, body)
  return answers.flatMap((answer) => {
    if (answer.type !== RTM_NEWLINK) return []
    const link = parseLink(answer)
    const data = infoOf(answer.payload)?.get(INFO.slaveData)
    if (link.master !== bridge || data === undefined) return []
    const found = attributes(data)
    const on = (type: number) => (found.get(type)?.[0] ?? 0) !== 0
    return [
      {
        link,
        state: found.get(PORT.state)?.[0] ?? 0,
        hairpin: on(PORT.hairpin),
        guard: on(PORT.guard) || on(PORT.protect),
        learning: on(PORT.learning),
        unicastFlood: on(PORT.unicastFlood),
        multicastFlood: on(PORT.multicastFlood),
        broadcastFlood: on(PORT.broadcastFlood),
        multicastToUnicast: on(PORT.multicastToUnicast),
        proxyArp: on(PORT.proxyArp) || on(PORT.proxyArpWifi),
        neighborSuppress: on(PORT.neighborSuppress),
        vlanTunnel: on(PORT.vlanTunnel),
        groupForwarding: u16Of(found.get(PORT.groupForwarding)),
        isolated: on(PORT.isolated),
        locked: on(PORT.locked),
      },
    ]
  })
}

/** By device index: the VLANs of each port of a bridge, and of the bridge itself. */
export function bridgeVlans(links: Links, bridge: number): Map<number, PortVlans> {
  const body = linkHeader(AF_BRIDGE, 0).attributeU32(IFLA.extMask, RTEXT_FILTER_BRVLAN)
  const answers = links.socket.request('list the VLANs of bridges', RTM_GETLINK, NLM.dump, body)
  const found = new Map<number, PortVlans>()
  for (const { payload } of answers) {
    const index = readU32(payload, 4)
    const all = attributes(payload, IFINFO_LENGTH)
    const master = all.get(IFLA.master)
    if (index !== bridge && (master === undefined || readU32(master) !== bridge)) continue
    const spec = all.get(IFLA.afSpec)
    if (spec !== undefined) found.set(index, vlansOf(spec))
  }
  return found
}

function vlansOf(spec: Uint8Array): PortVlans {
  let pvid: number | null = null
  const untagged: number[] = []
  const tagged: number[] = []
  let begin: number | null = null
  for (const [type, value] of eachAttribute(spec)) {
    if (type !== BRIDGE_VLAN_INFO) continue
    const flags = u16Of(value.subarray(0, 2))
    const vlan = u16Of(value.subarray(2, 4))
    if ((flags & VLAN.rangeBegin) !== 0) {
      begin = vlan
      continue
    }
    if ((flags & VLAN.pvid) !== 0) pvid = vlan
    const list = (flags & VLAN.untagged) !== 0 ? untagged : tagged
    for (let id = (flags & VLAN.rangeEnd) !== 0 && begin !== null ? begin : vlan; id <= vlan; id++) list.push(id)
    begin = null
  }
  return { pvid, untagged, tagged }
}

/** All VLANs pass at a port of ours, tagged: who is in which is decided elsewhere. */
export function trunkAllVlans(links: Links, port: number): void {
  setVlans(links, port, RTM_DELLINK, 1, 4094, 0)
  setVlans(links, port, RTM_SETLINK, 1, 4094, 0)
}

/** These, and no others. */
export function setPortVlans(links: Links, port: number, { pvid, untagged, tagged }: PortVlans): void {
  setVlans(links, port, RTM_DELLINK, 1, 4094, 0)
  const add = (vlans: readonly number[], flags: number) => {
    for (const vlan of vlans) setVlans(links, port, RTM_SETLINK, vlan, vlan, vlan === pvid ? flags | VLAN.pvid : flags)
  }
  add(untagged, VLAN.untagged)
  add(tagged, 0)
}

function setVlans(links: Links, port: number, type: number, from: number, to: number, flags: number): void {
  const body = linkHeader(AF_BRIDGE, port).nested(IFLA.afSpec, (spec) => {
    if (from !== to) spec.attribute(BRIDGE_VLAN_INFO, vlanInfo(flags | VLAN.rangeBegin, from))
    spec.attribute(BRIDGE_VLAN_INFO, vlanInfo(from === to ? flags : flags | VLAN.rangeEnd, to))
  })
  links.socket.request(`set the VLANs of network device ${port}`, type, 0, body)
}

function vlanInfo(flags: number, vlan: number): Uint8Array {
  return new Uint8Array(Uint16Array.of(flags, vlan).buffer)
}

/** What a bridge has learned, or was told, of the addresses behind its ports. */
export function bridgeAddresses(links: Links, bridge: number): BridgeAddress[] {
  const body = new NetlinkBody().u8(AF_BRIDGE).u8(0).u16(0).u32(0).u16(0).u8(0).u8(0).attributeU32(NDA.master, bridge)
  const answers = links.socket.request('list the addresses of a bridge', RTM_GETNEIGH, NLM.dump, body)
  return answers.flatMap(({ type, payload }) => {
    if (type !== RTM_NEWNEIGH || payload[0] !== AF_BRIDGE) return []
    const found = attributes(payload, NEIGHBOR_LENGTH)
    const master = found.get(NDA.master)
    const address = found.get(NDA.address)
    const index = readU32(payload, 4)
    if (address?.length !== 6 || index === bridge || (master !== undefined && readU32(master) !== bridge)) return []
    const state = u16Of(payload.subarray(8, 10))
    return [
      {
        mac: formatMac(address),
        vlan: u16Of(found.get(NDA.vlan)),
        index,
        fixed: (state & (NUD.noArp | NUD.permanent)) !== 0,
        local: (state & NUD.permanent) !== 0,
      },
    ]
  })
}

/** As if the bridge had just seen the address at the port; one that it knows elsewhere moves there. */
export function learnAddress(links: Links, { mac, vlan, index }: Pick<BridgeAddress, 'mac' | 'vlan' | 'index'>): void {
  const body = new NetlinkBody()
    .u8(AF_BRIDGE)
    .u8(0)
    .u16(0)
    .u32(index)
    .u16(NUD.reachable)
    .u8(NTF.master | NTF.use)
    .u8(0)
    .attribute(NDA.address, parseMac(mac))
  if (vlan !== 0) body.attributeU16(NDA.vlan, vlan)
  links.socket.request(`have a bridge learn ${mac}`, RTM_NEWNEIGH, NLM.create, body)
}

export interface PortFlags {
  /** The bridge sends out of the port what it does not know the place of, and what is for all. */
  readonly floods?: boolean
  /** It learns addresses from what enters there. */
  readonly learns?: boolean
}

/** What a port of a bridge does, as `bridgePorts` tells it. */
export type PortConduct = Pick<
  BridgePort,
  'hairpin' | 'learning' | 'unicastFlood' | 'multicastFlood' | 'broadcastFlood' | 'isolated' | 'locked'
>

export function setPortConduct(links: Links, port: number, conduct: PortConduct): void {
  const body = linkHeader(AF_BRIDGE, port).nested(IFLA.protInfo, (info) => {
    for (const [flag, on] of Object.entries(conduct)) {
      // Kernels before 5.16 know no locked ports.
      if (flag !== 'locked' || on) info.attributeU8(PORT[flag as keyof PortConduct], on ? 1 : 0)
    }
  })
  links.socket.request(`set the flags of bridge port ${port}`, RTM_SETLINK, 0, body)
}

export function setPortFlags(links: Links, port: number, { floods, learns }: PortFlags): void {
  const body = linkHeader(AF_BRIDGE, port).nested(IFLA.protInfo, (info) => {
    if (learns !== undefined) info.attributeU8(PORT.learning, learns ? 1 : 0)
    if (floods === undefined) return
    for (const flag of [PORT.unicastFlood, PORT.multicastFlood, PORT.broadcastFlood])
      info.attributeU8(flag, floods ? 1 : 0)
  })
  links.socket.request(`set the flags of bridge port ${port}`, RTM_SETLINK, 0, body)
}

/**
 * While it has heard a querier, a bridge that snoops sends what goes to groups to those that have joined them, and to
 * multicast routers (br_multicast_flood in net/bridge/br_forward.c). A port that leads to everybody must be one, and is
 * up: kernels refuse it for others (ENOENT), and know no such thing when they are built without snooping.
 */
export function setMulticastRouter(links: Links, port: number, isOne: boolean): void {
  const body = linkHeader(AF_BRIDGE, port).nested(IFLA.protInfo, (info) =>
    info.attributeU8(PORT.multicastRouter, isOne ? ROUTER.always : ROUTER.whenItQueries),
  )
  try {
    links.socket.request(`make bridge port ${port} a multicast router, or none`, RTM_SETLINK, 0, body)
  } catch (thrown) {
    if (!isNoPort(thrown)) throw thrown
  }
}

export interface PairEnd {
  readonly name: string
  readonly mac: string
}

/** A veth pair, down. @throws SnapswitchError DEVICE_BUSY when one of the names is taken */
export function createPair(links: Links, one: PairEnd, other: PairEnd, mtu: number): void {
  const end = (body: NetlinkBody, { name, mac }: PairEnd) =>
    body.attributeText(IFLA.name, name).attribute(IFLA.address, parseMac(mac)).attributeU32(IFLA.mtu, mtu)
  const peer = end(linkHeader(0, 0), other).bytes()
  const body = end(linkHeader(0, 0), one).nested(IFLA.linkInfo, (info) =>
    info
      .attribute(INFO.kind, new TextEncoder().encode('veth'))
      .nested(INFO.data, (data) => data.attribute(VETH_PEER, peer)),
  )
  links.socket.request(`make the veth pair ${one.name}, ${other.name}`, RTM_NEWLINK, NLM.create | NLM.excl, body)
}

/** A port that a program has taken off the bridge meanwhile, or that is gone. */
export function isNoPort(thrown: unknown): boolean {
  return hasErrno(thrown, Errno.ENODEV, Errno.EINVAL, Errno.ENOENT, 95)
}

function infoOf(payload: Uint8Array | undefined): Map<number, Uint8Array> | null {
  const info = payload === undefined ? undefined : attributes(payload, IFINFO_LENGTH).get(IFLA.linkInfo)
  return info === undefined ? null : attributes(info)
}

/** struct ifinfomsg */
function linkHeader(family: number, index: number): NetlinkBody {
  return new NetlinkBody().u8(family).u8(0).u16(0).u32(index).u32(0).u32(0)
}

function u16Of(value: Uint8Array | undefined): number {
  return value === undefined || value.length < 2
    ? 0
    : new DataView(value.buffer, value.byteOffset, 2).getUint16(0, LITTLE_ENDIAN)
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8)
}
