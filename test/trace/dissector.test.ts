// The Wireshark dissector in packaging/: tshark says of our frames what their encoders were given.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { appendAgreement, encodeAgreement } from '../../src/frame/agreement.js'
import { CarrierWriter, encodeLocation } from '../../src/frame/carrier.js'
import { colorVid } from '../../src/frame/color-tag.js'
import { type ControlMessage, ControlType, encodeControl } from '../../src/frame/control.js'
import { Frame } from '../../src/frame/frame.js'
import { encodeSealed } from '../../src/frame/sealed-control.js'
import { writeChannel } from '../../src/trace/channel.js'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { encodeRecord } from '../../src/trace/records.js'
import { repositoryRoot } from '../lab/repository.js'
import { run } from './judges.js'

const directory = mkdtempSync(join(tmpdir(), 'ssw-lua-'))
t.teardown(() => rmSync(directory, { recursive: true }))
const script = join(repositoryRoot(), 'packaging', 'wireshark', 'snapswitch.lua')
const to = Uint8Array.of(2, 0, 0, 0, 0, 1)
const from = Uint8Array.of(2, 0, 0, 0, 0, 2)
/** An ARP request. */
const arp = Buffer.from(
  `ffffffffffff0200000000030806${'0001080006040001'}020000000003${'0a000001'}000000000000${'0a000002'}`,
  'hex',
)

const message: ControlMessage = {
  type: ControlType.MARKER,
  bootId: '0123456789abcdef',
  network: 'lab0',
  host: 'alpha',
  number: 7,
  heard: { bootId: 'fedcba9876543210', number: 8 },
  accepts: 1,
  sends: 2,
  takes: false,
  epoch: 42,
  count: 1234,
}

function tshark(file: string, fields: readonly string[], more: readonly string[] = []): string[][] {
  const wanted = fields.flatMap((field) => ['-e', field])
  const args = ['-X', `lua_script:${script}`, ...more, '-n', '-r', file, '-T', 'fields', '-E', 'separator=|', ...wanted]
  const lines = run('tshark', args).toString().split('\n').slice(0, -1)
  return lines.map((line) => line.split('|'))
}

function traceOf(frames: readonly { readonly bytes: Uint8Array; readonly comment?: string }[], name: string): string {
  const writer = new PcapngWriter()
  writer.interface({ name: 'trunk' })
  for (const { bytes, comment } of frames) {
    writer.frame(0, 1_700_000_000, 5, bytes, 0, bytes.length, bytes.length, 1, comment)
  }
  const file = join(directory, name)
  writeFileSync(file, writer.take())
  return file
}

t.test('control frames, plain and sealed, and agreements', async (t) => {
  const key = new Uint8Array(32).fill(1)
  const hello = { ...message, type: ControlType.HELLO, takes: true }
  const sealed = { message: hello, sequence: 99, heard: { bootId: 'fedcba9876543210', sequence: 98 } }
  const agreement = encodeAgreement({
    heard: '00000000000000aa',
    carries: true,
    version: 3,
    held: 4,
    read: 5,
    readsFrom: 6,
    lowest: -1,
    refused: [true],
    claims: [0x020000000009, 0x02000000000a],
  })
  const agreed = { ...message, type: ControlType.AGREEMENT }
  const sealedAgreed = encodeSealed({ ...sealed, message: agreed }, key, to, from)
  const file = traceOf(
    [
      { bytes: encodeControl(message, to, from) },
      { bytes: encodeSealed(sealed, key, to, from) },
      { bytes: appendAgreement(encodeControl(agreed, to, from), agreement, null) },
      { bytes: appendAgreement(sealedAgreed, agreement, key) },
      { bytes: encodeLocation(0x020000000009) },
      { bytes: encodeControl(message, to, from).subarray(0, 40) },
    ],
    'control.pcapng',
  )
  const names = ['type', 'version', 'accepts', 'sends', 'taken', 'boot', 'network', 'host', 'epoch', 'count', 'number']
  const rows = tshark(file, [
    ...names.map((name) => `snapswitch.${name}`),
    ...['snapswitch.heard.number', 'snapswitch.seal.sequence', 'snapswitch.agreement.claim', '_ws.col.Protocol'],
  ])
  const common = ['1', '2', '0', '0x0123456789abcdef', 'lab0', 'alpha', '42', '1234', '7', '8']
  const claims = '02:00:00:00:00:09,02:00:00:00:00:0a'
  const taken = common.with(2, '1')
  t.same(rows.slice(0, 4), [
    ['2', '3', ...common, '', '', 'snapswitch'],
    ['1', '4', ...taken, '99', '', 'snapswitch'],
    ['4', '3', ...common, '', claims, 'snapswitch'],
    ['4', '4', ...common, '99', claims, 'snapswitch'],
  ])
  t.match(rows[4], { 0: '6', 14: 'snapswitch' })
  t.match(rows[5], { 0: '2', 8: '' }, 'a frame that was cut short is no error')
  const errors = tshark(file, ['frame.number'], ['-Y', '_ws.lua.error || _ws.malformed'])
  t.same(errors, [], 'nothing is malformed')
})

t.test('carriers: the frame inside is dissected; pieces are told', async (t) => {
  const bytes = Buffer.concat([new Uint8Array(10), arp, new Uint8Array(200)])
  const place = { start: 10, tagTpid: 0x8100, tagTci: 5, color: 77 }
  const into = new Frame()
  const carried = (mtu: number, offset: number, length = arp.length) => {
    const writer = new CarrierWriter(mtu, message.bootId, to, from)
    writer.write(Object.assign(new Frame(bytes), place, { length }), offset, 3, 1, into)
    return { bytes: Uint8Array.from(into.bytes.subarray(into.start, into.start + into.length)) }
  }
  const file = traceOf([carried(1500, 0), carried(100, 64, 240)], 'carrier.pcapng')
  const fields = ['color', 'carrier.sequence', 'carrier.offset', 'carrier.tci'].map((name) => `snapswitch.${name}`)
  t.same(tshark(file, [...fields, 'arp.dst.proto_ipv4', '_ws.col.Protocol']), [
    ['77', '3', '0', '0x0005', '10.0.0.2', 'ARP'],
    ['77', '3', '64', '0x0005', '', 'snapswitch'],
  ])
})

t.test('color tags, where there are control frames or the preference says it', async (t) => {
  const tagged = (vid: number) => {
    const tag = Buffer.alloc(4)
    tag.writeUInt16BE(0x88a8)
    tag.writeUInt16BE(vid, 2)
    return { bytes: Buffer.concat([arp.subarray(0, 12), tag, arp.subarray(12)]) }
  }
  const frames = [tagged(colorVid(1023 + 5, 3)), tagged(0)]
  const fields = ['snapswitch.tag.color', 'snapswitch.tag.generation', 'snapswitch.uncolored', 'arp.opcode']
  const provider = traceOf(frames, 'provider.pcapng')
  const none = ['', '', '', '1']
  t.same(tshark(provider, fields), [none, none], 'others use service tags, too')
  const wanted = [
    ['5', '3', '', '1'],
    ['', '', '1', '1'],
  ]
  t.same(tshark(provider, fields, ['-o', 'snapswitch_frame.tags:always']), wanted)
  const trunk = traceOf([{ bytes: encodeControl(message, to, from) }, ...frames], 'trunk.pcapng')
  t.same(tshark(trunk, fields).slice(1), wanted)
})

t.test('comments of captures, channel states and events are fields', async (t) => {
  const comments = [
    'received, color 7',
    'delivered, in transit, recorded, color 7, epoch 8',
    'dropped: vlan, no color',
    'snapswitch #12 delivered color=3 epoch=4 of=#11',
    'snapswitch color=3 verdict=residue vnet=00000000000000000001',
    'delivered as promised',
  ]
  const file = traceOf(
    comments.map((comment) => ({ bytes: arp, comment })),
    'comments.pcapng',
  )
  const names = ['verdict', 'reason', 'recorded', 'color', 'uncolored', 'port_epoch', 'event', 'event.of', 'vnet']
  t.same(
    tshark(
      file,
      names.map((name) => `snapswitch.${name}`),
    ),
    [
      ['received', '', '', '7', '', '', '', '', ''],
      ['delivered', '', '1', '7', '', '8', '', '', ''],
      ['dropped', 'vlan', '', '', '1', '', '', '', ''],
      ['delivered', '', '', '3', '', '4', '12', '11', ''],
      ['residue', '', '', '3', '', '', '', '', '00000000000000000001'],
      ['', '', '', '', '', '', '', '', ''],
    ],
  )
  t.same(tshark(file, ['frame.number'], ['-Y', 'snapswitch.color == 3 && snapswitch.verdict == "residue"']), [['5']])
})

t.test('records are shown where they are asked for', async (t) => {
  const channel = join(directory, 'channel.pcapng')
  const vnetHeader = new Uint8Array(10)
  const timeNs = 1_700_000_000_123_456_789n
  const frame = {
    port: 'p',
    vm: 'v',
    color: 4,
    verdict: 'residue',
    timeNs,
    vnetHeader,
    vlanTag: null,
    bytes: arp,
  } as const
  writeFileSync(channel, writeChannel([frame]))
  const asTrace = ['-X', 'read_format:snapswitch']
  const fields = [
    'frame.time_epoch',
    'snapswitch.color',
    'arp.opcode',
    'snapswitch.record.kind',
    'snapswitch.record.frames',
  ]
  t.same(tshark(channel, fields, asTrace), [
    ['1700000000.123456789', '4', '1', '', ''],
    ['1700000000.123456789', '', '', '1', '1'],
  ])
  t.same(tshark(channel, fields).length, 1, 'and else they are skipped')
  const writer = new PcapngWriter({ comment: 'snapswitch recording, version 1' })
  const now = new Uint8Array(8)
  new DataView(now.buffer).setFloat64(0, 1_700_000_000_000.5, true)
  writer.local(encodeRecord({ kind: 18, payload: now }))
  writer.local(encodeRecord({ kind: 19, payload: new TextEncoder().encode('["cut",[1]]') }))
  const recording = join(directory, 'recording.pcapng')
  writeFileSync(recording, writer.take())
  t.same(tshark(recording, ['snapswitch.record.now', '_ws.col.Info'], asTrace), [
    ['1700000000000.5', 'recording: tick 1700000000000.500'],
    ['', 'recording: input ["cut",[1]]'],
  ])
})
