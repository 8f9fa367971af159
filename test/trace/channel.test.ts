// The channel-state file: what goes in comes out, other tools open it, and a doubtful file is refused whole.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { type ChannelFrame, inlineVlanTag, readChannel, writeChannel } from '../../src/trace/channel.js'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { encodeRecord } from '../../src/trace/records.js'
import { patience } from '../patience.js'
import fc from '../property.js'
import { pcapParserSees } from './judges.js'

const u16 = fc.nat(0xffff)
const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,20}$/)
const channelFrame: fc.Arbitrary<ChannelFrame> = fc.record(
  {
    port: name,
    vm: name,
    color: fc.nat(0xffffffff),
    verdict: fc.constantFrom('in-transit' as const, 'residue' as const),
    timeNs: fc.bigInt(0n, (1n << 64n) - 1n),
    vnetHeader: fc.uint8Array({ minLength: 10, maxLength: 10 }),
    vlanTag: fc.option(fc.record({ tpid: fc.constantFrom(0x8100, 0x88a8), tci: u16 }, { noNullPrototype: true }), {
      nil: null,
    }),
    bytes: fc.uint8Array({ minLength: 12, maxLength: 120 }),
  },
  { noNullPrototype: true },
)

function sample(): ChannelFrame[] {
  const bytes = (length: number) => {
    const filled = new Uint8Array(length).map((_, index) => index)
    filled.set([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb6])
    return filled
  }
  const one = { vm: 'one', color: 3, verdict: 'in-transit', vlanTag: null, vnetHeader: new Uint8Array(10) } as const
  const at = 1_700_000_000_123_456_000n
  return [
    { ...one, port: 'tap-one', timeNs: at, bytes: bytes(60) },
    { ...one, port: 'tap-two', vm: 'two', timeNs: at + 1000n, verdict: 'residue', bytes: bytes(1514) },
    {
      ...one,
      port: 'tap-one',
      timeNs: at + 2000n,
      bytes: bytes(65_550),
      vnetHeader: new Uint8Array([1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0]),
    },
    { ...one, port: 'tap-one', timeNs: at + 3000n, vlanTag: { tpid: 0x88a8, tci: 0x2064 }, bytes: bytes(100) },
  ]
}

t.test('what is written is read back the same, tags in their place on the wire', async () => {
  fc.assert(
    fc.property(fc.array(channelFrame, { maxLength: 10 }), (frames) => {
      const read = readChannel(writeChannel(frames))
      const again = readChannel(writeChannel(read))
      const wanted = fc.stringify(frames.map(inlineVlanTag))
      return fc.stringify(read.map(plain)) === wanted && fc.stringify(again.map(plain)) === wanted
    }),
    { numRuns: 500 },
  )
})

t.test('a tag moves checksum start, and header length only when the frame is GSO', async (t) => {
  const frame = sample()[3]
  const tagged = (header: number[]) => [...inlineVlanTag({ ...frame, vnetHeader: new Uint8Array(header) }).vnetHeader]
  t.same(tagged([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
  t.same(tagged([1, 0, 54, 0, 0, 0, 254, 0, 16, 0]), [1, 0, 54, 0, 0, 0, 2, 1, 16, 0])
  t.same(tagged([1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]), [1, 1, 58, 0, 0xa8, 5, 38, 0, 16, 0])
  t.same(
    [...inlineVlanTag(frame).bytes.subarray(6, 20)],
    [0x52, 0x54, 0, 0, 0, 1, 0x88, 0xa8, 0x20, 0x64, 0x88, 0xb6, 14, 15],
  )
})

t.test('tshark and pcap-parser see the same frames as we do', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-trace-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'channel.pcapng')
  const frames = sample()
  writeFileSync(file, writeChannel(frames))
  const fields = ['frame.interface_name', 'frame.interface_description', 'frame.len', 'frame.cap_len', 'frame.comment']
  const run = (program: string, args: string[]) =>
    execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: patience(60_000) })
  const rows = run('tshark', [
    '-n',
    ...['-r', file, '-T', 'fields', '-E', 'separator=|', '-e', 'frame.time_epoch'],
    ...fields.flatMap((field) => ['-e', field]),
  ])
  t.same(
    rows.trimEnd().split('\n'),
    [
      '1700000000.123456000|tap-one|vm=one|60|60|snapswitch color=3 verdict=in-transit vnet=00000000000000000000',
      '1700000000.123457000|tap-two|vm=two|1514|1514|snapswitch color=3 verdict=residue vnet=00000000000000000000',
      '1700000000.123458000|tap-one|vm=one|65550|65550|snapswitch color=3 verdict=in-transit vnet=01013600a80522001000',
      '1700000000.123459000|tap-one|vm=one|104|104|snapswitch color=3 verdict=in-transit vnet=00000000000000000000',
    ],
    'interface names, lengths and comments in tshark',
  )
  t.match(run('capinfos', [file]), /Number of interfaces in file:\s+2\n/, 'capinfos reads the whole file')

  const classic = join(directory, 'channel.pcap')
  run('editcap', ['-F', 'pcap', file, classic])
  const seen = await pcapParserSees(classic)
  t.same(
    seen.map(({ timeUs, hex }) => ({ timeUs, hex })),
    frames.map(inlineVlanTag).map((frame) => ({ timeUs: frame.timeNs / 1000n, hex: hex(frame.bytes) })),
    'an independent reader of the classic format finds the same bytes and times',
  )
})

t.test('a file that is not exactly ours is refused', async (t) => {
  const good = writeChannel(sample())
  const refused = { code: 'TRACE_INVALID', message: /at byte \d+/ }
  const ours = 'snapswitch channel state, version 1'
  const end = (count: number) => encodeRecord({ kind: 1, payload: new Uint8Array([count, 0, 0, 0]) })
  const made = (build: (writer: PcapngWriter) => void, comment = ours) => {
    const writer = new PcapngWriter({ comment })
    build(writer)
    return writer.take()
  }
  const withComment = (comment: string) =>
    made((writer) => {
      writer.interface({ name: 'tap-one', description: 'vm=one' })
      writer.packet(0, 0n, new Uint8Array(60), { comment })
      writer.local(end(1))
    })
  const fine = 'snapswitch color=3 verdict=in-transit vnet=00000000000000000000'
  t.equal(readChannel(withComment(fine)).length, 1)
  for (const comment of [
    '',
    'lunch',
    ` ${fine}`,
    `${fine}\n`,
    fine.replace('3', '-3'),
    fine.replace('3', '03'),
    fine.replace('3', '4294967296'),
    fine.replace('in-transit', 'lost'),
    fine.slice(0, -1),
    `${fine}00`,
    fine.replace('vnet=00', 'vnet=0G'),
  ]) {
    t.throws(() => readChannel(withComment(comment)), refused, `comment “${comment}”`)
  }
  const cases: Record<string, Uint8Array> = {
    empty: new Uint8Array(),
    'another title': made((writer) => writer.local(end(0)), 'holiday'),
    'no end': made(() => {}),
    'another count': made((writer) => writer.local(end(1))),
    'a second end': made((writer) => {
      writer.local(end(0))
      writer.local(end(0))
    }),
    'a foreign block': made((writer) => writer.local(new Uint8Array(32))),
    'a port that is a path': made((writer) => {
      writer.interface({ name: '../tap', description: 'vm=one' })
      writer.packet(0, 0n, new Uint8Array(60), { comment: fine })
      writer.local(end(1))
    }),
    'no machine': made((writer) => {
      writer.interface({ name: 'tap' })
      writer.packet(0, 0n, new Uint8Array(60), { comment: fine })
      writer.local(end(1))
    }),
    'a frame cut short': made((writer) => {
      writer.interface({ name: 'tap', description: 'vm=one' })
      writer.packet(0, 0n, new Uint8Array(60), { comment: fine, originalLength: 61 })
      writer.local(end(1))
    }),
    'two files in one': Buffer.concat([good, good]),
  }
  for (const [what, bytes] of Object.entries(cases)) t.throws(() => readChannel(bytes), refused, what)
  for (let length = 0; length < good.length; length += length < 400 ? 1 : 997) {
    t.throws(() => readChannel(good.slice(0, length)), refused)
  }
})

t.test('frames that no switch can have recorded are not written', async (t) => {
  const refused = { code: 'TRACE_INVALID' }
  const [frame] = sample()
  t.throws(() => writeChannel([{ ...frame, port: 'a/b' }]), refused)
  t.throws(() => writeChannel([{ ...frame, vm: '' }]), refused)
  t.throws(() => writeChannel([{ ...frame, color: 2 ** 32 }]), refused)
  t.throws(() => writeChannel([{ ...frame, color: 0.5 }]), refused)
  t.throws(() => writeChannel([{ ...frame, vnetHeader: new Uint8Array(12) }]), refused)
  t.throws(() => writeChannel([{ ...frame, vlanTag: { tpid: 0x8100, tci: 1 }, bytes: new Uint8Array(11) }]), refused)
})

/** Plain arrays of their own, so that views compare equal. */
function plain(frame: ChannelFrame): ChannelFrame {
  return { ...frame, bytes: new Uint8Array(frame.bytes), vnetHeader: new Uint8Array(frame.vnetHeader) }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
