// Ports with VLANs: the kernel gives and takes tags as the daemon does. Each frame that can be is sent from each port
// to each, by the one way and by the other, and comes out the same and is counted the same.

import t from 'tap'
import type { PortRules } from '../../src/api/schemas.js'
import { libc } from '../../src/linux/libc.js'
import { TAGGED, TagChange, tagChange } from '../../switch/datapath/kernel/vlan-tag.js'
import { compileRules } from '../../switch/forwarding/port-rules.js'
import { until } from '../lab/command.js'
import { enterFreshNamespace } from '../linux/namespace.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { Rig } from './rig.js'
import { addressOf } from './traffic.js'

t.setTimeout(fileLimit(120_000))
const deadline = { deadlineMs: patience(5000) }

const RULES: readonly PortRules[] = [
  { vlan: { pvid: 10 } },
  { vlan: { pvid: 10 } },
  { vlan: { tagged: [10, 20] } },
  { vlan: { pvid: 20, untagged: [20], tagged: [10] } },
  { vlan: { pvid: 10, tagged: ['10-20'] } },
  // It knows none.
  {},
]
const VNET = 10
/** TCI of a tag; null: the frame has none. */
const TAGS = [null, 10, 20, 0x6000 | 10, 0x6000, 30]

interface Case {
  readonly from: number
  readonly to: number
  readonly tag: number | null
}
const CASES: readonly Case[] = RULES.flatMap((_, from) =>
  RULES.flatMap((_, to) => (from === to ? [] : TAGS.map((tag) => ({ from, to, tag })))),
)
const nameOf = ({ from, to, tag }: Case) => `${from} to ${to}, ${tag === null ? 'no tag' : tag.toString(16)}`

function frameOf({ from, to, tag }: Case): Uint8Array {
  const frame = new Uint8Array(VNET + 64)
  const tags = tag === null ? [] : [0x81, 0, tag >> 8, tag & 0xff]
  frame.set([...addressOf(to), ...addressOf(from), ...tags, 0x88, 0xb6, from, to], VNET)
  return frame
}

/** What comes out of which port. */
function outOf(rig: Rig): string[] {
  const buffer = new Uint8Array(2048)
  return rig.ends.flatMap((fd, port) => {
    const found: string[] = []
    for (;;) {
      const length = libc().read(fd, buffer, buffer.length)
      if (length < 0) return found
      found.push(`${port}: ${Buffer.from(buffer.subarray(VNET, length)).toString('hex')}`)
    }
  })
}

/**
 * One after the other; a TAP takes a frame, and what the kernel does with it is done, before the write ends. `mayPass`:
 * time passes, so that a frame that the daemon has sent on makes no later one of its addresses slow.
 */
function send(rig: Rig, cases: readonly Case[], mayPass = true) {
  const seen = new Map<string, { out: string[]; slow: boolean }>()
  const counted = () => rig.ports.map(({ index }) => rig.counted(index))
  const before = counted()
  for (const one of cases) {
    const frame = frameOf(one)
    libc().write(rig.ends[one.from]!, frame, frame.length)
    let slow = 0
    for (let i = 0; i < 5; i++) slow += rig.round()
    if (mayPass && slow > 0) rig.pass(110)
    seen.set(nameOf(one), { out: outOf(rig), slow: slow > 0 })
  }
  const counts = counted().map(({ rxFrames, rxBytes, txFrames, txBytes }, i) => {
    const old = before[i]!
    return [rxFrames - old.rxFrames, rxBytes - old.rxBytes, txFrames - old.txFrames, txBytes - old.txBytes]
  })
  return { seen, counts }
}

t.test('TCP, uncut, through a port that gives tags and one that takes them', root, async (t) => {
  const world = World.for(t)
  for (const host of ['a', 'b']) await world.namespace(host)
  await world.endpoint('red', 'a', { address: '10.66.0.1' })
  await world.endpoint('rot', 'b', { address: '10.66.0.2' })
  await world.cable(['a', 'cable'], ['b', 'cable'])
  const networkOf = (end: string) => ({
    datapath: { fastPath: 'auto' },
    networks: {
      lab0: {
        ports: {
          [end]: { device: end, vlan: { pvid: 10 } },
          cable: { device: 'cable', vlan: { tagged: [10] } },
        },
      },
    },
  })
  const daemons = [await world.switch('a', networkOf('red')), await world.switch('b', networkOf('rot'))]
  await until('verdicts', 20_000, async () => {
    await world.pings('red', '10.66.0.2')
    const found = await Promise.all(daemons.map((daemon) => daemon.client.verdicts('lab0', deadline)))
    return found.every((verdicts) => verdicts.length >= 2) ? true : undefined
  })
  for (const size of ['0', '1472'])
    t.equal((await world.pings('red', '10.66.0.2', '-s', size, '-M', 'do')).code, 0, `${size} bytes`)
  for (const [from, to, address] of [
    ['red', 'rot', '10.66.0.2'],
    ['rot', 'red', '10.66.0.1'],
  ] as const) {
    const { sum_sent } = await world.iperf(from, to, address, '-n', '64M')
    t.ok(sum_sent.bytes >= 64 * 1024 * 1024, `${from} to ${to}`)
  }
  for (const daemon of daemons) {
    const { counters, fastPath } = await daemon.port('cable')
    t.match({ whole: counters.txGso > 100 && counters.rxGso > 100, fast: fastPath?.fast }, { whole: true, fast: true })
  }
})

t.test('the one way and the other', async (t) => {
  enterFreshNamespace()
  const rig = new Rig(RULES.length, true, 'plain', 'v', null, RULES)
  t.teardown(() => rig.close())
  // Everybody is known where it may be.
  send(rig, CASES, false)
  const slow = send(rig, CASES, false)
  t.ok([...slow.seen.values()].every((one) => one.slow))
  t.ok(rig.becomeFast(), JSON.stringify(rig.kernel.paths(rig.forwarder)))
  // Noted at the second frame.
  for (let i = 0; i < 2; i++) send(rig, CASES)
  const fast = send(rig, CASES)
  const isFast = (one: Case) => !fast.seen.get(nameOf(one))!.slow
  for (const one of CASES) {
    const name = nameOf(one)
    t.same(fast.seen.get(name)!.out, slow.seen.get(name)!.out, `${name}${isFast(one) ? ', fast' : ''}`)
  }
  t.same(fast.counts, slow.counts, 'counted')
  const rules = RULES.map(compileRules)
  const known = CASES.filter(({ to, from, tag }) => {
    const came = tag === null ? 0 : (0x8100 << 16) | tag
    const vlan = tag === null || (tag & 0xfff) === 0 ? (rules[from]?.vlans?.pvid ?? 0) : tag & 0xfff
    const enters = rules[from] === null || rules[from]!.vlans!.members[vlan] !== 0
    return enters && tagChange(rules[from]!, rules[to]!, came, vlan) !== TagChange.UNKNOWN
  })
  t.comment(`${CASES.length} frames, ${CASES.filter(isFast).length} of them fast`)
  t.same(CASES.filter(isFast).map(nameOf), known.map(nameOf), 'all that depends on the VLAN alone')
})

t.test('tags', async (t) => {
  const of = (from: PortRules, to: PortRules, tag: number | null, vlan: number) =>
    tagChange(compileRules(from), compileRules(to), tag === null ? 0 : (0x8100 << 16) | tag, vlan)
  const [access, , trunk, mixed] = RULES
  t.equal(of(access!, access!, null, 10), TagChange.NONE)
  t.equal(of(access!, trunk!, null, 10), TAGGED | 10)
  t.equal(of(trunk!, access!, 0x6000 | 10, 10), TagChange.POP)
  t.equal(of(trunk!, mixed!, 20, 20), TagChange.POP)
  t.equal(of(mixed!, trunk!, null, 20), TAGGED | 20)
  t.equal(of(access!, trunk!, 0x6000, 10), TagChange.UNKNOWN, 'a priority stays')
  t.equal(of(trunk!, access!, 20, 20), TagChange.UNKNOWN, 'it does not leave')
  t.equal(of({}, {}, 0x6000, 0), TagChange.NONE)
  t.equal(tagChange(null, null, (0x88a8 << 16) | 5, 5), TagChange.UNKNOWN)
})
