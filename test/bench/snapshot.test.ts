// The arithmetic of `scripts/bench snapshot`: percentiles, whose gap is whose, captures, counters, targets, tables.

import t from 'tap'
import { gapPhase, percentile, ratiosOf, summarize } from '../../bench/snapshot/figures.js'
import { protocolCounters, tcpCounters } from '../../bench/snapshot/machines.js'
import { readOptions } from '../../bench/snapshot/main.js'
import { acknowledgmentGaps, retransmissions, segments } from '../../bench/snapshot/pcap.js'
import { type Cell, cells, labPlan } from '../../bench/snapshot/plan.js'
import { makeReport, markdown } from '../../bench/snapshot/report.js'
import type { Counted, MemberStamps, Round, Row } from '../../bench/snapshot/rows.js'
import { withEndpointPort } from '../../bench/snapshot/traffic.js'

const start = 1_700_000_000_000_000

const nothing: Counted = {
  udpSent: 0,
  udpReceived: 0,
  udpLost: 0,
  udpDoubled: 0,
  udpReordered: 0,
  udpCorrupt: 0,
  ringHops: 0,
  ringRetransmits: 0,
  tcpRetransmits: 0,
  tcpTimeouts: 0,
  tcpLossProbes: 0,
  faults: 0,
}

/**
 * A machine that is gated at `gateMs`, paused 2 ms later, cut 1 ms later, running again after `downMs`, released 1 ms
 * later.
 */
const member = (vm: string, gateMs: number, downMs: number): MemberStamps => ({
  vm,
  host: 'a',
  gatedAtUs: start + gateMs * 1000,
  settledAtUs: start + (gateMs + 1) * 1000,
  pausedAtUs: start + (gateMs + 2) * 1000,
  disksAtUs: start + (gateMs + 3) * 1000,
  savingAtUs: start + (gateMs + 4) * 1000,
  cutAtUs: start + (gateMs + 3) * 1000,
  resumedAtUs: start + (gateMs + 2 + downMs) * 1000,
  releasedAtUs: start + (gateMs + 3 + downMs) * 1000,
  sealedAtUs: start + 1_000_000,
  held: 3,
  early: 1,
  recorded: 2,
  residue: 0,
  lost: 0,
  memoryImageBytes: 1,
})

const round = (members: readonly MemberStamps[], counted: Partial<Counted> = {}): Round => ({
  round: 1,
  askedAtUs: start - 50_000,
  answeredAtUs: start + 1_100_000,
  removedAtUs: start + 1_200_000,
  globalMs: 1000,
  members,
  closures: [{ expected: 5, lost: 0, byCount: true }],
  counted: { ...nothing, ...counted },
  error: null,
})

const cell = (wanted: Partial<Cell>): Cell => ({
  id: 'x',
  machines: 2,
  memoryMiB: 128,
  policy: 'buffer',
  load: 'ring',
  driver: 'qemu',
  rounds: 1,
  ...wanted,
})

const row = (wanted: Partial<Cell>, rounds: readonly Round[], bulk: Row['bulk'] = null): Row => ({
  cell: cell(wanted),
  bootSeconds: 1,
  control: null,
  rounds,
  bulk,
  error: null,
})

t.test('percentile: nearest rank, never between two values', async (t) => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index)
  t.equal(percentile(hundred, 0.99), 99)
  t.equal(percentile(hundred, 0.5), 50)
  t.equal(percentile([4, 9], 0.5), 4)
  t.equal(percentile([7, 3, 5], 0.99), 7)
  t.ok(Number.isNaN(percentile([], 0.5)))
})

t.test('downtime, skew and stretches come from the stamps', async (t) => {
  const summary = summarize(row({}, [round([member('vm1', 0, 5), member('vm2', 4, 9)])]))
  t.same(summary.downtime, { count: 2, p50: 5, p99: 9 })
  t.equal(summary.skew.p99, 4)
  t.equal(summary.gateSkew.p99, 4)
  t.equal(summary.stretches.stop.p50, 1)
  t.equal(summary.stretches.drainAndFlip.p50, 1)
  t.equal(summary.stretches.toSave.p50, 1)
  t.equal(summary.stretches.saveToResume.p99, 7)
  t.equal(summary.stretches.release.p99, 1)
  t.same(summary.frames, { held: 6, early: 2, recorded: 4, residue: 0, lost: 0 })
})

t.test('a gap belongs to the cut that it touches', async (t) => {
  // Gate closed from 0 to 8 ms.
  const rounds = [round([member('vm1', 0, 5)])]
  const phase = (startMs: number, lengthMs: number) => gapPhase([start + startMs * 1000, lengthMs * 1000], rounds)
  t.equal(phase(-3, 20), 'cut')
  t.equal(phase(-10, 9), 'writing', 'over before the gate closed')
  t.equal(phase(27, 5), 'cut', 'begun within the tail')
  t.equal(phase(29, 5), 'writing')
  t.equal(phase(-200, 100), 'quiet')
  t.equal(phase(1300, 40), 'quiet')
})

t.test('bulk flows: gaps and retransmissions by phase', async (t) => {
  const { bulk } = summarize(
    row({ load: 'members' }, [round([member('vm1', 0, 5)])], {
      bitsPerSecond: 2e9,
      gaps: [
        [start, 12_000],
        [start + 500_000, 30_000],
        [start + 2_000_000, 4000],
      ],
      retransmitted: [
        [start + 250_000, 2],
        [start + 700_000, 1],
      ],
      retransmits: 3,
      timeouts: 0,
      lossProbes: 0,
      udp: null,
    }),
  )
  t.same(bulk?.longestGapMs, { cut: 12, writing: 30, removing: 0, quiet: 4 })
  t.same(bulk?.retransmits, { cut: 2, writing: 1, removing: 0, quiet: 0 })
  t.match(bulk?.seconds, { cut: 0.308 })
})

t.test('targets look at policy buffer only, and at what was measured', async (t) => {
  const rows = [
    row({}, [round([member('vm1', 0, 5)], { udpLost: 1, ringRetransmits: 2 })]),
    row({ memoryMiB: 1024 }, [round([member('vm1', 0, 6)])]),
    row({ policy: 'drop' }, [round([member('vm1', 0, 50)], { udpLost: 100 })]),
  ]
  const ratios = ratiosOf(rows)
  t.same(ratios, { downtimeP99Ms: 6, downtime1024to128: 1.2, tcpRetransmits: 2, udpLost: 1, udpDoubled: 0 })
  const eight = row({ machines: 8 }, [round([member('vm1', 0, 5), member('vm2', 30, 5)])])
  t.equal(ratiosOf([eight]).skewP99Ms, 30)
  t.same(ratiosOf([row({}, [{ ...round([]), error: 'no' }])]), {})
})

t.test('tables say what was reached and what failed', async (t) => {
  const failed = { ...row({ id: 'broken' }, []), error: 'no guest\nmore' }
  const machine = { cpu: 'c', cores: 2, memoryBytes: 1, kernel: 'k', node: 'n', loadBefore: 0 }
  const guests = { accelerator: 'TCG', qemu: '7.2' }
  const rows = [row({}, [round([member('vm1', 0, 50)])]), failed]
  const run = { command: 'c', quick: false, budget: 4, whole: true, missing: ['2x9'] }
  const text = markdown(makeReport({ started: new Date(), machine, guests, ...run, rows }))
  t.match(text, /\| downtimeP99Ms \| 50 \| 10 \| no \|/)
  t.match(text, /\| skewP99Ms \| not measured \|/)
  t.match(text, '- broken: no guest')
  t.match(text, 'The run had 4 minutes')
  t.match(text, 'No time was left for 2x9.')
  t.notMatch(text, 'NaN')
})

/** A record of a pcap file: one TCP segment over Ethernet and IPv4. */
function record(atUs: number, sequence: number, acknowledgment: number, payload: number): Buffer {
  const bytes = Buffer.alloc(16 + 54)
  bytes.writeUInt32LE(Math.floor(atUs / 1e6), 0)
  bytes.writeUInt32LE(atUs % 1e6, 4)
  bytes.writeUInt32LE(54, 8)
  bytes.writeUInt32LE(54 + payload, 12)
  bytes.writeUInt16BE(0x0800, 16 + 12)
  bytes[30] = 0x45
  bytes.writeUInt16BE(40 + payload, 30 + 2)
  bytes[30 + 9] = 6
  bytes.writeUInt32BE(sequence, 50 + 4)
  bytes.writeUInt32BE(acknowledgment, 50 + 8)
  bytes[50 + 12] = 5 << 4
  return bytes
}

function pcap(...records: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24)
  header.writeUInt32LE(0xa1b2c3d4, 0)
  return Buffer.concat([header, ...records])
}

t.test('captures: progress across the wrap of the numbers, repeated answers are none', async (t) => {
  const file = pcap(
    record(start, 1, 0xfffffff0, 0),
    record(start + 1000, 1, 0x10, 0),
    record(start + 5000, 1, 0x10, 0),
    record(start + 31_000, 1, 0x110, 0),
  )
  const { gaps, bytes } = acknowledgmentGaps(segments(file), 2000)
  t.same(gaps, [[start + 1000, 30_000]])
  t.equal(bytes, 0x120)
  t.equal(segments(file.subarray(0, file.length - 3)).length, 3, 'a record that is half written is left out')
  t.throws(() => segments(Buffer.alloc(24)), /pcap/)
})

t.test('captures: what was sent before is a retransmission', async (t) => {
  const sent = segments(
    pcap(
      record(start, 0xffffff00, 1, 0x80),
      record(start + 1, 0xffffff80, 1, 0x100),
      record(start + 2, 0xffffff80, 1, 0x80),
      record(start + 3, 0x80, 1, 0),
      record(start + 4, 0x80, 1, 10),
    ),
  )
  t.same(retransmissions(sent), [[start + 2, 1]])
})

t.test('TCP counters out of what a terminal shows', async (t) => {
  const text = [
    '/ # grep -h "^Tcp" /proc/net/snmp',
    'Tcp: RtoAlgorithm MaxConn RetransSegs',
    'Tcp: 1 -1 17',
    'TcpExt: TCPTimeouts TCPLossProbes',
    'TcpExt: 3 4',
    '/ # ',
  ].join('\n')
  t.equal(protocolCounters(text).get('MaxConn'), -1)
  t.same(tcpCounters(text), { tcpRetransmits: 17, tcpTimeouts: 3, tcpLossProbes: 4 })
})

t.test('every stream has its receiver, and neighbours in the ring are on different hosts', async (t) => {
  for (const machines of [2, 4, 8] as const) {
    const { machines: planned } = labPlan(cell({ machines }))
    const listening = planned.flatMap(({ job }) =>
      job.receive!.map((word) => `${word.split('@')[0]} ${job.ip.split('/')[0]}`),
    )
    const sent = planned.flatMap(({ job }) => job.send!.map((word) => word.replace(/^(\d+)@([\d.]+):.*/, '$1 $2')))
    t.same(sent.sort(), listening.sort())
    for (const [index, { host }] of planned.entries()) t.not(host, planned[(index + 1) % machines]!.host)
  }
  t.ok(cells('whole', 8).some(({ machines, policy }) => machines === 8 && policy === 'buffer'))
  t.equal(new Set(cells('whole', 8).map(({ id }) => id)).size, cells('whole', 8).length)
})

t.test('the port of an endpoint belongs to its host’s first machine, or to none', async (t) => {
  const config = { networks: { lab0: { ports: { vm2: {} } } } }
  t.match(withEndpointPort(config, 'b', 'members'), { networks: { lab0: { ports: { bulk: { vm: 'vm2' }, vm2: {} } } } })
  t.match(withEndpointPort(config, 'a', 'plain'), { networks: { lab0: { ports: { bulk: { kind: 'plain' } } } } })
})

t.test('options', async (t) => {
  const brief = readOptions(['--minutes', '4'])
  t.equal(brief.chosen[0]?.rounds, 4)
  t.ok(
    [128, 1024].every((mib) => brief.chosen.some(({ memoryMiB }) => memoryMiB === mib)),
    'what the targets need is in a short run',
  )
  t.ok(brief.chosen.some(({ machines }) => machines === 8))
  t.equal(readOptions([]).chosen.length, cells('whole', 8).length)
  t.same(
    readOptions(['--only', 'libvirt']).chosen.map(({ driver }) => driver),
    ['libvirt', 'libvirt'],
    'asked for by name',
  )
  t.match(readOptions(['--only', 'drop']).chosen, [{ policy: 'drop' }])
  t.equal(readOptions(['--quick']).results, null)
  t.throws(() => readOptions(['--only', 'nine']), /no cell 'nine'/)
  t.throws(() => readOptions(['--rounds', '0']), /whole number/)
  t.throws(() => readOptions(['--render', 'x.json']), /--results/)
})
