// A network device as rtnetlink describes it (struct ifinfomsg, IFLA_*), read from the kernel's message. Pure.

import { formatMac } from '../frame/mac.js'
import { attributes, eachAttribute, LITTLE_ENDIAN, type NetlinkMessage, readText, readU32 } from './netlink.js'

export const AF_INET6 = 10
const IFINFO_LENGTH = 16
/** linux/if_arp.h */
const ARPHRD_ETHER = 1
export const IFF_UP = 1
const IFF_PROMISC = 0x100
const IFF_LOWER_UP = 0x10000
export const IFLA = {
  extendedMask: 29,
  address: 1,
  name: 3,
  mtu: 4,
  peer: 5,
  master: 10,
  queueLength: 13,
  linkInfo: 18,
  afSpec: 26,
  peerNamespace: 37,
  xdp: 43,
  targetNamespace: 46,
  otherNames: 52,
  otherName: 53,
} as const
const IFLA_INFO_KIND = 1
const IFLA_INFO_DATA = 2
/** linux/if_link.h */
const IFLA_TUN = { owner: 1, group: 2, vnetHeader: 5, persistent: 6, multiQueue: 7, queues: 8, detached: 9 } as const
const IFLA_INFO_MACVLAN_MODE = 1
const MACVLAN_MODE_BRIDGE = 4
const IFLA_XDP = { attached: 2, genericProgram: 6 } as const
const XDP_ATTACHED_SKB = 2
const IFLA_INET6_CONF = 2
/** Place of disable_ipv6 in IFLA_INET6_CONF (linux/ipv6.h). */
const DEVCONF_DISABLE_IPV6 = 26

export interface Link {
  readonly index: number
  readonly name: string
  /** Further names that it can be found by (`ip link property add … altname`). */
  readonly otherNames: readonly string[]
  /** The driver's kind ("veth", "tun", "bridge", …); null for hardware and loopback. A TAP is of kind "tun". */
  readonly kind: string | null
  /** Bytes of payload after the Ethernet header. */
  readonly mtu: number
  /** Its frames begin with an Ethernet header; not so the loopback device and tunnels of IP. */
  readonly ethernet: boolean
  /** Somebody has set it up. */
  readonly up: boolean
  /** It has a carrier; a TAP has one while a program holds its other side. */
  readonly lowerUp: boolean
  readonly promiscuous: boolean
  /** aa:bb:cc:dd:ee:ff; null for a device without addresses. */
  readonly mac: string | null
  /** Index of the bridge or bond that owns it. */
  readonly master: number | null
  /** A veth's other end; of a device that stands on another one (VLAN, macvlan, …), that one. */
  readonly peer: number | null
  /** Id of the network namespace of the other end; null when it is this one. */
  readonly peerNamespace: number | null
  /** Packets that may wait for its reader. */
  readonly queueLength: number
  /** How a TAP was made; null for other devices. */
  readonly tap: TapSettings | null
  /** A macvlan that the kernel forwards to from others on the same device. */
  readonly macvlanBridge: boolean
  /** A program of somebody's is at its generic XDP hook. */
  readonly genericXdp: boolean
  /** The host's stack speaks IPv6 on it. False where the kernel has no IPv6. */
  readonly ipv6: boolean
}

/** Whether `name` is the name of a device, or another name of it. */
export function isCalled(link: Pick<Link, 'name' | 'otherNames'>, name: string): boolean {
  return link.name === name || link.otherNames.includes(name)
}

export interface TapSettings {
  /** Who may open it; null: whoever may make one. */
  readonly owner: number | null
  readonly group: number | null
  readonly vnetHeader: boolean
  /** It stays when nobody holds it. */
  readonly persistent: boolean
  readonly multiQueue: boolean
  /** Of one with several queues: how many are held. */
  readonly queues: number
}

export function parseLink(message: NetlinkMessage): Link {
  const { payload } = message
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  const flags = view.getUint32(8, LITTLE_ENDIAN)
  const found = attributes(payload, IFINFO_LENGTH)
  const number = (type: number) => {
    const value = found.get(type)
    return value === undefined ? null : readU32(value)
  }
  const name = found.get(IFLA.name)
  const address = found.get(IFLA.address)
  const linkInfo = found.get(IFLA.linkInfo)
  const info = linkInfo === undefined ? undefined : attributes(linkInfo)
  const kind = info?.get(IFLA_INFO_KIND)
  const data = info?.get(IFLA_INFO_DATA)
  return {
    index: view.getInt32(4, LITTLE_ENDIAN),
    name: name === undefined ? '' : readText(name),
    otherNames: otherNames(found.get(IFLA.otherNames)),
    kind: kind === undefined ? null : readText(kind),
    mtu: number(IFLA.mtu) ?? 0,
    ethernet: view.getUint16(2, LITTLE_ENDIAN) === ARPHRD_ETHER,
    up: (flags & IFF_UP) !== 0,
    lowerUp: (flags & IFF_LOWER_UP) !== 0,
    promiscuous: (flags & IFF_PROMISC) !== 0,
    mac: address?.length === 6 ? formatMac(address) : null,
    master: number(IFLA.master),
    peer: number(IFLA.peer),
    peerNamespace: number(IFLA.peerNamespace),
    queueLength: number(IFLA.queueLength) ?? 0,
    tap: kind !== undefined && readText(kind) === 'tun' && data !== undefined ? tapSettings(data) : null,
    macvlanBridge:
      kind !== undefined && /^macv(lan|tap)$/.test(readText(kind)) && data !== undefined && isMacvlanBridge(data),
    genericXdp: hasGenericXdp(found.get(IFLA.xdp)),
    ipv6: hasIpv6(found.get(IFLA.afSpec)),
  }
}

function otherNames(list: Uint8Array | undefined): string[] {
  if (list === undefined) return []
  return [...eachAttribute(list)].flatMap(([type, value]) => (type === IFLA.otherName ? [readText(value)] : []))
}

function isMacvlanBridge(data: Uint8Array): boolean {
  const mode = attributes(data).get(IFLA_INFO_MACVLAN_MODE)
  return mode !== undefined && readU32(mode) === MACVLAN_MODE_BRIDGE
}

function hasGenericXdp(xdp: Uint8Array | undefined): boolean {
  if (xdp === undefined) return false
  const found = attributes(xdp)
  // With programs at several hooks, each has its number.
  return found.get(IFLA_XDP.attached)?.[0] === XDP_ATTACHED_SKB || found.has(IFLA_XDP.genericProgram)
}

function hasIpv6(families: Uint8Array | undefined): boolean {
  const inet6 = families === undefined ? undefined : attributes(families).get(AF_INET6)
  const settings = inet6 === undefined ? undefined : attributes(inet6).get(IFLA_INET6_CONF)
  const at = DEVCONF_DISABLE_IPV6 * 4
  return settings !== undefined && settings.length >= at + 4 && readU32(settings, at) === 0
}

function tapSettings(data: Uint8Array): TapSettings {
  const found = attributes(data)
  const number = (type: number) => {
    const value = found.get(type)
    return value === undefined ? null : readU32(value)
  }
  const flag = (type: number) => found.get(type)?.[0] === 1
  return {
    owner: number(IFLA_TUN.owner),
    group: number(IFLA_TUN.group),
    vnetHeader: flag(IFLA_TUN.vnetHeader),
    persistent: flag(IFLA_TUN.persistent),
    multiQueue: flag(IFLA_TUN.multiQueue),
    queues: (number(IFLA_TUN.queues) ?? 0) + (number(IFLA_TUN.detached) ?? 0),
  }
}
