// What `scripts/bench vnsnap` and `growth` are made of: figures, cells, the ring's times, the cost of a snapshot.

import t from 'tap'
import { growthBench } from '../../bench/growth/figures.js'
import { machinesCells, residentBytes } from '../../bench/growth/machines.js'
import { readOptions as readGrowthOptions } from '../../bench/growth/main.js'
import { portsCells } from '../../bench/growth/ports.js'
import type { MemberStamps, Row as SnapshotRow } from '../../bench/snapshot/rows.js'
import { controlsOf } from '../../bench/vnsnap/controls.js'
import { costOf } from '../../bench/vnsnap/cost.js'
import { readOptions } from '../../bench/vnsnap/main.js'
import { frameLengths } from '../../bench/vnsnap/network.js'
import { ringFigures, ringLab, timeOfHop } from '../../bench/vnsnap/ring.js'
import { vnsnapBench } from '../../bench/vnsnap/rows.js'
import { elsewhere, networkSubjects } from '../../bench/vnsnap/subjects.js'
import { snapshotSystems } from '../../bench/vnsnap/systems.js'

t.test('every ratio is of a figure that the tables show, and of subjects that exist', async (t) => {
  const { ratios, tables, plots } = vnsnapBench
  const names = tables.flatMap(({ figures }) => figures.map(({ name }) => name))
  const ids = [...networkSubjects, ...snapshotSystems, ...controlsOf(() => 0)].map(({ id }) => id)
  t.equal(new Set(names).size, names.length)
  for (const [key, { of, peers, figure }] of Object.entries(ratios)) {
    t.ok(names.includes(figure), key)
    t.ok(
      [of, ...peers].every((id) => ids.includes(id)),
      key,
    )
  }
  t.ok(plots.every((name) => names.includes(name)))
  for (const key of ['rttP50', 'tcpTwoHosts', 'cpuPerGbit', 'tcpGap']) t.ok(ratios[`${key}.vsVnsnap`]?.reach, key)
  t.ok(ratios.udpLost?.reach && ratios.ringSlowdown?.reach)
  t.ok(elsewhere.every((id) => ids.includes(id)))
})

t.test('the time of a hop lies between the two reports around it', async (t) => {
  const marks = [
    { atMs: 1000, hop: 10 },
    { atMs: 2000, hop: 20 },
    { atMs: 5000, hop: 30 },
  ]
  t.equal(timeOfHop(marks, 15), 1500)
  t.equal(timeOfHop(marks, 20), 2000)
  t.equal(timeOfHop(marks, 25), 3500)
  t.ok(Number.isNaN(timeOfHop(marks, 31)))
  const run = (seconds: number, machines = 0.5, switches = 0.1) => ({ seconds, machines, switches })
  const figures = ringFigures(100, [run(10), run(11), run(9)], [run(12, 0.9, 0.2), run(11, 1, 0.3), run(13, 0.8, 0.1)])
  t.equal(figures.hopsPerSecond, 10)
  t.equal(Math.round(figures.slowdown), 20)
  t.equal(Math.round(figures.noise), 10)
  t.equal(figures.machinesCpu.toFixed(2), '0.40')
  t.equal(figures.switchesCpu.toFixed(2), '0.10')
  t.same(
    ringLab({ machines: 4, hosts: 1 }, 128).machines.map(({ host }) => host),
    ['a', 'a', 'a', 'a'],
  )
})

t.test('lengths of frames as tcpdump -e writes them', async (t) => {
  const said =
    '12:00:00.1 02:00 > 02:01, ethertype 802.1Q-QinQ, length 64: vlan 1, length 46\nlistening on trunk\n12:00 x, length 106: IPv4, UDP, length 64\n'
  t.same(frameLengths(said), [64, 106])
})

t.test('parts, subjects and rings are chosen by one option', async (t) => {
  const options = readOptions(['--only', 'ring,vnsnap'])
  t.same(options.parts, ['ring'])
  t.same(options.subjects, ['vnsnap'])
  t.equal(options.results, null)
  t.equal(options.rings, null)
  const { parts, rings } = readOptions(['--only', '8x2,2x1,vnsnap'])
  t.same({ parts, rings }, { parts: ['ring'], rings: ['8x2', '2x1'] })
  t.throws(() => readOptions(['--only', 'nothing']), /no part, subject or ring 'nothing'/)
  t.ok(readOptions([]).subjects.includes('unacloud'))
})

t.test('growth: cells of the sizes that are wanted', async (t) => {
  t.same(
    machinesCells.filter(({ hosts }) => hosts === 2).map(({ machines }) => machines),
    [2, 4, 8, 16],
  )
  t.same([...new Set(machinesCells.map(({ hosts }) => hosts))].sort(), [1, 2, 3, 4])
  t.same(
    [...new Set(portsCells.map(({ ports }) => ports))].sort((a, b) => a - b),
    [2, 16, 64, 200],
  )
  const cells = [...machinesCells, ...portsCells].map(({ id }) => id)
  t.ok(Object.values(growthBench.ratios).every(({ of }) => cells.includes(of)))
  t.same([...readGrowthOptions(['--only', '4m3h,bridge-64p']).chosen], ['4m3h', 'bridge-64p'])
  t.throws(() => readGrowthOptions(['--only', '5m']), /no cell '5m'/)
  t.ok(residentBytes([process.pid]) > 1e6)
})

const none = Number.NaN

const member = (vm: string, more: Partial<MemberStamps>): MemberStamps => ({
  vm,
  host: 'a',
  gatedAtUs: 10_000,
  settledAtUs: none,
  pausedAtUs: 10_000,
  cutAtUs: 10_000,
  disksAtUs: none,
  savingAtUs: none,
  resumedAtUs: 15_000,
  releasedAtUs: 15_000,
  sealedAtUs: 15_000,
  held: 0,
  early: 0,
  recorded: 0,
  residue: 0,
  lost: 0,
  memoryImageBytes: 1,
  ...more,
})

t.test(
  'the cost of snapshots: times from the stamps, gaps of the whole of a snapshot, no figures beside a failure',
  async (t) => {
    const counts = { udpSent: 9, udpReceived: 7, udpLost: 2, udpDoubled: 0, udpReordered: 0, udpCorrupt: 0 }
    const tcp = { ringHops: 1, ringRetransmits: 0, tcpRetransmits: 0, tcpTimeouts: 0, tcpLossProbes: 0, faults: 0 }
    const round = {
      round: 1,
      askedAtUs: 5000,
      answeredAtUs: 105_000,
      removedAtUs: 110_000,
      globalMs: 1,
      members: [member('vm1', { savingAtUs: 6000, early: 3 }), member('vm2', { cutAtUs: 12_000, resumedAtUs: 40_000 })],
      closures: [],
      counted: { ...counts, ...tcp },
      error: null,
    }
    const row: SnapshotRow = {
      cell: { id: 'x', machines: 2, memoryMiB: 128, policy: 'drop', load: 'guests', driver: 'qemu', rounds: 1 },
      bootSeconds: 1,
      control: null,
      rounds: [round],
      // The first while images are written, the second when nothing is.
      bulk: {
        bitsPerSecond: 1e9,
        gaps: [
          [80_000, 9000],
          [900_000, 4000],
        ],
        retransmitted: [],
        retransmits: 0,
        timeouts: 1,
        lossProbes: 0,
        udp: null,
      },
      error: null,
    }
    const {
      globalMs,
      localMs,
      'downtime.max': longest,
      'skew.p50': skew,
      tcpGap,
      tcpGapControl,
      udpLost,
      early,
    } = costOf(row)
    t.same({ globalMs, localMs, longest, skew }, { globalMs: 100, localMs: 7, longest: 30, skew: 2 })
    t.same({ tcpGap, tcpGapControl, udpLost, early }, { tcpGap: 9, tcpGapControl: 4, udpLost: 2, early: 3 })
    t.throws(() => costOf({ ...row, rounds: [round, { ...round, round: 2, error: 'no' }] }), /snapshot 2: no/)
  },
)
