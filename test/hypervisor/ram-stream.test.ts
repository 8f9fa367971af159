// Pages of memory, counted in streams that are made up byte by byte, cut anywhere, and broken. A real QEMU's are in
// sent-ahead.test.ts.

import t from 'tap'
import { RamStream } from '../../src/hypervisor/shared/ram-stream.js'

const u8 = (value: number) => Buffer.of(value)
const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const u64 = (value: number) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}
const name = (text: string) => Buffer.concat([u8(text.length), Buffer.from(text)])

const head = Buffer.concat([u32(0x5145564d), u32(3)])
const configuration = Buffer.concat([u8(7), u32(6), Buffer.from('pc-7.2')])
const footer = Buffer.concat([u8(0x7e), u32(2)])
const endOfRecords = Buffer.concat([u64(0x10), footer])
const start = (of: string) => Buffer.concat([u8(1), u32(2), name(of), u32(0), u32(4)])
/** 5 pages of memory, and 3 of ROM. */
const sizes = Buffer.concat([u64(8 * 4096 + 0x04), name('pc.ram'), u64(5 * 4096), name('/rom@etc'), u64(3 * 4096)])
const part = Buffer.concat([u8(2), u32(2)])
const zero = (page: number, block?: string) =>
  Buffer.concat([
    u64(page * 4096 + 0x02 + (block === undefined ? 0x20 : 0)),
    block === undefined ? u8(0) : Buffer.concat([name(block), u8(0)]),
  ])
const full = (page: number, block?: string) =>
  Buffer.concat([
    u64(page * 4096 + 0x08 + (block === undefined ? 0x20 : 0)),
    ...(block === undefined ? [] : [name(block)]),
    Buffer.alloc(4096, 0x7e),
  ])

const beginning = Buffer.concat([head, configuration, start('ram'), sizes, endOfRecords])
const firstPart = Buffer.concat([part, full(0, 'pc.ram'), zero(1), full(2), endOfRecords])
const secondPart = Buffer.concat([
  part,
  zero(3, 'pc.ram'),
  zero(4),
  full(0, '/rom@etc'),
  u64(0x200),
  zero(1),
  zero(2),
  endOfRecords,
])
const devices = Buffer.concat([u8(4), u32(7), name('timer'), Buffer.alloc(100, 0xff)])
const whole = Buffer.concat([beginning, firstPart, secondPart, devices])

function count(stream: Buffer, piece = stream.length): RamStream {
  const ram = new RamStream()
  for (let at = 0; at < stream.length; at += piece) ram.feed(stream.subarray(at, at + piece))
  return ram
}

t.test('pages are counted as they go by', async (t) => {
  t.match(count(head), { total: 0, pages: 0, isLost: false })
  t.match(count(beginning), { total: 8, pages: 0, isLost: false })
  t.match(count(Buffer.concat([beginning, firstPart])), { total: 8, pages: 3, isLost: false })
  t.match(count(whole), { total: 8, pages: 8, isLost: false })
})

t.test('wherever the stream is cut', async (t) => {
  for (const piece of [1, 2, 3, 7, 8, 9, 100, 4095, 4096, 4105])
    t.match(count(whole, piece), { total: 8, pages: 8, isLost: false }, `pieces of ${piece}`)
})

t.test('the second pass is another matter', async (t) => {
  const one = Buffer.concat([beginning, firstPart, secondPart])
  t.match(count(Buffer.concat([one, firstPart])), { pages: 8, isLost: true }, 'a block that it had left')
  const again = Buffer.concat([part, zero(1, '/rom@etc'), endOfRecords])
  t.match(count(Buffer.concat([one, again])), { pages: 8, isLost: true }, 'a page that was there')
  const later = Buffer.concat([beginning, part, zero(0, 'pc.ram'), endOfRecords, part, zero(3, 'pc.ram'), endOfRecords])
  t.match(count(later), { pages: 2, isLost: false }, 'the block is named again in each part')
})

t.test('what it does not know', async (t) => {
  const unknown: Readonly<Record<string, Buffer>> = {
    'no stream of QEMU’s': Buffer.from('LibvirtQemudSave'),
    'another version of it': Buffer.concat([u32(0x5145564d), u32(2)]),
    'a section of something else': Buffer.concat([head, configuration, start('dirty-bitmap')]),
    'two that are sent while the guest runs': Buffer.concat([beginning, start('vfio')]),
    'a part of another section': Buffer.concat([beginning, u8(2), u32(3)]),
    'devices before any memory': Buffer.concat([head, configuration, devices]),
    'what belongs to the configuration': Buffer.concat([head, configuration, u8(5), name('configuration/uuid')]),
    'blocks that are larger than all memory': Buffer.concat([
      head,
      start('ram'),
      u64(4096 + 0x04),
      name('pc.ram'),
      u64(8192),
    ]),
    'compressed pages': Buffer.concat([beginning, part, u64(0x40), name('pc.ram')]),
    'pages of another size': Buffer.concat([beginning, part, u64(0x08), name('pc.ram'), Buffer.alloc(65536, 0xff)]),
  }
  for (const [what, stream] of Object.entries(unknown)) {
    t.equal(count(stream).isLost, true, what)
    t.equal(count(stream, 1).isLost, true, `${what}, byte by byte`)
  }
})
