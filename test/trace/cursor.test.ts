// The cursor on files that our writer does not make, in pieces of any size: what each block says, however it comes.

import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { TraceCursor } from '../../src/trace/cursor.js'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { openTrace } from '../../src/trace/source.js'
import fc from '../property.js'
import { Encoder, type Opt } from './encode.js'

/** A packet as it was given out, copied. */
interface Seen {
  readonly timeNs: bigint | null
  readonly hex: string
  readonly originalLength: number
  readonly flags: number
  readonly dropCount: number
  readonly comments: readonly string[]
  readonly interfaceId: number
}

function seen(cursor: TraceCursor): Seen {
  const { packet } = cursor
  return {
    timeNs: packet.timeNs,
    hex: Buffer.from(packet.bytes).toString('hex'),
    originalLength: packet.originalLength,
    flags: packet.flags,
    dropCount: packet.dropCount,
    comments: packet.comments,
    interfaceId: packet.interface.id,
  }
}

/** Reads `file` in pieces of `size` bytes; each piece is a copy, so that a view into another one shows. */
function read(file: Uint8Array, size = file.length, options = {}): { packets: Seen[]; kinds: string[] } {
  const cursor = new TraceCursor(options)
  const packets: Seen[] = []
  const kinds: string[] = []
  for (let at = 0; at < file.length; at += size) {
    cursor.push(file.slice(at, at + size))
    for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
      kinds.push(kind)
      if (kind === 'packet') packets.push(seen(cursor))
    }
  }
  cursor.end()
  return { packets, kinds }
}

const text = (value: string) => new TextEncoder().encode(value)

t.test('times of any resolution and start, in both byte orders, in pieces of any size', async () => {
  const packet = fc.record(
    { ticks: fc.bigInt(0n, (1n << 64n) - 1n), bytes: fc.uint8Array({ maxLength: 90 }), cut: fc.nat(2000) },
    { noNullPrototype: true },
  )
  const resolution = fc.oneof(
    fc.nat(20),
    fc.nat(40).map((power) => power | 0x80),
    fc.constantFrom(6, 9, 0x7f, 0xff),
  )
  fc.assert(
    fc.property(
      fc.boolean(),
      resolution,
      fc.bigInt(-(1n << 40n), 1n << 40n),
      fc.array(packet, { maxLength: 6 }),
      fc.integer({ min: 1, max: 300 }),
      (little, tsresol, offset, packets, size) => {
        const encoder = new Encoder(little)
        const options: Opt[] = [
          { code: 9, value: Uint8Array.of(tsresol) },
          { code: 14, value: encoder.i64(offset) },
        ]
        encoder.section().interface(options)
        for (const { ticks, bytes, cut } of packets) encoder.enhanced(0, ticks, bytes, bytes.length + cut)
        const perSecond = tsresol & 0x80 ? 1n << BigInt(tsresol & 0x7f) : 10n ** BigInt(tsresol)
        // Whole seconds have to be numbers; no clock needs more.
        fc.pre(packets.every(({ ticks }) => ticks / perSecond < 1n << 52n))
        const wanted = packets.map(({ ticks, bytes, cut }) => ({
          timeNs: offset * 1_000_000_000n + (ticks * 1_000_000_000n) / perSecond,
          hex: Buffer.from(bytes).toString('hex'),
          originalLength: bytes.length + cut,
        }))
        const got = read(encoder.take(), size).packets.map(({ timeNs, hex, originalLength }) => ({
          timeNs,
          hex,
          originalLength,
        }))
        return fc.stringify(got) === fc.stringify(wanted)
      },
    ),
    { numRuns: 1500 },
  )
})

t.test('every kind of block, two sections in different byte orders', async (t) => {
  const bytes = Uint8Array.of(1, 2, 3, 4, 5)
  const little = new Encoder(true)
  const big = new Encoder(false)
  const count = (encoder: Encoder, code: number, value: bigint): Opt => ({ code, value: encoder.i64(value) })
  const first = little
    .section([
      { code: 1, value: text('first') },
      { code: 3, value: text('an OS') },
    ])
    .block(0x0000000a, text('TLSKsecrets'))
    .interface(
      [
        { code: 2, value: text('eth0') },
        { code: 13, value: Uint8Array.of(4) },
      ],
      1,
      3,
    )
    .simple(bytes.subarray(0, 3), 5)
    .block(4, Buffer.alloc(4))
    .obsolete(0, 7, 1_500_000n, bytes, [{ code: 2, value: little.u32(0x21) }])
    .obsolete(0, 0xffff, 1_500_000n, bytes)
    .statistics(0, [count(little, 4, 12n), count(little, 5, 3n)])
    .block(0xbad, little.u32(32473))
    .block(0x40000bad, little.u32(32473))
    .block(9, text('__CURSOR=1\n'))
    .take()
  const second = big
    .section([], 2)
    .interface()
    .interface()
    .enhanced(1, 2_000_000n, bytes, 5, [
      { code: 1, value: text('one') },
      { code: 2988, value: Buffer.concat([big.u32(32473), text('ours')]) },
      { code: 1, value: Uint8Array.of(0xff, 0x41) },
      { code: 4, value: big.i64(9n) },
      { code: 2, value: big.u32(2) },
      { code: 0x8001, value: Uint8Array.of(1) },
    ])
    .take()
  for (const size of [1, 7, 4096]) {
    const { packets, kinds } = read(Buffer.concat([first, second]), size)
    t.same(
      kinds.join(' '),
      [
        'section other interface packet other packet packet statistics other other other',
        'section interface interface packet',
      ].join(' '),
    )
    t.match(packets, [
      { timeNs: null, hex: '010203', originalLength: 5, flags: 0, comments: [] },
      { timeNs: 1_500_000_000n, flags: 0x21, dropCount: 7 },
      { flags: 0, dropCount: -1 },
      { timeNs: 2_000_000_000n, flags: 2, dropCount: 9, interfaceId: 1, comments: ['one', '\ufffdA'] },
    ])
  }
  const cursor = new TraceCursor()
  cursor.push(first)
  const blocks = []
  for (let kind = cursor.next(); kind !== null; kind = cursor.next()) blocks.push(cursor.block)
  t.match(blocks[0], { comments: ['first'], application: null, littleEndian: true })
  t.match(blocks[2], { name: 'eth0', fcsLength: 4, snapLength: 3 })
  t.match(blocks[7], { kind: 'statistics', received: 12n, dropped: 3n, interface: { name: 'eth0' } })
  t.match(blocks[8], { kind: 'other', type: 0xbad })
  const other = new TraceCursor()
  other.push(second)
  for (let at = 0; at < 4; at++) other.next()
  t.match(
    other.packet.options.map(({ code, enterprise }) => [code, enterprise]),
    [
      [1, null],
      [2988, 32473],
      [1, null],
      [4, null],
      [2, null],
      [0x8001, null],
    ],
  )
  t.equal(Buffer.from(other.packet.options[1].value).toString(), 'ours')
  t.equal(other.packet.direction, 'outbound')
})

t.test('classic files: both orders, both resolutions, lengths that stand the other way round', async (t) => {
  const bytes = Uint8Array.of(9, 8, 7)
  const packets = [
    { seconds: 0xf0000000, fraction: 999_999, bytes },
    { seconds: 0xf0000001, fraction: 1_000_001, bytes: new Uint8Array(0) },
  ]
  for (const little of [true, false]) {
    const encoder = new Encoder(little)
    const micro = read(encoder.classic(packets, { cut: 4 }), 5)
    t.match(micro.packets, [
      { timeNs: 0xf0000000n * 1_000_000_000n + 999_999_000n, hex: '090807', originalLength: 7 },
      { timeNs: 0xf0000002n * 1_000_000_000n + 1000n, hex: '', originalLength: 4 },
    ])
    const nano = read(encoder.classic(packets, { magic: 0xa1b23c4d }), 1000)
    t.equal(nano.packets[0].timeNs, 0xf0000000n * 1_000_000_000n + 999_999n)
    for (const minor of [2, 3]) {
      const old = read(encoder.classic(packets, { minor, swapped: true, cut: 4 }))
      t.match(old.packets, [{ hex: '090807', originalLength: 7 }, { originalLength: 4 }], `version 2.${minor}`)
    }
    const empty = read(encoder.classic([]))
    t.same(empty.kinds, ['interface'])
    t.throws(() => read(encoder.classic(packets, { linkType: 113 })), {
      code: 'TRACE_UNSUPPORTED',
      message: /LINUX_SLL/,
    })
    t.equal(read(encoder.classic(packets, { linkType: 113 }), 99, { anyLinkType: true }).packets.length, 2)
  }
  // The fourth byte is how hard it was packed.
  for (const first of ['BZh1', 'BZh9'])
    t.throws(() => read(Buffer.from(`${first}1AY&SY`)), { code: 'TRACE_UNSUPPORTED', message: /bzip2/ })
  const withFcs = new TraceCursor()
  withFcs.push(new Encoder(true).classic([], { linkType: 0x24000001 }))
  t.equal(withFcs.next(), 'interface')
  t.match(withFcs.block, { fcsLength: 4, linkType: 1 })
})

t.test('an interface of another link type is refused with its first packet, by name', async (t) => {
  const file = new Encoder(true).section().interface([], 1).interface([], 276).enhanced(0, 0n, Uint8Array.of(1))
  const good = file.take()
  t.equal(read(good).packets.length, 1)
  const bad = Buffer.concat([good, file.enhanced(1, 0n, Uint8Array.of(1)).take()])
  t.throws(() => read(bad), { code: 'TRACE_UNSUPPORTED', message: /byte \d+ is of link type 276, LINUX_SLL2/ })
})

t.test('a file that ends early: all before is given out, and the place is told', async (t) => {
  const encoder = new Encoder(true).section().interface()
  for (let i = 0; i < 5; i++) encoder.enhanced(0, BigInt(i), new Uint8Array(60).fill(i))
  const file = encoder.take()
  const start = file.length - 5 * 92
  for (const cutoff of [file.length - 1, file.length - 91, start + 92, 20, 3, 0]) {
    const cursor = new TraceCursor()
    let packets = 0
    const act = () => {
      cursor.push(file.subarray(0, cutoff))
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) if (kind === 'packet') packets++
      cursor.end()
    }
    const whole = Math.max(Math.floor((cutoff - start) / 92), 0)
    if (cutoff === start + 92) t.doesNotThrow(act, 'the end of a block is a good end')
    else
      t.throws(act, {
        code: 'TRACE_INVALID',
        message: cutoff > 4 ? /ends inside a block \(at byte \d+\)/ : /at byte 0/,
      })
    t.equal(packets, whole)
  }
})

t.test('a long block in small pieces is not copied again with each', async (t) => {
  const encoder = new Encoder(true).section().block(0x80000001, new Uint8Array(15 * 1024 * 1024))
  const file = encoder
    .interface()
    .enhanced(0, 0n, Uint8Array.of(1, 2, 3))
    .take()
  t.equal(read(file, 1000).packets[0].hex, '010203')
  const claim = new Encoder(true).section().take()
  const huge = Buffer.concat([claim, Buffer.from('01000080fcffff7f00000000', 'hex')])
  t.throws(() => read(huge), { code: 'TRACE_INVALID', message: /claims a length of/ })
})

t.test('the fast way of writing and the one with options say the same', async (t) => {
  const packet = fc.record(
    {
      seconds: fc.nat(18_446_744_072),
      nanoseconds: fc.nat(999_999_999),
      bytes: fc.uint8Array({ maxLength: 100 }),
      cut: fc.nat(5),
      flags: fc.nat(0xffff),
      comment: fc.string({ unit: 'binary', maxLength: 30 }),
      dropCount: fc.nat(2 ** 40),
    },
    { noNullPrototype: true },
  )
  fc.assert(
    fc.property(fc.array(packet, { maxLength: 8 }), fc.integer({ min: 1, max: 200 }), (packets, size) => {
      const fast = new PcapngWriter()
      const slow = new PcapngWriter()
      fast.interface({ name: 'p' })
      slow.interface({ name: 'p' })
      for (const { seconds, nanoseconds, bytes, cut, flags, comment } of packets) {
        const room = Buffer.concat([Buffer.alloc(3), bytes, Buffer.alloc(3)])
        const originalLength = bytes.length + cut
        fast.frame(0, seconds, nanoseconds, room, 3, bytes.length, originalLength, flags, comment)
        const timeNs = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds)
        slow.packet(0, timeNs, bytes, { originalLength, flags, ...(comment === '' ? {} : { comment }) })
      }
      const file = fast.take()
      return Buffer.from(file).equals(slow.take()) && read(file, size).packets.length === packets.length
    }),
    { numRuns: 300 },
  )
  const writer = new PcapngWriter({
    comment: 'a',
    hardware: 'h',
    system: 's',
    options: [{ code: 0x8002, value: text('x') }],
  })
  writer.interface({ name: 'p', description: 'd', comment: 'c', filter: 'tcp', snapLength: 96 })
  const options = [{ code: 2989, enterprise: 32473, value: text('v') }]
  writer.packet(0, 1n, Uint8Array.of(1), { direction: 'outbound', flags: 0x100, dropCount: 3, packetId: 5n, options })
  writer.statistics(0, 2n, { received: 10, dropped: 3 })
  const before = writer.pending
  t.throws(() => writer.frame(0, 1, 1, text('x'), 0, 1, 1, 0, '\u20ac'.repeat(30_000)), { code: 'TRACE_INVALID' })
  t.throws(() => writer.frame(0, -1, 1, text('x'), 0, 1, 1), { code: 'TRACE_INVALID' })
  t.equal(writer.pending, before, 'what is refused leaves nothing behind')
  const cursor = new TraceCursor()
  cursor.push(writer.take())
  t.equal(cursor.next(), 'section')
  t.equal(cursor.next(), 'interface')
  t.match(cursor.block, { name: 'p', description: 'd', comments: ['c'], snapLength: 96 })
  t.equal(cursor.next(), 'packet')
  t.match(cursor.packet, { flags: 0x102, direction: 'outbound', dropCount: 3, packetId: 5n })
  t.match(cursor.packet.options.at(-1), { code: 2989, enterprise: 32473 })
  t.equal(cursor.next(), 'statistics')
  t.match(cursor.block, { received: 10n, dropped: 3n })
})

async function count(source: Readable | string): Promise<{ packets: number; error: SnapswitchError | null }> {
  let packets = 0
  try {
    for await (const cursor of openTrace(source)) {
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) if (kind === 'packet') packets++
    }
    return { packets, error: null }
  } catch (error) {
    if (error instanceof SnapswitchError) return { packets, error }
    throw error
  }
}

t.test('gzip: in pieces, several members, cut and damaged', async (t) => {
  const encoder = new Encoder(true).section().interface()
  for (let i = 0; i < 20_000; i++) encoder.enhanced(0, BigInt(i), Buffer.alloc(60, i))
  const file = encoder.take()
  const packed = gzipSync(file)
  const pieces = (bytes: Uint8Array, size: number) =>
    Readable.from(
      (function* () {
        for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
      })(),
    )
  t.match(await count(pieces(packed, 61)), { packets: 20_000, error: null })
  t.match(await count(pieces(Buffer.concat([packed, packed]), 1000)), { packets: 40_000, error: null })
  const cut = await count(pieces(packed.subarray(0, packed.length - 2000), 700))
  t.match(cut.error, { code: 'TRACE_INVALID', message: /ends inside a block/ })
  t.ok(cut.packets > 1000 && cut.packets < 20_000, `${cut.packets} of a file that was cut`)
  const bad = Buffer.from(packed)
  bad.fill(0xff, packed.length - 3000, packed.length - 2900)
  const damaged = await count(pieces(bad, 700))
  t.match(damaged.error, { code: 'TRACE_INVALID', message: /at byte \d+/ })
  t.ok(damaged.packets > 1000 && damaged.packets < 20_000, `${damaged.packets} of a damaged file`)
  t.match((await count(pieces(gzipSync(packed), 700))).error, { code: 'TRACE_UNSUPPORTED', message: /gzip twice/ })
  t.match(await count('/nonexistent/trace'), { packets: 0, error: { code: 'TRACE_UNREADABLE' } })
})
