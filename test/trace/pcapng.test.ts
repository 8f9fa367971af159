// The pcapng writer against the reader, and the reader against everything else: it must refuse with TRACE_INVALID,
// never crash, never hang, whatever bytes it gets.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Block } from '../../src/trace/pcapng.js'
import { readPcapng } from '../../src/trace/pcapng-reader.js'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { decodeRecord, encodeRecord } from '../../src/trace/records.js'
import fc from '../property.js'

const frame = fc.uint8Array({ minLength: 0, maxLength: 200 })
const text = fc.string({ unit: 'binary', maxLength: 40 })
const packet = fc.record(
  {
    interface: fc.nat(2),
    timeNs: fc.bigInt(0n, (1n << 64n) - 1n),
    bytes: frame,
    direction: fc.constantFrom('inbound' as const, 'outbound' as const, 'unknown' as const),
    comment: fc.option(text, { nil: null }),
    cut: fc.nat(3000),
  },
  { noNullPrototype: true },
)

function blocksOf(bytes: Uint8Array): Block[] {
  return [...readPcapng(bytes)]
}

/** Reads as far as it goes; anything thrown but TRACE_INVALID is a defect. Returns whether the bytes were accepted. */
function accepts(bytes: Uint8Array): boolean {
  let count = 0
  try {
    for (const _ of readPcapng(bytes)) {
      count += 1
      if (count > bytes.length / 12) throw new Error('more blocks than fit the file')
    }
    return true
  } catch (thrown) {
    if (thrown instanceof SnapswitchError && thrown.code === 'TRACE_INVALID') {
      if (!/at byte \d+/.test(thrown.message) || thrown.action === '') throw new Error('no offset or no action')
      return false
    }
    throw thrown
  }
}

t.test('what is written is read back the same', async (t) => {
  fc.assert(
    fc.property(
      fc.array(packet, { maxLength: 12 }),
      fc.array(text, { minLength: 3, maxLength: 3 }),
      (packets, names) => {
        const writer = new PcapngWriter({ application: 'test', comment: 'a title' })
        const parts = [writer.take()]
        for (const name of names) writer.interface({ name, description: `about ${name}` })
        for (const one of packets) {
          writer.packet(one.interface, one.timeNs, one.bytes, {
            direction: one.direction,
            originalLength: one.bytes.length + one.cut,
            ...(one.comment === null ? {} : { comment: one.comment }),
          })
          parts.push(writer.take())
        }
        parts.push(writer.take())
        const [section, first, second, third, ...rest] = blocksOf(Buffer.concat(parts))
        t.match(section, { kind: 'section', littleEndian: true, application: 'test', comments: ['a title'] })
        const interfaces = [first, second, third].map((block) => (block.kind === 'interface' ? block : t.bailout()))
        const read = {
          names: interfaces.map((block) => block?.name),
          about: interfaces.map((block) => block?.description),
          packets: rest.map((block) => {
            if (block.kind !== 'packet') throw new Error(`unexpected ${block.kind}`)
            return {
              interface: block.interface.id,
              timeNs: block.timeNs,
              bytes: new Uint8Array(block.bytes),
              direction: block.direction,
              comment: block.comments[0] ?? null,
              cut: block.originalLength - block.bytes.length,
            }
          }),
        }
        return fc.stringify(read) === fc.stringify({ names, about: names.map((name) => `about ${name}`), packets })
      },
    ),
    { numRuns: 300 },
  )
})

t.test('our own records come back, and those of others are not taken for ours', async (t) => {
  fc.assert(
    fc.property(fc.nat(0xffff), frame, (kind, payload) => {
      const writer = new PcapngWriter()
      writer.local(encodeRecord({ kind, payload }))
      const block = blocksOf(writer.take())[1]
      if (block.kind !== 'other') return false
      const record = decodeRecord(block)
      return record !== null && record.kind === kind && Buffer.from(payload).equals(record.payload)
    }),
  )
  const writer = new PcapngWriter()
  writer.local(new TextEncoder().encode('somebody else made this block'))
  const ours = encodeRecord({ kind: 7, payload: new Uint8Array(9) })
  writer.local(ours.subarray(0, 24))
  writer.local(ours)
  const [, foreign, short, whole] = blocksOf(writer.take()).map((block) => block.kind === 'other' && block)
  t.equal(foreign && decodeRecord(foreign), null)
  t.equal(short && decodeRecord(short), null)
  t.match(whole && decodeRecord(whole), { kind: 7 })
  t.equal(whole && decodeRecord({ ...whole, type: 0xbad }), null)
})

t.test('a foreign big-endian trace in microseconds, with a simple packet and an unknown block', async (t) => {
  const words = (...values: number[]) => {
    const bytes = Buffer.alloc(values.length * 4)
    values.forEach((value, index) => {
      bytes.writeUInt32BE(value >>> 0, index * 4)
    })
    return bytes
  }
  const bytes = Buffer.concat([
    words(0x0a0d0d0a, 28, 0x1a2b3c4d, 0x00010000, 0xffffffff, 0xffffffff, 28),
    // LINKTYPE_ETHERNET, snap length 4; if_tsoffset = 10 s
    words(1, 36, 0x00010000, 4, (14 << 16) | 8, 0, 10, 0, 36),
    words(6, 36, 0, 0, 1_500_000, 3, 99, 0xaabbcc00, 36),
    words(3, 20, 60, 0x01020304, 20),
    words(0x80000001, 16, 0xdeadbeef, 16),
  ])
  const [section, , enhanced, simple, other] = blocksOf(bytes)
  t.match(section, { littleEndian: false })
  t.match(enhanced, { kind: 'packet', timeNs: 11_500_000_000n, originalLength: 99 })
  t.same(enhanced.kind === 'packet' && [...enhanced.bytes], [0xaa, 0xbb, 0xcc])
  t.match(simple, { kind: 'packet', timeNs: null, originalLength: 60 })
  t.same(simple.kind === 'packet' && [...simple.bytes], [1, 2, 3, 4])
  t.match(other, { kind: 'other', offset: bytes.length - 16, type: 0x80000001 })
  t.same(other.kind === 'other' && [...other.content], [0xde, 0xad, 0xbe, 0xef])
})

t.test('a time resolution of a power of two', async (t) => {
  const writer = new PcapngWriter()
  writer.interface({ name: 'p' })
  writer.packet(0, 3n << 9n, new Uint8Array(4))
  const bytes = writer.take()
  const at = Buffer.from(bytes).indexOf(Buffer.from([9, 0, 1, 0, 9]))
  bytes[at + 4] = 0x80 | 10
  const block = blocksOf(bytes)[2]
  t.equal(block.kind === 'packet' && block.timeNs, 1_500_000_000n, '1536 ticks of 1/1024 s')
})

t.test('any bytes at all: TRACE_INVALID or blocks, never anything else', async (t) => {
  let refused = 0
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      if (!accepts(bytes)) refused += 1
    }),
    { numRuns: 2000 },
  )
  t.ok(refused > 1900, 'random bytes are hardly ever a trace')
})

t.test('a good trace with bytes changed, cut or doubled', async (t) => {
  const writer = new PcapngWriter({ comment: 'to be damaged' })
  writer.interface({ name: 'vm1', description: 'vm=one' })
  writer.interface({ name: 'vm2' })
  for (let index = 0; index < 4; index += 1) {
    writer.packet(index % 2, BigInt(index), new Uint8Array(17 * index).fill(index), { comment: `number ${index}` })
  }
  writer.local(encodeRecord({ kind: 1, payload: new Uint8Array(5) }))
  const good = writer.take()
  t.ok(accepts(good))
  const outcomes = { accepted: 0, refused: 0 }
  const change = fc.record({ at: fc.nat(good.length - 1), to: fc.nat(255) })
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), fc.nat(good.length), (changes, length) => {
      const bad = good.slice(0, length)
      for (const { at, to } of changes) if (at < length) bad[at] = to
      outcomes[accepts(bad) ? 'accepted' : 'refused'] += 1
      const whole = good.slice()
      for (const { at, to } of changes) whole[at] = to
      outcomes[accepts(whole) ? 'accepted' : 'refused'] += 1
    }),
    { numRuns: 3000 },
  )
  t.ok(outcomes.refused > 1000 && outcomes.accepted > 100, `both happen: ${JSON.stringify(outcomes)}`)
  for (let length = 0; length < good.length; length += 1) {
    if (accepts(good.slice(0, length))) {
      t.ok(length > 0 && blocksOf(good.slice(0, length)).length > 0, `a cut at ${length} falls between blocks`)
    }
  }
})

t.test('a view into a larger buffer reads like a buffer of its own', async (t) => {
  const writer = new PcapngWriter()
  writer.interface({ name: 'p' })
  writer.packet(0, 5n, new Uint8Array([1, 2, 3]))
  const bytes = writer.take()
  const larger = new Uint8Array(bytes.length + 20).fill(0xee)
  larger.set(bytes, 7)
  const block = blocksOf(larger.subarray(7, 7 + bytes.length))[2]
  t.same(block.kind === 'packet' && [...block.bytes], [1, 2, 3])
})

t.test('misuse of the writer is refused and leaves the trace whole', async (t) => {
  const writer = new PcapngWriter()
  writer.interface({ name: 'p' })
  const refused = { code: 'TRACE_INVALID' }
  t.throws(() => writer.packet(1, 0n, new Uint8Array(1)), refused)
  t.throws(() => writer.packet(0, -1n, new Uint8Array(1)), refused)
  t.throws(() => writer.packet(0, 1n << 64n, new Uint8Array(1)), refused)
  t.throws(() => writer.packet(0, 0n, new Uint8Array(262_145)), refused)
  t.throws(() => writer.packet(0, 0n, new Uint8Array(9), { originalLength: 8 }), refused)
  t.throws(() => writer.packet(0, 0n, new Uint8Array(1), { comment: 'x'.repeat(65_536) }), refused)
  t.throws(() => writer.local(new Uint8Array(8 * 1024 * 1024 + 1)), refused)
  t.equal(blocksOf(writer.take()).length, 2)
})
