// What the filter of a receive ring does with frames of segments before kernel 6.2: TCP passes, also within a tunnel;
// all else goes to the second socket. The kernel runs the program (BPF_PROG_TEST_RUN) over frames that are made here.

import { endianness } from 'node:os'
import t from 'tap'
import { mapArena, releaseArena } from '../../src/linux/arena.js'
import { SkBuff, set } from '../../src/linux/bpf.js'
import { check, libc } from '../../src/linux/libc.js'
import { choose, loadFilter } from '../../src/linux/ring-filters.js'
import { root } from '../switch/world.js'

const BPF_PROG_TEST_RUN = 10
const LITTLE_ENDIAN = endianness() === 'LE'
const ETHERNET_HEADER = 14
const CONTEXT_LENGTH = 192

type Bytes = readonly number[]
const be16 = (value: number): Bytes => [(value >> 8) & 0xff, value & 0xff]
const zeros = (n: number): Bytes => new Array<number>(n).fill(0)

const ethernet = (type: number, inner: Bytes): Bytes => [...zeros(12), ...be16(type), ...inner]
const ip4 = (protocol: number, inner: Bytes, total = 20 + inner.length): Bytes => [
  ...[0x45, 0, ...be16(total), 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
  ...inner,
]
const ip6 = (next: number, inner: Bytes, length = inner.length): Bytes => [
  ...[0x60, 0, 0, 0, ...be16(length), next, 64, ...zeros(32)],
  ...inner,
]
const udp = (inner: Bytes): Bytes => [0x12, 0xb5, 0x12, 0xb5, ...be16(8 + inner.length), 0, 0, ...inner]
const vxlan = (inner: Bytes): Bytes => [8, 0, 0, 0, 0, 0, 70, 0, ...inner]
const gre = (flags: number, type: number, options: number, inner: Bytes): Bytes => [
  ...[...be16(flags), ...be16(type), ...zeros(options)],
  ...inner,
]
const geneve = (words: number, flags: number, inner: Bytes): Bytes => [
  ...[words, flags, 0x65, 0x58, 0, 0, 70, 0, ...zeros(4 * words)],
  ...inner,
]

const segment: Bytes = zeros(1500)
const tcp4 = ip4(6, segment)
const tcp6 = ip6(6, segment)
const framed = ethernet(0x0800, tcp4)
const tagged = (inner: Bytes): Bytes => [...inner.slice(0, 12), 0x81, 0, 0, 7, ...inner.slice(12)]
const out = (protocol: number, inner: Bytes) => ethernet(0x0800, ip4(protocol, inner))
const out6 = (next: number, inner: Bytes) => ethernet(0x86dd, ip6(next, inner))

const kept: Record<string, Bytes> = {
  tcp: ethernet(0x0800, tcp4),
  'tcp, tagged': tagged(ethernet(0x86dd, tcp6)),
  vxlan: out(17, udp(vxlan(framed))),
  'vxlan, tagged': tagged(out(17, udp(vxlan(framed)))),
  'vxlan, two tags': tagged(tagged(out(17, udp(vxlan(framed))))),
  'vxlan, tagged within': out(17, udp(vxlan(tagged(framed)))),
  'vxlan with IPv6': out(17, udp(vxlan(ethernet(0x86dd, tcp6)))),
  'vxlan by IPv6': out6(17, udp(vxlan(framed))),
  geneve: out(17, udp(geneve(0, 0, framed))),
  'geneve with options': out(17, udp(geneve(63, 0x40, framed))),
  ipip: out(4, tcp4),
  sit: out(41, tcp6),
  'ipip6, with its option': out6(60, [4, 0, 4, 1, 4, 1, 0, 0, ...tcp4]),
  ip6ip6: out6(41, tcp6),
  gre: out(47, gre(0, 0x0800, 0, tcp4)),
  'gre with IPv6': out(47, gre(0, 0x86dd, 0, tcp6)),
  'gre with everything': out(47, gre(0xb000, 0x0800, 12, tcp4)),
  gretap: out(47, gre(0x2000, 0x6558, 4, framed)),
  'gretap by IPv6': out6(47, gre(0, 0x6558, 0, tagged(framed))),
}

const asideOnes: Record<string, Bytes> = {
  udp: out(17, udp(segment)),
  'udp by IPv6': out6(17, udp(segment)),
  'short udp': out(17, udp([8, 0])),
  'udp in vxlan': out(17, udp(vxlan(out(17, udp(segment))))),
  'sctp in vxlan': out(17, udp(vxlan(out(132, segment)))),
  'udp in ipip': out(4, ip4(17, udp(segment))),
  'datagrams of VXLAN, to be cut': out(17, udp([...vxlan(framed), ...vxlan(framed)])),
  'the same with IPv6': out(17, udp([...vxlan(ethernet(0x86dd, tcp6)), 0])),
  'datagrams of Geneve, to be cut': out(17, udp([...geneve(1, 0, framed), ...geneve(1, 0, framed)])),
  'vxlan without a network': out(17, udp([0, ...vxlan(framed).slice(1)])),
  'vxlan with a policy': out(17, udp([0x88, ...vxlan(framed).slice(1)])),
  'geneve for its end': out(17, udp(geneve(0, 0x80, framed))),
  'geneve that ends in its options': out(17, udp([63, 0, 0x65, 0x58, ...zeros(100)])),
  'a fragment within': out(4, [...tcp4.slice(0, 6), 0x20, 0, ...tcp4.slice(8)]),
  'gre of version 1': out(47, gre(1, 0x0800, 0, tcp4)),
  'gre that ends': out(47, [0x20, 0]),
  'two tunnels': out(4, ip4(4, tcp4)),
  arp: ethernet(0x0806, segment),
}

/** What the program makes of a frame. */
function verdict(program: number, frame: Bytes, segments: number): number {
  // The kernel takes the Ethernet header off before it runs a socket filter here: one that we add.
  const length = ETHERNET_HEADER + frame.length
  const memory = mapArena(CONTEXT_LENGTH + length)
  try {
    const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset)
    view.setUint32(SkBuff.GSO_SIZE, 1400, LITTLE_ENDIAN)
    view.setUint32(SkBuff.GSO_SEGS, segments, LITTLE_ENDIAN)
    memory.bytes.set(ethernet(0x0800, frame), CONTEXT_LENGTH)
    const attributes = new Uint8Array(80)
    const values = new DataView(attributes.buffer)
    values.setUint32(0, program, LITTLE_ENDIAN)
    values.setUint32(8, length, LITTLE_ENDIAN)
    values.setBigUint64(16, BigInt(memory.address + CONTEXT_LENGTH), LITTLE_ENDIAN)
    values.setUint32(40, CONTEXT_LENGTH, LITTLE_ENDIAN)
    values.setBigUint64(48, BigInt(memory.address), LITTLE_ENDIAN)
    check(libc().bpf(BPF_PROG_TEST_RUN, attributes, attributes.length), 'run a BPF program')
    return values.getUint32(4, LITTLE_ENDIAN)
  } finally {
    releaseArena(memory)
  }
}

const KEPT = 1
const ASIDE = 2

for (const [what, kernelWritesUdp] of [
  ['before 6.2', false],
  ['from 6.2', true],
] as const)
  t.test(what, root, async (t) => {
    const program = loadFilter(choose(kernelWritesUdp, [set(0, ASIDE)], [set(0, KEPT)]))
    t.teardown(() => libc().close(program))
    for (const [name, frame] of Object.entries(kept)) t.equal(verdict(program, frame, 2), KEPT, name)
    for (const [name, frame] of Object.entries(asideOnes))
      t.equal(verdict(program, frame, 2), kernelWritesUdp ? KEPT : ASIDE, name)
    const guests = verdict(program, kept.vxlan, 0)
    t.equal(guests, ASIDE, 'a guest’s datagram to be fragmented, whatever is in it')
    t.equal(verdict(program, kept.tcp, 0), KEPT, 'a guest’s TCP')
  })
