// What a forwarder's parts share: the epoch and the fence only grow, whoever raises them, and ports come and go with
// what is known of them.

import t from 'tap'
import { createCounters } from '../../switch/forwarding/counters.js'
import { NO_PORT } from '../../switch/forwarding/fdb.js'
import { Network } from '../../switch/forwarding/network.js'
import { PortState } from '../../switch/forwarding/port-state.js'
import { defaults, type Kind, mac, RecordingOutput } from './rig.js'

function portOf(network: Network, index: number, kind: Kind, epoch = 0): PortState {
  const spec = { index, name: `p${index}`, kind, vm: null, epoch, mac: mac(index) }
  return new PortState(spec, new RecordingOutput(), network)
}

t.test('epoch and fence only grow', async (t) => {
  const network = new Network(defaults, createCounters())
  for (const [asked, is] of [
    [3, 3],
    [2, 3],
    [7, 7],
  ]) {
    network.raiseEpoch(asked)
    network.raiseFence(asked)
    t.same([network.epoch, network.fence], [is, is])
  }
  network.add(portOf(network, 0, 'member', 5))
  network.add(portOf(network, 1, 'plain', 90))
  t.equal(network.epoch, 7, 'an older member, or a port that has no epoch, changes nothing')
  network.add(portOf(network, 2, 'member', 9))
  t.equal(network.epoch, 9, 'a newer member does')
  t.same(
    network.ports.map((port) => port.fence),
    [7, 0, 7],
    'members get the fence',
  )
})

t.test('ports come in their order, and go with what was learned from them', async (t) => {
  const network = new Network(defaults, createCounters())
  const [first, last, between] = [0, 1, 2].map((index) => portOf(network, index, 'plain'))
  network.add(first)
  network.add(last)
  network.add(between, last)
  t.same(network.ports, [first, between, last])
  network.fdb.learn(2, 1, 0, between.index, 0)
  network.remove(between)
  t.same([network.ports, network.byIndex[2]], [[first, last], undefined])
  t.equal(network.fdb.lookUp(2, 1, 0, 0), NO_PORT)
})
