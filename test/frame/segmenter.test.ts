// GSO frames in tunnels are cut as the kernel cuts them: whatever the tunnel, each frame is one that a strict receiver
// takes, and together they say what the one said. What needs no cutting, or makes no sense, is left alone.

import assert from 'node:assert/strict'
import t from 'tap'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Segmenter } from '../../src/frame/segmenter.js'
import { segmentsOf } from '../../src/frame/segments.js'
import { tcpSegment } from '../forwarding/lan.js'
import fc from '../property.js'
import * as tunnels from './tunnels.js'
import { ethernet, gre, gsoFrame, ip4, ip6, overUdp, type Piece, tcp, udp } from './tunnels.js'

const VXLAN = [8, 0, 0, 0, 0, 0, 7, 0]
const GENEVE = [2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 9, 9, 9, 9]
const TCP4 = 1
const TCP6 = 4
const USO = 5
const ECN = 0x80

const bytes = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
const kinds: Record<string, (payload: Uint8Array) => [Piece, number]> = {
  VXLAN: (p) => [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, null))), TCP4],
  'VXLAN with a checksum': (p) => [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4))), TCP4],
  'VXLAN over IPv6, in VLANs': (p) => {
    const inner = ethernet(ip6(tcp(6, p)), [0x81, 0, 0, 9])
    return [ethernet(ip6(overUdp(inner, VXLAN, 6)), [0x88, 0xa8, 0, 3, 0x81, 0, 0, 4]), TCP6]
  },
  'UDP segments in VXLAN': (p) => [ethernet(ip4(overUdp(ethernet(ip4(udp(4, p))), VXLAN, 4), [1, 1, 1, 0])), USO],
  Geneve: (p) => [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), GENEVE, null))), TCP4],
  'IP in UDP': (p) => [ethernet(ip6(overUdp(ip4(tcp(4, p)), [], 6))), TCP4],
  GRE: (p) => [ethernet(ip4(gre(ip4(tcp(4, p))))), TCP4],
  'GRE with a checksum, IPv6 in IPv6': (p) => [ethernet(ip6(gre(ip6(tcp(6, p)), true), true)), TCP6],
  'Ethernet in GRE': (p) => [ethernet(ip4(gre(ethernet(ip6(udp(6, p))), true))), USO],
  IPIP: (p) => [ethernet(ip4({ ...ip4(tcp(4, p)), type: 4 })), TCP4],
  SIT: (p) => [ethernet(ip4({ ...ip6(tcp(6, p)), type: 41 })), TCP6],
  'IPv4 in IPv6 with an encapsulation limit': (p) => [ethernet(ip6({ ...ip4(tcp(4, p)), type: 4 }, true)), TCP4],
  MPLS: (p) => [ethernet(tunnels.mpls(ip4(tcp(4, p)))), TCP4],
  PPPoE: (p) => [ethernet(tunnels.pppoe(ip6(tcp(6, p)))), TCP6],
}

/** All frames that come of one, as plain bytes. */
function cut(frame: Frame, joins = false, room = 1 << 20): { frame: Frame; bytes: Uint8Array }[] {
  const segmenter = new Segmenter(joins)
  return segmenter.begin(frame) ? all(segmenter, room) : []
}

function all(segmenter: Segmenter, room = 1 << 20): { frame: Frame; bytes: Uint8Array }[] {
  const memory = new Uint8Array(room)
  const made: { frame: Frame; bytes: Uint8Array }[] = []
  let free = 0
  const place = { bytes: memory, address: 1, view: new DataView(memory.buffer), length: room }
  while (segmenter.more) {
    const next = new Frame()
    const after = segmenter.next(next, place, free)
    if (after < 0) {
      assert.ok(free > 0, 'one always fits into empty memory')
      free = 0
      continue
    }
    free = after
    const whole = memory.slice(next.vnet, next.start + next.length)
    const copy = Object.assign(new Frame(whole), { view: new DataView(whole.buffer), start: 10, length: next.length })
    made.push({ frame: Object.assign(copy, { tagTpid: next.tagTpid, tagTci: next.tagTci }), bytes: whole.slice(10) })
  }
  return made
}

/** Joined frames are cut by a segmenter as another kernel cuts them: at the outer UDP header. */
function finished(made: { frame: Frame; bytes: Uint8Array }[]): Uint8Array[] {
  return made.flatMap(({ frame, bytes }) => (frame.bytes[1] === 0 ? [bytes] : splitDatagrams(frame)))
}

function splitDatagrams({ bytes, view, length }: Frame): Uint8Array[] {
  const [size, at] = [view.getUint16(4, true), view.getUint16(6, true)]
  assert.equal(bytes[1], USO)
  const frame = bytes.subarray(VNET_HEADER_LENGTH)
  const head = at + 8
  const parts: Uint8Array[] = []
  for (let from = head; from < length; from += size) {
    const part = Uint8Array.from([...frame.subarray(0, head), ...frame.subarray(from, Math.min(from + size, length))])
    const words = new DataView(part.buffer)
    const ip = at - (frame[12] === 0x08 ? (frame[14] & 15) * 4 : 40)
    const was = words.getUint16(at + 4)
    words.setUint16(at + 4, part.length - at)
    if (part[ip] >> 4 === 4) {
      words.setUint16(ip + 2, part.length - ip)
      words.setUint16(ip + 4, words.getUint16(ip + 4) + parts.length)
      words.setUint16(ip + 10, 0)
      words.setUint16(ip + 10, ~tunnels.sum(part.subarray(ip, at)))
    } else words.setUint16(ip + 4, part.length - ip - 40)
    const left = tunnels.sum(
      [words.getUint8(at + 6), words.getUint8(at + 7)],
      [~was >> 8, ~was & 0xff].map((b) => b & 255),
    )
    words.setUint16(at + 6, left)
    const check = ~tunnels.sum([(part.length - at) >> 8, (part.length - at) & 255], part.subarray(at))
    words.setUint16(at + 6, check)
    parts.push(part)
  }
  return parts
}

for (const [name, make] of Object.entries(kinds)) {
  t.test(name, async (t) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9000 }),
        fc.integer({ min: 8, max: 1500 }),
        fc.boolean(),
        (length, size, joins) => {
          const payload = bytes(length)
          const [whole, type] = make(payload)
          const frame = gsoFrame(whole, size, type)
          const made = cut(frame, joins, 20_000)
          const seen = finished(made).map(tunnels.receive)
          assert.equal(seen.length, segmentsOf(frame))
          assert.equal(
            made.reduce((all, { frame }) => all + segmentsOf(frame), 0),
            segmentsOf(frame),
            'counted the same',
          )
          tunnels.checkPieces(seen, payload, size, type === USO)
          for (const { frame } of made) assert.deepEqual([frame.tagTpid, frame.tagTci], [0x8100, 5])
          return true
        },
      ),
      { numRuns: 60 },
    )
    t.pass()
  })
}

t.test('CWR is told once, FIN at the end; Accurate ECN keeps its counter', async (t) => {
  for (const [bit, expected] of [
    [ECN, [0x90, 0x10, 0x19]],
    [0, [0x90, 0x90, 0x99]],
  ] as const) {
    const whole = ethernet(ip4(gre(ip4(tcp(4, bytes(2500), 0x99)))))
    const flags = cut(gsoFrame(whole, 1000, TCP4 | bit)).map(({ bytes }) => tunnels.receive(bytes).flags)
    t.same(flags, expected)
  }
})

t.test('without an unfinished checksum: the sum is made from the beginning', async (t) => {
  for (const [whole, type] of [
    [ethernet(ip4(udp(4, bytes(3000)))), USO],
    [ethernet(ip6(tcp(6, bytes(3000)))), TCP6],
    [ethernet(ip4(gre(ip4(tcp(4, bytes(3000)))))), TCP4],
  ] as const) {
    const seen = cut(gsoFrame(whole, 1000, type, true)).map(({ bytes }) => tunnels.receive(bytes))
    t.ok(Buffer.concat(seen.map(({ payload }) => payload)).equals(bytes(3000)))
  }
})

t.test('what the header describes stays whole, and so does what makes no sense', async (t) => {
  const plain = [
    tcpSegment({ payload: 3000, size: 1000 }),
    gsoFrame(ethernet(ip4(tcp(4, bytes(3000)))), 1000, TCP4),
    gsoFrame(ethernet(ip6(tcp(6, bytes(3000)), true), [0x88, 0xa8, 0, 3, 0x81, 0, 0, 4]), 1000, TCP6),
    gsoFrame(ethernet(ip4(udp(4, bytes(3000)), [1, 1, 1, 0])), 1000, USO),
  ]
  for (const frame of plain) t.same(cut(frame), [])
  const inner = ethernet(ip4(tcp(4, bytes(3000))))
  const vxlan = (size: number, type = TCP4) => gsoFrame(ethernet(ip4(overUdp(inner, VXLAN, null))), size, type)
  t.same(cut(vxlan(0)), [])
  t.same(cut(vxlan(1000, 3)), [], 'UFO')
  for (const at of [6, 7, 10 + 14 + 28 + 8 + 14 + 2]) {
    const lying = vxlan(1000)
    lying.bytes[at]++
    t.same(cut(lying), [], `byte ${at}`)
  }
})

t.test('datagrams that a kernel before 6.2 has joined, and has no header for', async (t) => {
  const payload = bytes(3456)
  for (const version of [4, 6] as const) {
    const whole = ethernet(version === 4 ? ip4(udp(4, payload)) : ip6(udp(6, payload)), [0x81, 0, 0, 9])
    const segmenter = new Segmenter(false)
    assert.ok(segmenter.beginDatagrams(gsoFrame(whole, 0, 0), 1000, true))
    const seen = all(segmenter).map(({ bytes }) => tunnels.receive(bytes))
    t.same(
      seen.map(({ payload }) => payload.length),
      [1000, 1000, 1000, 456],
    )
    t.ok(Buffer.concat(seen.map(({ payload }) => payload)).equals(payload))
  }
  const tunnel = ethernet(ip4(overUdp(ethernet(ip4(udp(4, payload))), VXLAN, null)))
  t.notOk(new Segmenter(false).beginDatagrams(gsoFrame(tunnel, 0, 0), 1000, true), 'in a tunnel: nobody says where')
  t.notOk(new Segmenter(false).beginDatagrams(gsoFrame(ethernet(ip4(tcp(4, payload))), 0, 0), 1000, true))
  t.notOk(new Segmenter(false).beginDatagrams(gsoFrame(ethernet(ip4(udp(4, payload))), 0, 0), 0, true))
})
