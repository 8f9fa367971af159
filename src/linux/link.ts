// Network devices through rtnetlink: what there is, and the few settings that the switch changes (up, MTU, MAC, IPv6
// autoconfiguration). Watching for devices that come, go or change.

import { closeSync, openSync } from 'node:fs'
import { SnapswitchError } from '../errors/errors.js'
import { parseMac } from '../frame/mac.js'
import { AF_INET6, IFF_UP, IFLA, type Link, parseLink } from './link-message.js'
import { attributes, NetlinkBody, type NetlinkMessage, NetlinkSocket, NLM, readU32 } from './netlink.js'

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
/** RTEXT_FILTER_SKIP_STATS: counters are half of what the kernel has to write for a device. */
const SKIP_STATS = 8
const IFLA_INET6_ADDR_GEN_MODE = 8
const IN6_ADDR_GEN_MODE_NONE = 1
/** IFNAMSIZ less its terminating zero. */
const NAME_LIMIT = 15
/** ALTIFNAMSIZ less the same. */
const OTHER_NAME_LIMIT = 127

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
    const body = linkHeader(0).attributeU32(IFLA.extendedMask, SKIP_STATS)
    const answers = this.#socket.request('list network devices', RTM_GETLINK, NLM.dump, body)
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
        const body = linkHeader(0).attributeU32(IFLA.targetNamespace, id).attributeU32(IFLA.extendedMask, SKIP_STATS)
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

function missing(what: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${what} does not exist`,
    'Create the device first; `ip link` lists those that exist.',
  )
}
