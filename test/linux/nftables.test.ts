// Packet filter rules against the kernel, with nft(8) as judge: what we make is what it lists, in force at once, and
// gone with its socket.

import t from 'tap'
import { Links } from '../../src/linux/link.js'
import {
  addChain,
  addDeviceSet,
  addDrop,
  addTable,
  BridgeHook,
  changeDevices,
  Family,
  INGRESS,
  Nftables,
  removeChain,
} from '../../src/linux/nftables.js'
import { enterFreshNamespace, run } from './namespace.js'

enterFreshNamespace()

t.test('tables with sets, chains at hooks and rules; they go with their owner', async (t) => {
  const links = new Links()
  t.teardown(() => links.close())
  run('ip', 'link', 'add', 'ssw-a', 'type', 'veth', 'peer', 'name', 'ssw-b')
  const { index } = links.get('ssw-a')
  const tables = new Nftables()
  tables.commit('try', [
    addTable(Family.bridge, 'ssw'),
    addDeviceSet(Family.bridge, 'ssw', 'taken'),
    addChain(Family.bridge, 'ssw', 'out', { number: BridgeHook.output, priority: 0 }),
    addDrop(Family.bridge, 'ssw', 'out', [{ kind: 'set', way: 'oif', set: 'taken' }]),
    changeDevices(Family.bridge, 'ssw', 'taken', 'add', [index]),
    addTable(Family.netdev, 'ssw'),
    addChain(Family.netdev, 'ssw', 'in', { number: INGRESS, priority: 0, device: 'ssw-a' }),
    addDrop(Family.netdev, 'ssw', 'in', [{ kind: 'device', way: 'iif', index }]),
  ])
  const listed = run('nft', 'list', 'ruleset')
  t.match(listed, /table bridge ssw \{.*\n\s*flags owner/)
  t.match(listed, /elements = \{ "?ssw-a"? \}/)
  t.match(listed, /type filter hook output priority (filter|0); policy accept;\s*oif @taken drop/)
  t.match(listed, /type filter hook ingress device "?ssw-a"? priority (filter|0); policy accept;\s*iif "ssw-a" drop/)
  t.match(tables.chains(Family.bridge), [{ table: 'ssw', name: 'out', hook: BridgeHook.output, drops: false }])
  t.same(
    tables.chains(Family.netdev).map(({ devices }) => devices),
    [['ssw-a']],
  )
  t.same(tables.rules(Family.bridge), [{ table: 'ssw', chain: 'out', asksForBridgePort: false }])
  t.throws(() => tables.commit('try', [addTable(Family.bridge, 'other'), addTable(Family.bridge, 'ssw')]), {
    code: 'SYSCALL',
    message: /EEXIST/,
  })
  t.notMatch(run('nft', 'list', 'tables'), 'other', 'all of a batch or nothing')
  t.throws(() => run('nft', 'delete', 'table', 'bridge', 'ssw'), 'nobody else may')
  tables.commit('try', [
    removeChain(Family.netdev, 'ssw', 'in'),
    changeDevices(Family.bridge, 'ssw', 'taken', 'remove', [index]),
  ])
  t.notMatch(run('nft', 'list', 'ruleset'), /ssw-a/)
  tables.close()
  // The kernel removes them from a work queue of its own.
  for (let at = 0; run('nft', 'list', 'ruleset') !== '' && at < 500; at++)
    await new Promise((next) => setTimeout(next, 10))
  t.equal(run('nft', 'list', 'ruleset'), '')
})
