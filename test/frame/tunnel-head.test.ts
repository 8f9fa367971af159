// A GSO frame in a tunnel that leaves whole: cut as the kernel cuts it, which knows of the tunnel but not of its
// checksum, it comes to frames that a strict receiver takes, and so does what was left out.

import assert from 'node:assert/strict'
import t from 'tap'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Segmenter } from '../../src/frame/segmenter.js'
import { segmentsOf } from '../../src/frame/segments.js'
import { MARK, NO_MARK, TunnelBit } from '../../src/frame/tunnel-mark.js'
import fc from '../property.js'
import * as tunnels from './tunnels.js'
import { ethernet, gre, gsoFrame, ip4, ip6, overUdp, type Piece, tcp, udp } from './tunnels.js'

const VXLAN = [8, 0, 0, 0, 0, 0, 7, 0]
const GENEVE = [2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 9, 9, 9, 9]
const [TCP4, TCP6, USO] = [1, 4, 5]
const { OUTER_IPV6, UDP, GRE, ETHERNET } = TunnelBit

type Bytes = Uint8Array
const inIp = (piece: Piece, protocol: number): Piece => ({ ...piece, type: protocol })

/** How each is told to the kernel: its bits, and the length of its outer headers. */
const kinds: Record<string, [make: (payload: Bytes) => Piece, type: number, bits: number, length: number]> = {
  VXLAN: [(p) => ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, null))), TCP4, UDP | ETHERNET, 50],
  'VXLAN with a checksum': [
    (p) => ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4))),
    TCP4,
    UDP | ETHERNET,
    50,
  ],
  'VXLAN over IPv6, IPv4 in a VLAN inside': [
    (p) => ethernet(ip6(overUdp(ethernet(ip4(tcp(4, p)), [0x81, 0, 0, 9]), VXLAN, 6))),
    TCP4,
    OUTER_IPV6 | UDP | ETHERNET,
    74,
  ],
  'IPv6 in VXLAN': [(p) => ethernet(ip4(overUdp(ethernet(ip6(tcp(6, p))), VXLAN, 4))), TCP6, UDP | ETHERNET, 50],
  'UDP segments in VXLAN': [(p) => ethernet(ip4(overUdp(ethernet(ip4(udp(4, p))), VXLAN, 4))), USO, UDP | ETHERNET, 50],
  Geneve: [(p) => ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), GENEVE, 4))), TCP4, UDP | ETHERNET, 58],
  'IP in UDP': [(p) => ethernet(ip4(overUdp(ip4(tcp(4, p)), [], 4))), TCP4, UDP, 28],
  GRE: [(p) => ethernet(ip4(gre(ip4(tcp(4, p))))), TCP4, GRE, 28],
  'GRE with a checksum': [(p) => ethernet(ip4(gre(ip4(tcp(4, p)), true))), TCP4, GRE, 32],
  'Ethernet in GRE with a checksum': [
    (p) => ethernet(ip4(gre(ethernet(ip6(udp(6, p))), true))),
    USO,
    GRE | ETHERNET,
    46,
  ],
  IPIP: [(p) => ethernet(ip4(inIp(ip4(tcp(4, p)), 4))), TCP4, 0, 20],
  SIT: [(p) => ethernet(ip4(inIp(ip6(tcp(6, p)), 41))), TCP6, 0, 20],
  'IPv4 in IPv6 with an encapsulation limit': [
    (p) => ethernet(ip6(inIp(ip4(tcp(4, p)), 4), true)),
    TCP4,
    OUTER_IPV6,
    48,
  ],
}

const place = (length: number) => {
  const bytes = new Uint8Array(length)
  return { bytes, address: 1, view: new DataView(bytes.buffer), length }
}

for (const [name, [make, type, bits, length]] of Object.entries(kinds)) {
  t.test(name, async (t) => {
    fc.assert(
      fc.property(fc.integer({ min: 40, max: 9000 }), fc.integer({ min: 8, max: 1500 }), (count, size) => {
        const payload = Uint8Array.from({ length: count }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
        const frame = gsoFrame(make(payload), size, type)
        const before = frame.bytes.slice()
        const segmenter = new Segmenter(false)
        assert.ok(segmenter.begin(frame))
        assert.equal(segmenter.mark, (MARK << 16) | (bits << 8) | length)
        if (count < 2 * size) return
        const memory = place(4096)
        const free = segmenter.head(memory, 8)
        const { headLength, headPayload } = segmenter
        assert.ok(free >= 8 + headLength && free < 8 + headLength + 8)
        const from = frame.start + headLength - VNET_HEADER_LENGTH
        const head = memory.bytes.slice(8, 8 + headLength)
        const whole = Uint8Array.from([
          ...head.subarray(VNET_HEADER_LENGTH),
          ...frame.bytes.subarray(from, from + headPayload),
        ])
        if (whole[14] >> 4 === 4)
          assert.equal((whole[16] << 8) | whole[17], whole.length - 14, 'the whole\u2019s length')
        const seen = tunnels.cutAsKernel(head, whole, length).map(tunnels.receive)
        const piece = new Frame()
        const rest = place(4096)
        while (segmenter.more) {
          assert.ok(segmenter.next(piece, rest, 0) > 0)
          assert.equal(piece.bytes[piece.vnet + 1], 0)
          seen.push(tunnels.receive(rest.bytes.slice(piece.start, piece.start + piece.length)))
        }
        assert.equal(seen.length, segmentsOf(frame))
        tunnels.checkPieces(seen, payload, size, type === USO)
        assert.deepEqual(frame.bytes, before, 'the frame itself is only read')
      }),
      { numRuns: 60 },
    )
    t.pass()
  })
}

t.test('what the kernel cannot be told has no mark', async (t) => {
  const p = new Uint8Array(5000)
  const others: Record<string, [Piece, number]> = {
    'in a VLAN within': [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4)), [0x81, 0, 0, 7]), TCP4],
    'IPv4 options outside': [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4), [1, 1, 1, 0])), TCP4],
    'IPv6 options before UDP': [ethernet(ip6(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 6), true)), TCP4],
    'another IP version at once in UDP': [ethernet(ip6(overUdp(ip4(tcp(4, p)), [], 6))), TCP4],
    'another IP version at once in GRE': [ethernet(ip4(gre(ip6(tcp(6, p))))), TCP6],
    'two tunnels': [ethernet(ip4(inIp(ip4(gre(ip4(tcp(4, p)))), 4))), TCP4],
    'headers longer than there is room for': [
      ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), [0x20, 0, 0x65, 0x58, ...new Array(132).fill(0)], 4))),
      TCP4,
    ],
    MPLS: [ethernet(tunnels.mpls(ip4(tcp(4, p)))), TCP4],
    PPPoE: [ethernet(tunnels.pppoe(ip4(tcp(4, p)))), TCP4],
  }
  for (const [name, [whole, type]] of Object.entries(others)) {
    const segmenter = new Segmenter(false)
    t.ok(segmenter.begin(gsoFrame(whole, 1000, type)), name)
    t.equal(segmenter.mark, NO_MARK, name)
  }
  const finished = gsoFrame(ethernet(ip4(gre(ip4(tcp(4, p))))), 1000, TCP4, true)
  const segmenter = new Segmenter(false)
  t.ok(segmenter.begin(finished))
  t.equal(segmenter.mark, NO_MARK, 'its checksum was checked before')
})
