// Network devices through rtnetlink: what there is, and the few settings that the switch changes (up, MTU, MAC, IPv6
// autoconfiguration). Watching for devices that come, go or change.

import { closeSync, openSync } from 'node:fs'
import { SnapswitchError } from '../errors/errors.js'
import { formatMac, parseMac } from '../frame/mac.js'
import {
  attributes,
  eachAttribute,
  LITTLE_ENDIAN,
  NetlinkBody,
  type NetlinkMessage,
  NetlinkSocket,
  NLM,
  readText,
  readU32,
} from './netlink.js'

const RTM_NEWLINK = 16
const RTM_DELLINK = 17
const RTM_GETLINK = 18
const RTM_NEWNSID = 88
const RTM_GETNSID = 90
const NETNSA = { id: 1, descriptor: 3 } as const
const RTM_NEWADDR = 20
const RTM_DELADDR = 21
/** RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR (linux/rtnetlink.h). */
const NEWS = 0x1 | 0x10 | 0x100
/** RTMGRP_TC, and RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER. */
const FILTER_NEWS = 0x8
const FILTER_MESSAGES: readonly number[] = [36, 37, 44, 45]
const AF_INET6 = 10
const IFINFO_LENGTH = 16
/** linux/if_arp.h */
const ARPHRD_ETHER = 1
const IFF_UP = 1
const IFF_PROMISC = 0x100
const IFF_LOWER_UP = 0x10000
const IFLA = {
  address: 1,
  name: 3,
  mtu: 4,
  peer: 5,
  master: 10,
  queueLength: 13,
  linkInfo: 18,
  afSpec: 26,
  peerNamespace: 37,
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
const IFLA_INET6_CONF = 2
/** Place of disable_ipv6 in IFLA_INET6_CONF (linux/ipv6.h). */
const DEVCONF_DISABLE_IPV6 = 26
const IFLA_INET6_ADDR_GEN_MODE = 8
const IN6_ADDR_GEN_MODE_NONE = 1
/** IFNAMSIZ less its terminating zero. */
const NAME_LIMIT = 15
/** ALTIFNAMSIZ less the same. */
const OTHER_NAME_LIMIT = 127

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

export interface LinkChanges {
  readonly up?: boolean
  readonly mtu?: number
  readonly mac?: string
  /** The device must be down. */
  readonly name?: string
  readonly queueLength?: number
  /** Into a bridge, by index; 0: out of the one that it is in. */
  readonly master?: number
  /** `none`: the kernel makes no IPv6 link-local address when the device comes up. */
  readonly ipv6Addresses?: 'none'
}

export type LinkEvent =
  | { readonly kind: 'changed' | 'removed'; readonly link: Link }
  /** An address of a device was added or removed. */
  | { readonly kind: 'address'; readonly index: number }
  /** The same of a traffic control filter, or of the hook that it was at. */
  | { readonly kind: 'filter'; readonly index: number }

/** The links of one network namespace: that of the thread that made this. */
export class Links {
  readonly #socket = new NetlinkSocket()

  /** For requests about devices that are no matter of this file. */
  get socket(): NetlinkSocket {
    return this.#socket
  }

  list(): Link[] {
    const answers = this.#socket.request('list network devices', RTM_GETLINK, NLM.dump, linkHeader(0))
    return answers.filter((answer) => answer.type === RTM_NEWLINK).map(parseLink)
  }

  /** @throws SnapswitchError DEVICE_MISSING */
  get(name: string): Link {
    const found = this.find(name)
    if (found !== null) return found
    throw missing(`network device ${name}`)
  }

  /** By its name or another one that it has. null when there is no such device. */
  find(name: string): Link | null {
    const { length } = new TextEncoder().encode(name)
    if (length === 0 || length > OTHER_NAME_LIMIT) return null
    // The kernel looks among the other names either way; one attribute has no room for the long ones.
    const attribute = length > NAME_LIMIT ? IFLA.otherName : IFLA.name
    return this.#ask(`look up network device ${name}`, linkHeader(0).attributeText(attribute, name))
  }

  /** What the device is called at the moment; null when it is gone. */
  nameOf(index: number): string | null {
    return this.findByIndex(index)?.name ?? null
  }

  findByIndex(index: number): Link | null {
    return this.#ask(`look up network device ${index}`, linkHeader(index))
  }

  /**
   * Devices of other namespaces that stand on devices of this one, as containers' macvlans do: `peer` is the index
   * here. Only of namespaces that this one has had to do with: the kernel has ids for those.
   */
  elsewhere(): Link[] {
    const found = this.#namespaces().flatMap((id) => {
      try {
        const body = linkHeader(0).attributeU32(IFLA.targetNamespace, id)
        const answers = this.#socket.request('list devices of another namespace', RTM_GETLINK, NLM.dump, body)
        return answers.map(parseLink).filter((link) => link.peerNamespace !== null)
      } catch {
        // It is going away, or is none of ours.
        return []
      }
    })
    if (found.length === 0) return []
    // This namespace has an id in its own eyes from when a device elsewhere was said to stand on one here, and so is in
    // the list.
    const own = this.#ownNamespace()
    return found.filter((link) => link.peerNamespace === own)
  }

  #namespaces(): number[] {
    const body = new NetlinkBody().u8(0).u8(0).u16(0)
    return this.#socket.request('list namespaces', RTM_GETNSID, NLM.dump, body).flatMap((answer) => idIn(answer) ?? [])
  }

  /** The id that this namespace has in its own eyes; null when there has been no need for one. */
  #ownNamespace(): number | null {
    const descriptor = openSync('/proc/thread-self/ns/net', 'r')
    try {
      const body = new NetlinkBody().u8(0).u8(0).u16(0).attributeU32(NETNSA.descriptor, descriptor)
      const [answer] = this.#socket.request('look up the own namespace', RTM_GETNSID, 0, body)
      return answer === undefined ? null : idIn(answer)
    } finally {
      closeSync(descriptor)
    }
  }

  /**
   * All changes in one request. @throws SnapswitchError DEVICE_MISSING, PERMISSION, or SYSCALL with the kernel's reason
   */
  change(index: number, changes: LinkChanges): void {
    const flags = changes.up === true ? IFF_UP : 0
    const body = linkHeader(index, flags, changes.up === undefined ? 0 : IFF_UP)
    if (changes.mtu !== undefined) body.attributeU32(IFLA.mtu, changes.mtu)
    if (changes.name !== undefined) body.attributeText(IFLA.name, changes.name)
    if (changes.queueLength !== undefined) body.attributeU32(IFLA.queueLength, changes.queueLength)
    if (changes.master !== undefined) body.attributeU32(IFLA.master, changes.master)
    if (changes.mac !== undefined) body.attribute(IFLA.address, parseMac(changes.mac))
    if (changes.ipv6Addresses === 'none') {
      body.nested(IFLA.afSpec, (family) =>
        family.nested(AF_INET6, (inet6) => inet6.attributeU8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)),
      )
    }
    this.#socket.request(`change network device ${index} (${Object.keys(changes).join(', ')})`, RTM_NEWLINK, 0, body)
  }

  /** Removes a virtual device, also one that a program holds. */
  remove(index: number): void {
    this.#socket.request(`remove network device ${index}`, RTM_DELLINK, 0, linkHeader(index))
  }

  close(): void {
    this.#socket.close()
  }

  #ask(what: string, body: NetlinkBody): Link | null {
    try {
      const [answer] = this.#socket.request(what, RTM_GETLINK, 0, body)
      return answer === undefined ? null : parseLink(answer)
    } catch (thrown) {
      if (thrown instanceof SnapswitchError && thrown.code === 'DEVICE_MISSING') return null
      throw thrown
    }
  }
}

/**
 * Tells of links that come, change and go, and of their addresses. The owner asks it now and then, or when its `fd` is
 * readable.
 */
export class LinkWatch {
  readonly #socket: NetlinkSocket

  /** `filters`: tells of those, too. */
  constructor(filters = false) {
    this.#socket = new NetlinkSocket(filters ? NEWS | FILTER_NEWS : NEWS)
  }

  get fd(): number {
    return this.#socket.fd
  }

  /**
   * What happened since the last call, oldest first; at most a few hundred events, the rest at the next call.
   * @throws SnapswitchError SYSCALL when events were lost: list the links anew, then go on
   */
  drain(): LinkEvent[] {
    const events: LinkEvent[] = []
    while (events.length < 256) {
      const messages = this.#socket.poll()
      if (messages === null) break
      for (const message of messages) {
        if (message.type === RTM_NEWADDR || message.type === RTM_DELADDR) {
          // struct ifaddrmsg
          events.push({ kind: 'address', index: readU32(message.payload, 4) })
          continue
        }
        if (FILTER_MESSAGES.includes(message.type)) {
          // struct tcmsg
          events.push({ kind: 'filter', index: readU32(message.payload, 4) })
          continue
        }
        if (message.type !== RTM_NEWLINK && message.type !== RTM_DELLINK) continue
        // A bridge announces its ports with family AF_BRIDGE; a port that leaves a bridge is not a device that goes.
        if (message.payload[0] !== 0) continue
        events.push({ kind: message.type === RTM_NEWLINK ? 'changed' : 'removed', link: parseLink(message) })
      }
    }
    return events
  }

  close(): void {
    this.#socket.close()
  }
}

/** Behind a struct rtgenmsg. */
function idIn({ type, payload }: NetlinkMessage): number | null {
  const value = type === RTM_NEWNSID ? attributes(payload, 4).get(NETNSA.id) : undefined
  const id = value === undefined ? -1 : readU32(value) | 0
  return id < 0 ? null : id
}

/** struct ifinfomsg. */
function linkHeader(index: number, flags = 0, change = 0): NetlinkBody {
  return new NetlinkBody().u8(0).u8(0).u16(0).u32(index).u32(flags).u32(change)
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

function missing(what: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${what} does not exist`,
    'Create the device first; `ip link` lists those that exist.',
  )
}
