// Mirrors disturb nothing: with one, the same frames make the same outputs, counts and channel state as without.

import t from 'tap'
import { Counter, Drop, ROW } from '../../switch/forwarding/counters.js'
import { frame, GROUP, mac, Rig } from './rig.js'

const [ONE, TWO, OUTSIDE, MIRROR] = [0, 1, 2, 3]

function run(rules: object | null) {
  const rig = new Rig(['member', 'member', 'plain'], {}, 5)
  if (rules !== null) rig.add(MIRROR, 'plain', 0, rules)
  const { forwarder } = rig
  const send = (port: number, to: Uint8Array, id: number) =>
    forwarder.receive(port, frame({ to, from: mac(port + 1), id }), rig.now)
  send(ONE, GROUP, 1)
  send(TWO, mac(1), 2)
  send(ONE, mac(2), 3)
  send(OUTSIDE, mac(2), 4)
  forwarder.snapshots.begin(6, 'buffer', Number.POSITIVE_INFINITY, rig.now)
  forwarder.snapshots.arm([ONE, TWO])
  send(ONE, mac(2), 5)
  forwarder.snapshots.flip([TWO], 6, [1], rig.now)
  // In transit, then early.
  send(ONE, mac(2), 6)
  send(TWO, mac(1), 7)
  forwarder.snapshots.flip([ONE], 6, [0], rig.now)
  send(TWO, mac(1), 8)
  rig.now += 300
  forwarder.tick(rig.now)
  const state = forwarder.snapshots.end()
  return {
    rig,
    frames: [ONE, TWO, OUTSIDE].map((port) => rig.outputs[port]!.take()),
    counters: [...rig.counters.subarray(0, 3 * ROW)],
    channel: state,
    events: rig.events,
  }
}

t.test('a mirror, and none', async (t) => {
  const without = run(null)
  const { rig, ...rest } = run({ mirror: { of: ['p0'], direction: 'in' } })
  const { rig: _, ...expected } = without
  t.same(rest, expected)
  t.same(rig.outputs[MIRROR]!.ids(), [1, 3, 5, 6])
  t.same(run({ mirror: { of: ['p1'], direction: 'out' } }).rig.outputs[MIRROR]!.ids(), [1, 3, 4, 5, 6])
  const copies = run({ mirror: { of: ['p0', 'p1'] } }).rig.outputs[MIRROR]!.take()
  t.ok(copies.every(({ serviceTci }) => serviceTci === -1))
  // What comes in by it goes nowhere.
  rig.forwarder.receive(MIRROR, frame({ to: GROUP, from: mac(9) }), rig.now)
  t.same(
    rig.outputs.flatMap((output) => output.ids()),
    [],
  )
  t.equal(rig.counters[MIRROR * ROW + Drop.mirror], 1)
  t.equal(rig.counters[MIRROR * ROW + Counter.rxFrames], 1)
  t.equal(rig.forwarder.fdb.size, 3)
})
