// Other addresses and VLANs in a frame: all places change, and every checksum is as right as before. tshark judges.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { parseMac } from '../../src/frame/mac.js'
import { completeChecksums } from '../../src/play/checksums.js'
import { Headers } from '../../src/play/headers.js'
import { parsePrefix } from '../../src/play/mapping.js'
import { type Changes, Rewriter } from '../../src/play/rewrite.js'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { run } from '../lab/command.js'
import fc from '../property.js'
import { packets, VLAN_7 } from './packets.js'

const NONE: Changes = { macs: [], ips: [], vlans: [] }
const mac = (from: string, to: string) => ({ from: parseMac(from), to: parseMac(to) })
const ip = (from: string, to: string) => ({ from: parsePrefix(from), to: parsePrefix(to) })
const ALL: Changes = {
  macs: [mac('02:00:00:00:00:01', '52:54:00:ab:cd:ef'), mac('02:00:00:00:00:02', '52:54:00:12:34:56')],
  ips: [
    ip('10.0.0.1', '192.168.77.201'),
    ip('10.0.0.0/24', '172.16.5.0/24'),
    ip('fd00::/112', 'fd12:3456::abcd:0/112'),
  ],
  vlans: [],
}
const BACK: Changes = {
  macs: ALL.macs.map(({ from, to }) => ({ from: to, to: from })),
  ips: ALL.ips.map(({ from, to }) => ({ from: to, to: from })),
  vlans: [],
}

function rewritten(frame: Uint8Array, changes: Changes): Uint8Array {
  const bytes = new Uint8Array(4 + frame.length)
  bytes.set(frame, 4)
  const rewriter = new Rewriter(changes)
  rewriter.rewrite(bytes, new DataView(bytes.buffer), 4, frame.length)
  return bytes.slice(rewriter.start, rewriter.start + rewriter.length)
}

function completed(frame: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(frame)
  const headers = new Headers()
  headers.read(new DataView(bytes.buffer), bytes, 0, bytes.length)
  completeChecksums(new DataView(bytes.buffer), headers)
  return bytes
}

const payloads = fc.uint8Array({ minLength: 0, maxLength: 200 })

t.test('checksums by difference are those that are made anew', async (t) => {
  fc.assert(
    fc.property(payloads, (payload) => {
      for (const [name, frame] of Object.entries(packets(payload))) {
        const changed = rewritten(frame, ALL)
        t.notSame(changed, frame, name)
        t.same(completed(changed), changed, name)
        t.same(rewritten(changed, BACK), frame, `${name}, and back`)
      }
    }),
    { numRuns: 50 },
  )
})

t.test('no change leaves a frame as it is, whatever it is', async (t) => {
  const nothing: Changes = {
    macs: [mac('06:00:00:00:00:01', '06:00:00:00:00:02')],
    ips: [ip('9.9.9.9', '8.8.8.8')],
    vlans: [],
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => t.same(rewritten(bytes, nothing), bytes)))
})

t.test('a damaged frame neither throws nor grows', async (t) => {
  const all = Object.values(packets(Uint8Array.of(1, 2, 3, 4, 5)))
  const damage = fc.record({
    frame: fc.integer({ min: 0, max: all.length - 1 }),
    length: fc.nat(90),
    at: fc.nat(89),
    value: fc.nat(255),
  })
  fc.assert(
    fc.property(damage, ({ frame, length, at, value }) => {
      const bytes = all[frame].slice(0, length)
      if (at < bytes.length) bytes[at] = value
      t.equal(rewritten(bytes, ALL).length, bytes.length)
      if (bytes.length >= 14) t.equal(completed(bytes).length, bytes.length)
    }),
    { numRuns: 2000 },
  )
})

t.test('VLAN tags come, go and change', async (t) => {
  const frames = packets(Uint8Array.of(1, 2, 3))
  const plain = frames.UDP
  const tagged = frames['TCP in a VLAN']
  const vlan = (frame: Uint8Array, from: number | null, to: number | null) =>
    rewritten(frame, { ...NONE, vlans: [{ from, to }] })
  t.same(vlan(plain, null, 5), Uint8Array.of(...plain.subarray(0, 12), 0x81, 0, 0, 5, ...plain.subarray(12)))
  t.same(vlan(vlan(plain, null, 5), 5, null), plain)
  t.same(vlan(tagged, 7, 300).subarray(12, 16), Uint8Array.of(0x81, 0, 0x61, 0x2c), 'the priority stays')
  t.same(vlan(tagged, 8, 300), tagged)
  t.same(vlan(plain, 7, 300), plain)
  t.same(VLAN_7, [...tagged.subarray(12, 16)])
})

t.test('tshark finds the new addresses and no wrong checksum', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-rewrite-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const writer = new PcapngWriter()
  const id = writer.interface({ name: 'x' })
  const names: string[] = []
  for (const [name, frame] of Object.entries(packets(Uint8Array.of(5, 6, 7, 8, 9)))) {
    names.push(name)
    writer.packet(id, 1n, rewritten(frame, ALL))
  }
  const file = join(directory, 'x.pcapng')
  writeFileSync(file, writer.take())
  const checks = ['ip', 'tcp', 'udp'].flatMap((one) => ['-o', `${one}.check_checksum:TRUE`])
  const fields = [
    'ip.src',
    'ipv6.src',
    'arp.src.proto_ipv4',
    'eth.src',
    'icmpv6.nd.ns.target_address',
    'ipv6.dst',
    'arp.dst.hw_mac',
  ]
  const said = await run('tshark', ['-r', file, ...checks, '-T', 'fields', ...fields.flatMap((one) => ['-e', one])])
  t.notMatch(said, /10\.0\.0\.|fd00::|02:00:00/)
  const lines = said.split('\n')
  t.match(lines[names.indexOf('TCP')], /^192\.168\.77\.201\t\t\t52:54:00:ab:cd:ef/)
  t.match(lines[names.indexOf('TCP over IPv6')], /^\tfd12:3456::abcd:1\t/)
  t.match(lines[names.indexOf('ARP')], /^\t\t192\.168\.77\.201\t52:54:00:ab:cd:ef\t\t\t52:54:00:12:34:56/)
  t.match(lines[names.indexOf('neighbour solicitation')], /\tfd12:3456::abcd:2\tff02::1:ffcd:2\t/)
  const bad = ['ip', 'tcp', 'udp', 'icmp', 'icmpv6'].map((one) => `${one}.checksum.status==0`).join(' || ')
  t.equal(await run('tshark', ['-r', file, ...checks, '-Y', bad]), '')
  const good = await run('tshark', ['-r', file, ...checks, '-Y', bad.replaceAll('==0', '==1')])
  t.equal(good.trim().split('\n').length, names.length - 1, 'all but the ARP have one that was checked')
})
