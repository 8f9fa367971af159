// A switch that passes frames from trunk to trunk: what one peer sent before its cut still goes through it to the others, so
// they hear of its own cut only when that has come to an end. Found by the simulation of random schedules.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { ControlType, decodeControl, encodeControl } from '../../src/frame/control.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { GROUP, mac, Rig } from './rig.js'

const LATER = 1e15
const PEER = 'bbbbbbbbbbbbbbbb'

function control(rig: Rig, port: number, type: ControlType, epoch: number, count: number): void {
  const bytes = encodeControl({ type, bootId: PEER, network: 'lab0', host: `b${port}`, epoch, count }, GROUP, mac(99))
  rig.receive(port, { to: GROUP, from: mac(99), type: EtherType.CONTROL, payload: bytes.slice(14) })
}

function markers(rig: Rig, port: number): number[] {
  return rig.outputs[port].take().flatMap(({ bytes }) => {
    const message = bytes[12] === 0x88 && bytes[13] === 0xb5 ? decodeControl(bytes) : null
    return message !== null && typeof message !== 'string' && message.type === ControlType.MARKER ? [message.count] : []
  })
}

function rigWith(transit: boolean): Rig {
  const rig = new Rig(['member', 'trunk', 'trunk'], { transit }, 3)
  for (const port of [1, 2]) control(rig, port, ControlType.HELLO, 3, 0)
  rig.clear()
  rig.forwarder.snapshots.begin(4, 'buffer', LATER, rig.now)
  rig.forwarder.snapshots.flip([0], 4, [0], rig.now)
  return rig
}

t.test('without transit every peer is told at once', async (t) => {
  const rig = rigWith(false)
  t.same([markers(rig, 1), markers(rig, 2)], [[0], [0]])
})

t.test(
  'with transit a peer is told when the channels of all others are closed, with what went through counted',
  async (t) => {
    const rig = rigWith(true)
    t.same([markers(rig, 1), markers(rig, 2)], [[], []], 'frames from before the cut may still come through us')
    control(rig, 1, ControlType.MARKER, 4, 1)
    rig.tick(1)
    t.same(markers(rig, 2), [], 'one is still on its way')
    rig.receive(1, { from: mac(7), id: 1, tag: [EtherType.SERVICE_VLAN, colorVid(3)] })
    rig.tick(1)
    t.same([markers(rig, 1), markers(rig, 2)], [[], [1]], 'it has gone on to the other peer, and is counted')
    t.same(rig.events, [], 'the other has not cut')
    control(rig, 2, ControlType.MARKER, 4, 0)
    rig.tick(1)
    t.same(markers(rig, 1), [0])
    t.match(rig.events, [{ kind: 'closed', epoch: 4 }])
  },
)

t.test(
  'a switch without members goes along with the epochs, or it could not read colors after a lap of them',
  async (t) => {
    const rig = new Rig(['trunk', 'trunk'], { transit: true }, 0)
    for (let epoch = 2000; epoch <= 8000; epoch += 2000) {
      rig.forwarder.snapshots.begin(epoch, 'buffer', LATER, rig.now)
      rig.forwarder.snapshots.end()
    }
    t.equal(rig.forwarder.epoch, 8000)
    rig.receive(0, { from: mac(7), id: 1, tag: [EtherType.SERVICE_VLAN, colorVid(8001)] })
    t.equal(rig.forwarder.byIndex[1]?.channel?.sent.below(8001), 0)
    t.equal(rig.forwarder.byIndex[1]?.channel?.sent.below(8002), 1)
  },
)
