// A frame in one line, for people: who sends what to whom. It is told as far as the bytes reach; frames that were cut
// short, or are malformed, are told less of.

import { CARRIER_TYPE } from './carrier.js'
import { CONTROL_MAGIC, ControlType } from './control.js'
import { EtherType } from './ethernet.js'
import { formatMac } from './mac.js'

const TYPES = new Map<number, string>([
  [EtherType.IPV4, 'IPv4'],
  [EtherType.ARP, 'ARP'],
  [EtherType.RARP, 'RARP'],
  [EtherType.IPV6, 'IPv6'],
  [0x8809, 'LACP'],
  [0x8847, 'MPLS'],
  [0x8863, 'PPPoE discovery'],
  [0x8864, 'PPPoE'],
  [0x888e, '802.1X'],
  [0x88cc, 'LLDP'],
])
const TCP = 6
const PROTOCOLS = new Map([
  [1, 'ICMP'],
  [2, 'IGMP'],
  [4, 'IPIP'],
  [TCP, 'TCP'],
  [17, 'UDP'],
  [41, 'SIT'],
  [47, 'GRE'],
  [50, 'ESP'],
  [58, 'ICMPv6'],
  [89, 'OSPF'],
  [112, 'VRRP'],
  [132, 'SCTP'],
])
const WITH_PORTS = [TCP, 17, 132]
const ICMP = new Map([
  [0, 'echo reply'],
  [3, 'unreachable'],
  [5, 'redirect'],
  [8, 'echo request'],
  [11, 'time exceeded'],
])
const ICMP6 = new Map([
  [1, 'unreachable'],
  [2, 'packet too big'],
  [3, 'time exceeded'],
  [128, 'echo request'],
  [129, 'echo reply'],
  [133, 'router solicitation'],
  [134, 'router advertisement'],
  [135, 'neighbour solicitation'],
  [136, 'neighbour advertisement'],
  [143, 'listener report'],
])
const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG']
/** Hop-by-hop options, routing, destination options: each says how long it is, in units of 8 bytes beside the first. */
const EXTENSIONS = [0, 43, 60]
const FRAGMENT = 44
/** Below, the field is a length (IEEE 802.3). */
const LEAST_TYPE = 0x600

/** `bytes`: from the destination address on, tags in it; `length`: of all of the frame. */
export function frameInWords(bytes: Uint8Array, length: number): string {
  const frame = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (frame.length < 14) return `${length} bytes`
  const words = [`${formatMac(frame.subarray(6, 12))} > ${formatMac(frame.subarray(0, 6))}`]
  let at = 12
  let type = frame.readUInt16BE(at)
  while ((type === EtherType.VLAN || type === EtherType.SERVICE_VLAN) && frame.length >= at + 6) {
    words.push(`vlan ${frame.readUInt16BE(at + 2) & 0xfff}`)
    at += 4
    type = frame.readUInt16BE(at)
  }
  const name = TYPES.get(type) ?? (type < LEAST_TYPE ? 'LLC' : `0x${type.toString(16).padStart(4, '0')}`)
  const inside = insideOf(type, frame.subarray(at + 2))
  words.push(inside === '' ? name : `${name} ${inside}`, `${length} bytes`)
  return words.join(', ')
}

function insideOf(type: number, packet: Buffer): string {
  switch (type) {
    case EtherType.IPV4:
      return ipv4(packet)
    case EtherType.IPV6:
      return ipv6(packet)
    case EtherType.ARP:
      return arp(packet)
    case EtherType.CONTROL:
      return betweenSwitches(packet)
    default:
      return ''
  }
}

const dotted = (bytes: Buffer) => bytes.join('.')

function ipv4(packet: Buffer): string {
  if (packet.length < 20) return ''
  const [from, to] = [dotted(packet.subarray(12, 16)), dotted(packet.subarray(16, 20))]
  const offset = (packet.readUInt16BE(6) & 0x1fff) * 8
  if (offset > 0) return `${from} > ${to} ${protocolName(packet[9])}, fragment at ${offset}`
  const header = (packet[0] & 15) * 4
  return conversation(from, to, packet[9], packet.subarray(header, Math.max(packet.readUInt16BE(2), header)))
}

function ipv6(packet: Buffer): string {
  if (packet.length < 40) return ''
  const [from, to] = [`[${ipv6Text(packet.subarray(8, 24))}]`, `[${ipv6Text(packet.subarray(24, 40))}]`]
  let protocol = packet[6]
  let at = 40
  while (EXTENSIONS.includes(protocol) && packet.length >= at + 8) {
    protocol = packet[at]
    at += (packet[at + 1] + 1) * 8
  }
  if (protocol === FRAGMENT && packet.length >= at + 8) {
    const offset = packet.readUInt16BE(at + 2) & 0xfff8
    protocol = packet[at]
    if (offset > 0) return `${from} > ${to} ${protocolName(protocol)}, fragment at ${offset}`
    at += 8
  }
  return conversation(from, to, protocol, packet.subarray(at))
}

/** As in RFC 5952: the longest row of zeros, of two groups at least, is left out. */
function ipv6Text(address: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, at) => address.readUInt16BE(at * 2).toString(16))
  const rows = groups.join(':').match(/\b0(:0)+\b/g) ?? []
  const longest = rows.reduce((best, row) => (row.length > best.length ? row : best), '')
  if (longest === '') return groups.join(':')
  return groups.join(':').replace(new RegExp(`(^|:)${longest}(:|$)`), '::')
}

const protocolName = (protocol: number) => PROTOCOLS.get(protocol) ?? `protocol ${protocol}`

function conversation(from: string, to: string, protocol: number, rest: Buffer): string {
  const name = protocolName(protocol)
  if (WITH_PORTS.includes(protocol) && rest.length >= 4) {
    const more = protocol === TCP ? tcp(rest) : ''
    return `${from}:${rest.readUInt16BE(0)} > ${to}:${rest.readUInt16BE(2)} ${name}${more}`
  }
  const kinds = protocol === 1 ? ICMP : protocol === 58 ? ICMP6 : null
  if (kinds === null || rest.length < 8) return `${from} > ${to} ${name}`
  const kind = kinds.get(rest[0]) ?? `type ${rest[0]}`
  const isEcho = kind.startsWith('echo')
  return `${from} > ${to} ${name} ${kind}${isEcho ? ` ${rest.readUInt16BE(4)}/${rest.readUInt16BE(6)}` : ''}`
}

function tcp(segment: Buffer): string {
  if (segment.length < 20) return ''
  const flags = TCP_FLAGS.filter((_, bit) => (segment[13] & (1 << bit)) !== 0).join(' ')
  const payload = segment.length - (segment[12] >> 4) * 4
  return ` ${flags} seq ${segment.readUInt32BE(4)}${payload > 0 ? `, ${payload} of payload` : ''}`
}

function arp(packet: Buffer): string {
  if (packet.length < 28 || packet.readUInt16BE(2) !== EtherType.IPV4) return ''
  const [from, to] = [dotted(packet.subarray(14, 18)), dotted(packet.subarray(24, 28))]
  return packet.readUInt16BE(6) === 1
    ? `who has ${to}? tell ${from}`
    : `${from} is at ${formatMac(packet.subarray(8, 14))}`
}

function betweenSwitches(packet: Buffer): string {
  if (packet.length < 6 || packet.readUInt32BE(0) !== CONTROL_MAGIC) return ''
  if (packet[5] === CARRIER_TYPE) return 'snapswitch carrier'
  const name = Object.entries(ControlType).find(([, type]) => type === packet[5])?.[0]
  return `snapswitch ${name ?? `type ${packet[5]}`}`
}
