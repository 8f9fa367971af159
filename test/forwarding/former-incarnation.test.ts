// What comes late from before: a discard of an older snapshot while a newer one cuts, frames of a former incarnation
// after a restore. Both were found by the simulation of random schedules.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { mac, Rig } from './rig.js'

t.test('calling an older snapshot off leaves a newer one and its gates alone', async (t) => {
  const rig = new Rig(['member', 'member', 'trunk'])
  const { forwarder } = rig
  const { snapshots } = forwarder
  snapshots.begin(6, 'buffer', 1e15, rig.now)
  snapshots.gate([0, 1], rig.now)
  snapshots.advance(5, rig.now)
  t.equal(snapshots.openEpoch, 6)
  t.ok(forwarder.ports[0].closed && forwarder.ports[1].closed, 'gates stay closed')
  t.equal(forwarder.ports[0].epoch, 0, 'the cut itself will move the port on')
  snapshots.flip([0, 1], 6, [0, 0], rig.now)
  snapshots.release([0, 1], rig.now)
  t.equal(forwarder.ports[0].epoch, 6)
  snapshots.advance(6, rig.now)
  t.equal(snapshots.openEpoch, null, 'its own discard does call it off')
})

t.test('calling an older snapshot off leaves the gates of a restore closed', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 5)
  const { forwarder } = rig
  forwarder.snapshots.fence([0], 7, rig.now)
  forwarder.snapshots.advance(6, rig.now)
  t.ok(forwarder.ports[0].closed)
  forwarder.snapshots.advance(7, rig.now)
  t.notOk(forwarder.ports[0].closed, 'the restore’s own undoing opens them')
})

t.test('a frame of a former incarnation does not teach where its sender is', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 5)
  const { snapshots } = rig.forwarder
  const restored = mac(1)
  snapshots.fence([0], 6, rig.now)
  snapshots.release([0], rig.now)
  // Its machine was on the peer's host and now lives here; this frame was still on its way.
  rig.receive(1, { from: restored, id: 1, tag: [EtherType.SERVICE_VLAN, colorVid(5)] })
  t.same(rig.outputs[0].ids(), [], 'it does not pass the fence')
  rig.receive(1, { from: mac(2), to: restored, id: 2, tag: [EtherType.SERVICE_VLAN, colorVid(6)] })
  t.same(rig.outputs[0].ids(), [2], 'what is for the machine reaches it here')
  rig.receive(1, { from: mac(3), id: 3, tag: [EtherType.SERVICE_VLAN, colorVid(6)] })
  rig.clear()
  rig.receive(0, { from: restored, to: mac(3), id: 4 })
  t.same(rig.outputs[1].ids(), [4], 'frames of this incarnation do teach')
})

t.test('a new forwarder that is told of the last restore stops what is older', async (t) => {
  const rig = new Rig([], {}, 6)
  rig.forwarder.network.raiseFence(6)
  rig.add(0, 'member', 6)
  rig.add(1, 'trunk')
  rig.receive(1, { from: mac(2), id: 1, tag: [EtherType.SERVICE_VLAN, colorVid(5)] })
  rig.receive(1, { from: mac(2), id: 2, tag: [EtherType.SERVICE_VLAN, colorVid(6)] })
  t.same(rig.outputs[0].ids(), [2])
  t.equal(rig.drops(0, 'fenced'), 1)
})
