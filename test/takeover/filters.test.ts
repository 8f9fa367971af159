// Packet filters of the older kinds, which a switch in the place of a bridge would pass by: iptables by way of
// br_netfilter, ebtables and iptables as they were before nftables. Where the kernel has them.

import t, { type Test } from 'tap'
import { attempt } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }

t.test('filters that frames between ports pass', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  const daemon = await world.switch('h', { networks: {} })
  const taken = async () => {
    t.match(await daemon.client.takeBridge({ bridge: 'br0' }, CALL), { taken: true })
    await daemon.client.giveBridge('br0', CALL)
  }
  /** `command` and a rule: refused while it is there. */
  const refused = async (t: Test, message: RegExp, program: string, ...rule: string[]) => {
    const change = (how: string) => world.try('h', program, ...rule.map((word) => (word === '-A' ? how : word)))
    const { code, stderr } = await change('-A')
    if (code !== 0) {
      t.pass('refused', { skip: stderr.trim().split('\n')[0] ?? `no ${program}` })
      return
    }
    await t.rejects(daemon.client.takeBridge({ bridge: 'br0' }, CALL), { code: 'BRIDGE_FILTERED', message })
    const ignoring = await daemon.client.takeBridge({ bridge: 'br0', ignoreFilters: true }, CALL)
    t.match(ignoring, { taken: true })
    await daemon.client.giveBridge('br0', CALL)
    t.equal((await change('-D')).code, 0)
  }
  await taken()
  await t.test('ebtables of nftables', (t) =>
    refused(t, /packet filters of bridges \(filter\)/, 'ebtables-nft', '-A', 'FORWARD', '-p', 'arp', '-j', 'DROP'),
  )
  await t.test('ebtables of before', async (t) => {
    await refused(t, /\(ebtables filter\)/, 'ebtables-legacy', '-A', 'FORWARD', '-p', 'arp', '-j', 'DROP')
    await taken()
  })
  await t.test('iptables by way of br_netfilter', async (t) => {
    await attempt('modprobe', ['br_netfilter']).catch(() => undefined)
    const calls = await world.try('h', 'cat', '/proc/sys/net/bridge/bridge-nf-call-iptables')
    if (calls.stdout.trim() !== '1') {
      t.pass('refused', { skip: 'this kernel has no br_netfilter' })
      return
    }
    await taken()
    const found = /iptables, to which br_netfilter gives bridged frames/
    const physdev = ['-m', 'physdev', '--physdev-in', 'c1', '-j', 'ACCEPT']
    await t.test('a rule', (t) => refused(t, found, 'iptables-nft', '-A', 'FORWARD', '-s', '192.0.2.11', '-j', 'DROP'))
    await t.test('physdev', (t) => refused(t, found, 'iptables-nft', '-t', 'mangle', '-A', 'PREROUTING', ...physdev))
    await t.test('of IPv6', (t) => refused(t, found, 'ip6tables-nft', '-A', 'FORWARD', '-j', 'DROP'))
    // The kernel does not tell these rules, but that there is their table.
    await t.test('of before nftables', (t) => refused(t, found, 'iptables-legacy', '-A', 'FORWARD', ...physdev))
    await world.in('h', 'sh', '-c', 'for file in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 >"$file"; done')
    await taken()
  })
})
