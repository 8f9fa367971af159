// The host's own addresses and default route through rtnetlink: who is to be told that a device hears nothing any more.

import { SnapswitchError } from '../errors/errors.js'
import { attributes, NetlinkBody, type NetlinkMessage, type NetlinkSocket, NLM, readU32 } from './netlink.js'

const RTM_NEWADDR = 20
const RTM_GETADDR = 22
const RTM_NEWROUTE = 24
const RTM_GETROUTE = 26
const AF_INET = 2
const AF_INET6 = 10
/** struct ifaddrmsg, struct rtmsg */
const ADDRESS_HEADER = 8
const ROUTE_HEADER = 12
const IFA = { address: 1, local: 2, flags: 8 } as const
const IFA_F_PERMANENT = 0x80
/**
 * Flags that whoever sets an address chooses: no DAD, optimistic, home, managed temporary ones, no prefix route, no
 * joining.
 */
const CHOSEN_FLAGS = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400
const SCOPE_LINK = 253
const RTA = { destination: 1, outDevice: 4, multipath: 9 } as const
const RTM_F_FIB_MATCH = 0x2000
const RT_SCOPE_UNIVERSE = 0
/** Somewhere that is not here (RFC 5737). A route of a bit or none is a default route: VPNs halve it. */
const ELSEWHERE = [203, 0, 113, 1]
const DEFAULT_PREFIX_AT_MOST = 1

export interface HostAddress {
  /** The device's. */
  readonly index: number
  readonly version: 4 | 6
  readonly text: string
  /** For this link only: every device with IPv6 has one. */
  readonly linkLocal: boolean
  /** Set by somebody, not learned from an advertisement. */
  readonly permanent: boolean
  /** What `addAddress` takes. */
  readonly request: Uint8Array
}

/** `index`: of one device only. */
export function listAddresses(socket: NetlinkSocket, index = 0): HostAddress[] {
  const body = new NetlinkBody().u8(0).u8(0).u8(0).u8(0).u32(index)
  const answers = socket.request('list addresses', RTM_GETADDR, NLM.dump, body)
  return answers.flatMap((answer) => parseAddress(answer) ?? [])
}

/** Sets an address again as it was. One that is there already is left alone. */
export function addAddress(socket: NetlinkSocket, address: HostAddress): void {
  try {
    socket.request(`add address ${address.text}`, RTM_NEWADDR, NLM.create | NLM.excl, rawBody(address.request))
  } catch (thrown) {
    if (!(thrown instanceof SnapswitchError) || !thrown.message.endsWith(': EEXIST')) throw thrown
  }
}

/** Indexes of the devices that IPv4 packets to elsewhere leave through; none when there is no default route. */
export function defaultRouteDevices(socket: NetlinkSocket): number[] {
  const header = new NetlinkBody().u8(AF_INET).u8(32).u8(0).u8(0).u8(0).u8(0).u8(RT_SCOPE_UNIVERSE).u8(0)
  const body = header.u32(RTM_F_FIB_MATCH).attribute(RTA.destination, Uint8Array.from(ELSEWHERE))
  try {
    const [route] = socket.request('look up the default route', RTM_GETROUTE, 0, body)
    if (route === undefined || route.type !== RTM_NEWROUTE || route.payload[1] > DEFAULT_PREFIX_AT_MOST) return []
    const found = attributes(route.payload, ROUTE_HEADER)
    const device = found.get(RTA.outDevice)
    return device === undefined ? nextHops(found.get(RTA.multipath)) : [readU32(device)]
  } catch (thrown) {
    // ENETUNREACH: there is none. Nor does a route that refuses lead anywhere.
    if (thrown instanceof SnapswitchError && thrown.code !== 'DEADLINE') return []
    throw thrown
  }
}

/** An array of struct rtnexthop, each with attributes behind it. */
function nextHops(hops: Uint8Array | undefined): number[] {
  const devices: number[] = []
  for (let at = 0; hops !== undefined && at + 8 <= hops.length; ) {
    const length = readU32(hops, at) & 0xffff
    if (length < 8) break
    devices.push(readU32(hops, at + 4))
    at += (length + 3) & ~3
  }
  return devices
}

function parseAddress({ type, payload }: NetlinkMessage): HostAddress | null {
  const [family, prefix, flags8, scope] = payload
  if (type !== RTM_NEWADDR || (family !== AF_INET && family !== AF_INET6)) return null
  const found = attributes(payload, ADDRESS_HEADER)
  const bytes = found.get(IFA.local) ?? found.get(IFA.address)
  if (bytes === undefined) return null
  const flagBytes = found.get(IFA.flags)
  const flags = flagBytes === undefined ? flags8 : readU32(flagBytes)
  const index = readU32(payload, 4)
  const request = new NetlinkBody().u8(family).u8(prefix).u8(0).u8(scope).u32(index)
  for (const which of [IFA.address, IFA.local]) {
    const value = found.get(which)
    if (value !== undefined) request.attribute(which, value)
  }
  request.attributeU32(IFA.flags, flags & CHOSEN_FLAGS)
  return {
    index,
    version: family === AF_INET ? 4 : 6,
    text: `${family === AF_INET ? [...bytes].join('.') : ipv6Text(bytes)}/${prefix}`,
    linkLocal: scope === SCOPE_LINK && family === AF_INET6,
    permanent: (flags & IFA_F_PERMANENT) !== 0,
    request: request.bytes().slice(),
  }
}

function rawBody(bytes: Uint8Array): NetlinkBody {
  const body = new NetlinkBody()
  for (const byte of bytes) body.u8(byte)
  return body
}

/** RFC 5952: the longest run of zeros is left out. */
function ipv6Text(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, at) => ((bytes[at * 2] << 8) | bytes[at * 2 + 1]).toString(16))
  let from = 0
  let longest = 1
  for (let at = 0; at < 8; at++) {
    let zeros = 0
    while (groups[at + zeros] === '0') zeros++
    if (zeros <= longest) continue
    from = at
    longest = zeros
  }
  if (longest === 1) return groups.join(':')
  return `${groups.slice(0, from).join(':')}::${groups.slice(from + longest).join(':')}`
}
