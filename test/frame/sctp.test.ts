// Several packets of SCTP in one, cut: each is one that a strict receiver takes, no longer than those that were joined,
// with the same chunks in order; where there is an AUTH chunk, they are the very packets that were joined. And
// checksums that were left to be written.

import assert from 'node:assert/strict'
import t from 'tap'
import { crc32c } from '../../src/frame/crc32c.js'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { finishSctpChecksum, lacksSctpChecksum, SctpSegmenter } from '../../src/frame/sctp.js'
import fc from '../property.js'
import { ethernet, gsoFrame, ip4, ip6, overUdp, type Piece, sum, tcp } from './tunnels.js'

const [DATA, SACK, AUTH] = [0, 3, 15]
const COMMON = [0x13, 0x88, 0x13, 0x89, 1, 2, 3, 4, 0, 0, 0, 0]
const be16 = (value: number) => [value >> 8, value & 0xff]
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Bit by bit: the definition. */
function slowCrc(bytes: Uint8Array): number {
  let crc = -1
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0x82f63b78
  }
  return ~crc
}

/** With its padding. */
function chunk(type: number, length: number, fill: number): Uint8Array {
  const bytes = new Uint8Array((length + 3) & ~3)
  bytes.fill(fill, 4, length)
  bytes.set([type, 3, ...be16(length)])
  return bytes
}

const sctp = (chunks: readonly Uint8Array[]): Piece => ({
  bytes: Uint8Array.from([...COMMON, ...chunks.flatMap((bytes) => [...bytes])]),
  type: 132,
  transport: 0,
})

/** What sctp_packet_pack does: chunks until one does not fit; with `auth` in front of each packet. */
function pack(chunks: readonly Uint8Array[], room: number, auth: Uint8Array | null): Uint8Array[][] {
  const packets: Uint8Array[][] = []
  let left = Number.NEGATIVE_INFINITY
  for (const bytes of chunks) {
    if (bytes.length > left) {
      packets.push(auth === null ? [] : [auth])
      left = room - (auth?.length ?? 0)
    }
    packets.at(-1)!.push(bytes)
    left -= bytes.length
  }
  return packets
}

interface Options {
  readonly mtu?: number
  readonly packets?: number
  readonly inUdp?: boolean
}

function cut(whole: Piece, { mtu = 1500, packets = 0, inUdp = false }: Options = {}): Uint8Array[] | null {
  const segmenter = new SctpSegmenter()
  const frame = gsoFrame(whole, 0, 0, true)
  if (!segmenter.begin(frame, mtu, packets, inUdp)) return null
  const memory = new Uint8Array(70_000)
  const place = { bytes: memory, address: 1, view: viewOf(memory), length: memory.length }
  const made: Uint8Array[] = []
  const next = new Frame()
  for (let free = 0; segmenter.more; ) {
    const after = segmenter.next(next, place, free)
    if (after < 0) assert.ok(free > 0, 'one always fits into empty memory')
    else {
      assert.deepEqual([...memory.subarray(next.vnet, next.start)], new Array(VNET_HEADER_LENGTH).fill(0))
      assert.deepEqual([next.tagTpid, next.tagTci], [0x8100, 5])
      made.push(memory.slice(next.start, next.start + next.length))
    }
    free = Math.max(0, after)
  }
  return made
}

/** The chunks of a packet, which must be right from `ip` on; `udp`: it is in a datagram. */
function receive(packet: Uint8Array, ip: number, six: boolean, udp = false): { bytes: Uint8Array; id: number } {
  const words = viewOf(packet)
  let at = ip + (six ? 40 : 20)
  if (six) assert.equal(words.getUint16(ip + 4), packet.length - at)
  else {
    assert.equal(words.getUint16(ip + 2), packet.length - ip)
    assert.equal(sum(packet.subarray(ip, at)), 0xffff)
  }
  if (udp) {
    const addresses = six ? packet.subarray(ip + 8, ip + 40) : packet.subarray(ip + 12, ip + 20)
    assert.equal(words.getUint16(at + 4), packet.length - at)
    const length = packet.length - at
    if (words.getUint16(at + 6) !== 0)
      assert.equal(sum(addresses, [0, 17], be16(length), packet.subarray(at)), 0xffff, 'UDP checksum')
    at += 8
  }
  const copy = packet.slice(at)
  viewOf(copy).setUint32(8, 0)
  assert.equal(words.getInt32(at + 8, true), slowCrc(copy), 'CRC32c')
  assert.deepEqual([...copy.subarray(0, 12)], COMMON)
  return { bytes: copy.subarray(12), id: six ? 0 : words.getUint16(ip + 4) }
}

const joined = (packets: readonly (readonly Uint8Array[])[]) =>
  packets.map((chunks) => Buffer.concat(chunks).toString('hex'))
const contents = (packets: readonly Uint8Array[], ip = 14, six = false, udp = false) =>
  packets.map((packet) => Buffer.from(receive(packet, ip, six, udp).bytes).toString('hex'))

t.test('CRC32c: known values', async (t) => {
  const of = (bytes: Uint8Array) => crc32c(viewOf(bytes), 0, bytes.length) >>> 0
  t.equal(of(new TextEncoder().encode('123456789')), 0xe3069283)
  t.equal(of(new Uint8Array(32)), 0x8a9136aa, 'RFC 3720, B.4')
  t.equal(of(new Uint8Array(32).fill(0xff)), 0x62a8ab43)
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 100 }),
      (bytes) => crc32c(viewOf(bytes), 0, bytes.length) === slowCrc(bytes),
    ),
  )
})

const lengths = fc.array(fc.oneof(fc.integer({ min: 5, max: 60 }), fc.integer({ min: 1300, max: 1448 })), {
  minLength: 1,
  maxLength: 60,
})

t.test('packets of one association', async () => {
  fc.assert(
    fc.property(lengths, fc.integer({ min: 1452, max: 1468 }), fc.boolean(), (lengths, room, six) => {
      const chunks = lengths.map((length, i) => chunk(i === 0 ? SACK : DATA, length, i + 1))
      const packets = pack(chunks, room, null)
      const piece = sctp(chunks)
      const whole = ethernet(six ? ip6(piece) : ip4(piece))
      const made = cut(whole, { mtu: 1600, packets: packets.length })!
      const seen = contents(made, 14, six)
      assert.equal(seen.join(''), joined(packets).join(''), 'all chunks, in order')
      assert.equal(made.length, packets.length)
      const longest = Math.max(...joined(packets).map((hex) => hex.length))
      for (const hex of seen) assert.ok(hex.length <= longest)
      if (!six)
        for (const [i, packet] of made.entries()) assert.equal(receive(packet, 14, false).id, (0xfff0 + i) & 0xffff)
    }),
  )
})

t.test('with AUTH: the packets that were joined', async () => {
  const auth = chunk(AUTH, 28, 7)
  fc.assert(
    fc.property(lengths, fc.boolean(), (lengths, early) => {
      const packets = pack(
        lengths.map((length, i) => chunk(DATA, length, i + 1)),
        1452 + auth.length,
        auth,
      )
      // What needs no authentication may stand in front of the first.
      if (early) packets[0]!.unshift(chunk(SACK, 16, 9))
      const made = cut(ethernet(ip4(sctp(packets.flat()))), { packets: 1 })!
      assert.deepEqual(contents(made), joined(packets))
    }),
  )
})

t.test('how many they are is not known, or wrong', async (t) => {
  const chunks = Array.from({ length: 40 }, (_, i) => chunk(DATA, 700, i))
  const whole = ethernet(ip4(sctp(chunks)))
  for (const packets of [0, 1]) t.equal(cut(whole, { packets })!.length, 20, 'as few as the MTU allows')
  t.equal(cut(whole, { packets: 1000 })!.length, 40)
  t.equal(cut(whole, { mtu: 100 })!.length, 40, 'a chunk is never cut')
})

t.test('in VLANs, behind IPv6 options, in UDP', async (t) => {
  const chunks = Array.from({ length: 9 }, (_, i) => chunk(DATA, 1000 + i, i))
  const tags = [0x88, 0xa8, 0, 3, 0x81, 0, 0, 4]
  t.equal(contents(cut(ethernet(ip4(sctp(chunks)), tags))!, 22).join(''), joined([chunks])[0])
  t.equal(cut(ethernet(ip6(sctp(chunks), true)))!.length, 9)
  for (const version of [4, 6] as const) {
    for (const checksum of [version, null]) {
      const datagram = overUdp(sctp(chunks), [], checksum)
      const whole = ethernet(version === 4 ? ip4(datagram) : ip6(datagram))
      t.equal(cut(whole), null, 'a datagram is taken for one')
      const made = cut(whole, { inUdp: true })!
      t.equal(contents(made, 14, version === 6, true).join(''), joined([chunks])[0])
    }
  }
})

t.test('what is none', async (t) => {
  t.equal(cut(ethernet(ip4(tcp(4, new Uint8Array(3000))))), null)
  const data = chunk(DATA, 1000, 1)
  for (const length of [0, 3, 1100]) {
    const broken = Uint8Array.from(data)
    broken.set(be16(length), 2)
    t.equal(cut(ethernet(ip4(sctp([data, broken])))), null, `a chunk of ${length} bytes`)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), fc.boolean(), (bytes, six, inUdp) => {
      const piece = { bytes, type: inUdp ? 17 : 132, transport: 0 }
      cut(ethernet(six ? ip6(piece) : ip4(piece)), { inUdp })
    }),
  )
})

t.test('a checksum that was left to be written', async (t) => {
  const whole = ethernet(ip4(sctp([chunk(DATA, 77, 3)])))
  const frame = gsoFrame(whole, 0, 0)
  t.notOk(lacksSctpChecksum(frame), 'TCP’s')
  frame.view.setUint16(8, 8, true)
  t.ok(lacksSctpChecksum(frame))
  finishSctpChecksum(frame)
  t.same([...frame.bytes.subarray(0, VNET_HEADER_LENGTH)], new Array(VNET_HEADER_LENGTH).fill(0))
  receive(frame.bytes.slice(VNET_HEADER_LENGTH), 14, false)
  const short = gsoFrame(whole, 0, 0)
  short.view.setUint16(8, 8, true)
  short.view.setUint16(6, whole.bytes.length - 8, true)
  const before = [...short.bytes]
  finishSctpChecksum(short)
  t.same([...short.bytes], before, 'it has no room: nothing is touched')
})
