// A captured frame in one line, to read in a terminal: when, where, what became of it, who sent what to whom.

import { formatMac } from '../frame/mac.js'
import { inWords, nameOf, type PacketWords } from './pcapng.js'
import { type CapturedPort, PacketField } from './stream.js'

const VLAN_TYPES = [0x8100, 0x88a8]
const TYPES: Readonly<Record<number, string>> = { 2048: 'IPv4', 2054: 'ARP', 34525: 'IPv6', 35020: 'LLDP' }
const PROTOCOLS: Readonly<Record<number, string>> = { 1: 'ICMP', 6: 'TCP', 17: 'UDP', 58: 'ICMPv6', 132: 'SCTP' }
const WITH_PORTS = [6, 17, 132]

export function lineOf(port: CapturedPort, words: PacketWords, content: Buffer): string {
  const at = new Date(content.readDoubleLE(PacketField.TIME))
  const arrow = words.direction === 'in' ? '->' : '<-'
  return `${timeOf(at)} ${nameOf(port)} ${arrow} ${inWords(words)}: ${frameInWords(content.subarray(PacketField.DATA), content.readUInt32LE(PacketField.LENGTH))}`
}

function timeOf(at: Date): string {
  const two = (n: number, digits = 2) => String(n).padStart(digits, '0')
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${two(at.getMilliseconds(), 3)}`
}

/** `frame`: from the destination address on, its tag in it; `length`: of all of it. */
export function frameInWords(frame: Buffer, length: number): string {
  if (frame.length < 14) return `${length} bytes`
  const words = [`${formatMac(frame.subarray(6, 12))} > ${formatMac(frame.subarray(0, 6))}`]
  let at = 12
  let type = frame.readUInt16BE(at)
  for (; VLAN_TYPES.includes(type) && frame.length >= at + 6; type = frame.readUInt16BE(at)) {
    words.push(`vlan ${frame.readUInt16BE(at + 2) & 0xfff}`)
    at += 4
  }
  const name = TYPES[type] ?? (type < 0x600 ? 'LLC' : `0x${type.toString(16).padStart(4, '0')}`)
  const packet = frame.subarray(at + 2)
  const inside = type === 0x0800 ? ipv4(packet) : type === 0x86dd ? ipv6(packet) : type === 0x0806 ? arp(packet) : ''
  words.push(inside === '' ? name : `${name} ${inside}`, `${length} bytes`)
  return words.join(', ')
}

const dotted = (bytes: Buffer) => bytes.join('.')

function ipv4(packet: Buffer): string {
  if (packet.length < 20) return ''
  const header = (packet[0]! & 15) * 4
  const isFirst = (packet.readUInt16BE(6) & 0x1fff) === 0
  const rest = isFirst ? packet.subarray(header) : Buffer.alloc(0)
  return conversation(dotted(packet.subarray(12, 16)), dotted(packet.subarray(16, 20)), packet[9]!, rest)
}

function ipv6(packet: Buffer): string {
  if (packet.length < 40) return ''
  const text = (from: number) =>
    Array.from({ length: 8 }, (_, i) => packet.readUInt16BE(from + 2 * i).toString(16)).join(':')
  return conversation(`[${text(8)}]`, `[${text(24)}]`, packet[6]!, packet.subarray(40))
}

function conversation(from: string, to: string, protocol: number, rest: Buffer): string {
  const name = PROTOCOLS[protocol] ?? `protocol ${protocol}`
  if (!WITH_PORTS.includes(protocol) || rest.length < 4) return `${from} > ${to} ${name}`
  return `${from}:${rest.readUInt16BE(0)} > ${to}:${rest.readUInt16BE(2)} ${name}`
}

function arp(packet: Buffer): string {
  if (packet.length < 28 || packet.readUInt16BE(2) !== 0x0800) return ''
  const [from, to] = [dotted(packet.subarray(14, 18)), dotted(packet.subarray(24, 28))]
  return packet.readUInt16BE(6) === 1
    ? `who has ${to}? tell ${from}`
    : `${from} is at ${formatMac(packet.subarray(8, 14))}`
}
