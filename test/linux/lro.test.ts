// A card's LRO is switched off while it is a port, and on again. No device of a test has it: what the kernel is asked
// is tried with a flag beside it.

import t from 'tap'
import { Links } from '../../src/linux/link.js'
import { flagsOf, switchLroOff } from '../../src/linux/lro.js'
import { enterFreshNamespace, run } from './namespace.js'

enterFreshNamespace()

const LRO = 1 << 15
const TX_VLAN = 1 << 7

t.test('it is off from now on, and what else the device does stays', async (t) => {
  let flags = LRO | TX_VLAN
  const device = {
    read: () => flags,
    write: (now: number) => {
      flags = now
    },
  }
  const undo = switchLroOff(device)
  t.equal(flags, TX_VLAN)
  flags = 0
  undo?.()
  t.equal(flags, LRO, 'what was changed meanwhile stays changed')
  flags = TX_VLAN
  t.equal(switchLroOff(device), null, 'one that has none is left alone')
  t.equal(flags, TX_VLAN)
  t.equal(switchLroOff({ ...device, read: () => null }), null)
})

t.test('what a device does is read and changed', async (t) => {
  run('ip', 'link', 'add', 'near', 'type', 'veth', 'peer', 'name', 'far')
  const links = new Links()
  t.teardown(() => links.close())
  const device = flagsOf(links.get('near').index)
  const before = device.read() ?? 0
  t.equal(before & LRO, 0)
  t.equal(switchLroOff(device), null)
  const says = () => /^tx-vlan-offload: (on|off)/m.exec(run('ethtool', '-k', 'near'))?.[1]
  t.equal(says(), (before & TX_VLAN) === 0 ? 'off' : 'on')
  device.write(before ^ TX_VLAN)
  t.equal(says(), (before & TX_VLAN) === 0 ? 'on' : 'off')
  t.equal(device.read(), before ^ TX_VLAN)
  run('ip', 'link', 'del', 'near')
  t.equal(device.read(), null, 'gone')
})
