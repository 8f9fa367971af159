// Whether a frame of segments is TCP in a tunnel, as far as a socket filter can tell: it sees a frame's bytes, but not
// its gso_type. Before 6.2 the kernel can write a virtio-net header for TCP, in a tunnel or not, and for no other
// segments (virtio_net_hdr_from_skb). Datagrams of UDP to be cut (UDP_SEGMENT) must not be taken for a tunnel, because
// they would stop the ring until it is renewed. So the inner packet must be as long as the frame: in a datagram that
// is to be cut it is as long as one segment, unless the sender forges it. That stops the ring of his own port only.

import {
  add,
  addFrom,
  and,
  copy,
  frame8,
  frame8From,
  frame16From,
  frame32From,
  go,
  ifEqual,
  ifEqualTo,
  ifMoreThan,
  ifNot,
  type Line,
  load32,
  SkBuff,
  set,
  shiftLeft,
  shiftRight,
} from './bpf.js'

const Protocol = { IPV4: 4, TCP: 6, UDP: 17, IPV6: 41, GRE: 47, DESTINATION_OPTIONS: 60 } as const
const EtherType = { IPV4: 0x0800, IPV6: 0x86dd, VLAN: 0x8100, PROVIDER_VLAN: 0x88a8, ETHERNET: 0x6558 } as const
/** A VXLAN header's first word: a network is named, and no extension is used. */
const VXLAN = 0x0800_0000
const GRE_CHECKSUM = 0x8000
const GRE_KEY = 0x2000
const GRE_SEQUENCE = 0x1000

/** Where we are in the frame. */
const AT = 8
/** skb->len. */
const LENGTH = 9
const byte = (offset: number) => frame8From(AT, offset)
const word16 = (offset: number) => frame16From(AT, offset)
const word32 = (offset: number) => frame32From(AT, offset)
const skip = (bytes: number) => add(AT, bytes)

/** A filter that reads behind a frame's end refuses the frame. */
const reach = (bytes: number): Line[] => [copy(1, AT), add(1, bytes), ifMoreThan(1, LENGTH, 'aside')]

/** Goes to `protocol` with the protocol in r0, after it has noted where that begins. The IPv4 header is at `at`. */
export const outer4 = (at: number): Line[] => [
  frame8(at),
  and(0, 0xf),
  shiftLeft(0, 2),
  copy(AT, 0),
  add(AT, at),
  frame8(at + 9),
  go('protocol'),
]
/** The same for IPv6. */
export const outer6 = (at: number): Line[] => [set(AT, at + 40), frame8(at + 6), go('protocol')]

/** Tunnels by UDP: VXLAN, or Geneve with any options. */
const overUdp: Line[] = [
  'over UDP',
  ...reach(16),
  skip(8),
  word32(0),
  ifEqual(0, VXLAN, 'VXLAN'),
  // Geneve's version, reserved bits, and whether the frame is for the tunnel's end itself must be 0.
  and(0, 0xc0bf_ffff),
  ifNot(0, EtherType.ETHERNET, 'aside'),
  byte(7),
  ifNot(0, 0, 'aside'),
  byte(0),
  shiftLeft(0, 2),
  addFrom(AT, 0),
  skip(8),
  go('Ethernet'),
  'VXLAN',
  byte(7),
  ifNot(0, 0, 'aside'),
  skip(8),
  go('Ethernet'),
]

const gre: Line[] = [
  'GRE',
  ...reach(16),
  word32(0),
  copy(2, 0),
  shiftRight(2, 16),
  and(0, 0xffff),
  skip(4),
  // Other bits are of other versions, or of routes.
  copy(1, 2),
  and(1, 0xffff & ~(GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE)),
  ifNot(1, 0, 'aside'),
  ...[GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE].flatMap((bit) => [
    copy(1, 2),
    and(1, bit),
    ifEqual(1, 0, `no ${bit}`),
    skip(4),
    `no ${bit}`,
  ]),
  ifEqual(0, EtherType.IPV4, 'inner IPv4'),
  ifEqual(0, EtherType.IPV6, 'inner IPv6'),
  ifNot(0, EtherType.ETHERNET, 'aside'),
]

const ethernet: Line[] = [
  'Ethernet',
  ...reach(18),
  skip(14),
  word16(-2),
  ifEqual(0, EtherType.VLAN, 'inner tag'),
  ifNot(0, EtherType.PROVIDER_VLAN, 'untagged'),
  'inner tag',
  skip(4),
  word16(-2),
  'untagged',
  ifEqual(0, EtherType.IPV4, 'inner IPv4'),
  ifEqual(0, EtherType.IPV6, 'inner IPv6'),
  go('aside'),
]

/** No options, no fragment, TCP, as long as the frame. */
const inner: Line[] = [
  'inner IPv4',
  ...reach(20),
  byte(0),
  ifNot(0, 0x45, 'aside'),
  word16(6),
  and(0, 0x3fff),
  ifNot(0, 0, 'aside'),
  byte(9),
  ifNot(0, Protocol.TCP, 'aside'),
  word16(2),
  addFrom(0, AT),
  ifEqualTo(0, LENGTH, 'keep'),
  go('aside'),
  'inner IPv6',
  ...reach(40),
  byte(0),
  shiftRight(0, 4),
  ifNot(0, 6, 'aside'),
  byte(6),
  ifNot(0, Protocol.TCP, 'aside'),
  word16(4),
  skip(40),
  addFrom(0, AT),
  ifEqualTo(0, LENGTH, 'keep'),
]

/**
 * Goes to `keep` or `aside`, or falls through to what must be `aside`. r0: the protocol; r6: the context.
 * r7 is kept. A guest's segments, which nobody has counted, are in no tunnel.
 */
export const innerTcp: readonly Line[] = [
  load32(1, 6, SkBuff.GSO_SEGS),
  ifEqual(1, 0, 'aside'),
  load32(LENGTH, 6, SkBuff.LENGTH),
  ifNot(0, Protocol.DESTINATION_OPTIONS, 'no options'),
  // The kernel's tunnels by IPv6 say there, in 8 bytes, how many tunnels may follow (RFC 2473).
  ...reach(8),
  byte(1),
  ifNot(0, 0, 'aside'),
  byte(0),
  skip(8),
  'no options',
  ifEqual(0, Protocol.UDP, 'over UDP'),
  ifEqual(0, Protocol.GRE, 'GRE'),
  ifEqual(0, Protocol.IPV4, 'inner IPv4'),
  ifEqual(0, Protocol.IPV6, 'inner IPv6'),
  go('aside'),
  ...overUdp,
  ...gre,
  ...ethernet,
  ...inner,
]
