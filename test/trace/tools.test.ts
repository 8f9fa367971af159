// Captures that Debian's tools make, and those that we make: tshark and we see the same packets, or refuse the same
// files. (By hand, tshark and the reader agreed on the 667 captures of tcpdump's own tests and the 133 of Wireshark's,
// but for fractions of a second that are none.)

import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { encodeRecord } from '../../src/trace/records.js'
import { pcapParserSees, run, tsharkSees, weSee } from './judges.js'

const directory = mkdtempSync(join(tmpdir(), 'ssw-tools-'))
t.teardown(() => rmSync(directory, { recursive: true }))
const path = (name: string) => join(directory, name)

async function agree(t: Test, file: string, what: string, atLeast = 1): Promise<void> {
  const theirs = tsharkSees(file)
  const ours = await weSee(file)
  t.same(ours.packets, theirs.packets, what)
  t.equal(ours.error === null, theirs.error === null, `${what}: ${ours.error} and ${theirs.error}`)
  t.ok(ours.packets.length >= atLeast, `${what}: ${ours.packets.length} packets`)
}

t.test('random packets, in every form of pcap and pcapng', async (t) => {
  const random = path('random.pcap')
  run('randpkt', ['-b', '3000', '-c', '60', '-t', 'dns', random])
  await agree(t, random, 'randpkt', 60)
  for (const form of ['pcap', 'nsecpcap', 'pcapng']) {
    run('editcap', ['-F', form, '-s', '100', random, path(form)])
    await agree(t, path(form), form, 60)
  }
  run('tcpdump', ['-r', random, '-w', path('tcpdump.pcap')])
  await agree(t, path('tcpdump.pcap'), 'tcpdump', 60)
  writeFileSync(path('packed.pcapng.gz'), gzipSync(readFileSync(path('pcapng'))))
  await agree(t, path('packed.pcapng.gz'), 'gzip', 60)
  writeFileSync(path('packed.pcapng.zst'), run('zstd', ['-q', '-c', path('pcapng')]))
  await agree(t, path('packed.pcapng.zst'), 'zstd', 60)
  t.same(
    (await weSee(path('pcap'))).packets.map((line) => line.split('|').at(-1)),
    (await pcapParserSees(path('pcap'))).map(({ md5 }) => md5),
    'pcap-parser sees the same bytes',
  )
})

t.test('what pcapng has beside packets: interfaces, comments, secrets, names, sections', async (t) => {
  run('randpkt', ['-b', '200', '-c', '20', '-t', 'arp', path('a.pcap')])
  run('editcap', ['-F', 'nsecpcap', '-t', '1700000000.123456789', path('a.pcap'), path('b.pcap')])
  run('mergecap', ['-w', path('merged.pcapng'), path('a.pcap'), path('b.pcap')])
  await agree(t, path('merged.pcapng'), 'mergecap', 40)
  writeFileSync(path('keys'), `CLIENT_RANDOM ${'ab'.repeat(32)} ${'cd'.repeat(48)}\n`)
  const secrets = ['--inject-secrets', `tls,${path('keys')}`]
  run('editcap', ['-a', '3:a comment', ...secrets, path('merged.pcapng'), path('said.pcapng')])
  await agree(t, path('said.pcapng'), 'comment and secrets', 40)
  appendFileSync(path('said.pcapng'), readFileSync(path('merged.pcapng')))
  await agree(t, path('said.pcapng'), 'two sections', 80)
  const cut = readFileSync(path('said.pcapng'))
  writeFileSync(path('cut.pcapng'), cut.subarray(0, cut.length - 5))
  await agree(t, path('cut.pcapng'), 'cut short', 79)
  run('text2pcap', ['-D', '-n', '-', path('text.pcapng')], Buffer.from('I\n0000 01 02 03 04\n\nO\n0000 05 06 07 08\n'))
  await agree(t, path('text.pcapng'), 'directions', 2)
})

t.test('what is not read is refused with its name', async (t) => {
  run('randpkt', ['-b', '300', '-c', '50', '-t', 'udp', path('udp.pcap')])
  run('editcap', ['-F', 'pcap', '-t', '1700000000', path('udp.pcap'), path('dated.pcap')])
  const refused: readonly (readonly [form: string, name: RegExp])[] = [
    ['modpcap', /modified pcap \(Kuznetzov\)/],
    ['suse6_3pcap', /modified pcap/],
    ['rh6_1pcap', /modified pcap \(Red Hat/],
    ['nokiapcap', /Nokia/],
    ['snoop', /snoop/],
    ['netmon2', /Network Monitor/],
    ['ngwsniffer_2_0', /NetXRay/],
  ]
  for (const [form, name] of refused) {
    run('editcap', ['-F', form, path('dated.pcap'), path(form)])
    const seen = await weSee(path(form))
    t.match(seen, { code: 'TRACE_UNSUPPORTED', error: name, packets: { length: 0 } }, form)
  }
  for (const [number, name] of [
    [101, /101, RAW/],
    [113, /113, LINUX_SLL/],
    [147, /147, USER0/],
  ] as const) {
    run('text2pcap', ['-l', String(number), '-', path('raw.pcapng')], Buffer.from('0000 45 00 00 14\n'))
    t.match(await weSee(path('raw.pcapng')), { code: 'TRACE_UNSUPPORTED', error: name })
  }
  writeFileSync(path('text'), 'not a capture at all\n')
  t.match(await weSee(path('text')), { code: 'TRACE_INVALID', error: /neither pcapng nor pcap/ })
  t.not(tsharkSees(path('text')).error, null)
  writeFileSync(path('empty'), '')
  t.match(await weSee(path('empty')), { code: 'TRACE_INVALID', error: /empty/ })
})

t.test('tshark and capinfos read all that we can write', async (t) => {
  const writer = new PcapngWriter({ comment: 'a title', hardware: 'h', system: 's', application: 'a' })
  writer.interface({ name: 'one', description: 'vm=one', comment: 'c', filter: 'port one', snapLength: 128 })
  writer.interface({ name: 'two', options: [{ code: 0x8001, value: Uint8Array.of(1, 2, 3) }] })
  const frame = Buffer.alloc(77, 0x11)
  const enterprise = 32473
  const value = new TextEncoder().encode('value')
  for (let i = 0; i < 20; i++) {
    writer.frame(i & 1, 1_700_000_000 + i, 999_999_999, frame, i, 77 - i, 1500, i, i === 3 ? '' : `number ${i} “ä”`)
    writer.packet(i & 1, 1_700_000_000_000_000_001n, frame.subarray(i), {
      direction: 'inbound',
      dropCount: i,
      packetId: BigInt(i),
      options: [
        { code: 2988, enterprise, value },
        { code: 2989, enterprise, value },
        { code: 0x8001, value },
      ],
    })
    if (i % 7 === 0) writer.local(encodeRecord({ kind: 9, payload: value }))
  }
  writer.statistics(0, 1_700_000_000_000_000_001n, { received: 20, dropped: 3, comment: 'some' })
  writer.statistics(1, 1_700_000_000_000_000_001n, { received: 20 })
  writeFileSync(path('ours.pcapng'), writer.take())
  await agree(t, path('ours.pcapng'), 'ours', 40)
  const about = run('capinfos', [path('ours.pcapng')]).toString()
  t.match(about, /Number of packets:\s+40\n/)
  t.match(about, /Capture comment:\s+a title\n/)
  t.match(about, /Filter string = port one\n/)
  run('editcap', ['-F', 'nsecpcap', path('ours.pcapng'), path('ours.pcap')])
  await agree(t, path('ours.pcap'), 'ours, converted', 40)
})
