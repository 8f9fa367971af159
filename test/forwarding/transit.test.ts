// A switch that passes frames from trunk to trunk: what one peer sent before its cut still goes through it to the
// others, so they hear of its own cut only when that has come to an end. Found by the simulation of random schedules.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { ControlType } from '../../src/frame/control.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { Peer } from './peer.js'
import { mac, Rig } from './rig.js'

const LATER = 1e15

function markers(peer: Peer): number[] {
  return peer.heard().flatMap(({ type, count }) => (type === ControlType.MARKER ? [count] : []))
}

function rigWith(transit: boolean): { rig: Rig; one: Peer; two: Peer } {
  const rig = new Rig(['member', 'trunk', 'trunk'], { transit }, 3)
  const one = new Peer(rig, 1, 'b1').meet(3)
  const two = new Peer(rig, 2, 'b2').meet(3)
  rig.clear()
  rig.forwarder.snapshots.begin(4, 'buffer', LATER, rig.now)
  rig.forwarder.snapshots.flip([0], 4, [0], rig.now)
  return { rig, one, two }
}

t.test('without transit every peer is told at once', async (t) => {
  const { one, two } = rigWith(false)
  t.same([markers(one), markers(two)], [[0], [0]])
})

t.test(
  'with transit a peer is told when the channels of all others are closed, with what went through counted',
  async (t) => {
    const { rig, one, two } = rigWith(true)
    t.same([markers(one), markers(two)], [[], []], 'frames from before the cut may still come through us')
    one.say(ControlType.MARKER, 4, 1)
    rig.tick(1)
    t.same(markers(two), [], 'one is still on its way')
    rig.receive(1, { from: mac(7), id: 1, tag: one.tag(3) })
    rig.tick(1)
    t.same([markers(one), markers(two)], [[], [1]], 'it has gone on to the other peer, and is counted')
    t.same(rig.events, [], 'the other has not cut')
    two.say(ControlType.MARKER, 4, 0)
    rig.tick(1)
    t.same(markers(one), [0])
    t.match(rig.events, [{ kind: 'closed', epoch: 4 }])
  },
)

t.test(
  'a switch without members goes along with the epochs, or it could not read colors after a lap of them',
  async (t) => {
    const rig = new Rig(['trunk', 'trunk'], { transit: true }, 0)
    for (let epoch = 400; epoch <= 8000; epoch += 400) {
      rig.forwarder.snapshots.begin(epoch, 'buffer', LATER, rig.now)
      rig.forwarder.snapshots.end()
    }
    t.equal(rig.forwarder.network.epoch, 8000)
    rig.receive(0, { from: mac(7), id: 1, tag: [EtherType.SERVICE_VLAN, colorVid(8001)] })
    t.equal(rig.forwarder.byIndex[1]?.channel?.sent.below(8001), 0)
    t.equal(rig.forwarder.byIndex[1]?.channel?.sent.below(8002), 1)
  },
)
