// The ways in which a bridge's port leads out of a host: a VLAN of a card, a bond of two cards, a card that is pulled,
// loses its carrier, or comes again under its name. The LAN is a namespace with a bridge.

import t, { type Test } from 'tap'
import { attempt, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, joinBridge, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }
const LAN = '192.0.2.200'
const CARDS = ['nic1', 'nic2'] as const

/** Whether the kernel has such devices; a test of one that it has not is skipped. */
async function has(t: Test, kind: 'vlan' | 'bond'): Promise<boolean> {
  const namespace = `ssw${process.pid}-${kind}`
  const ip = (words: string) => attempt('ip', words.split(' '))
  await ip(`netns add ${namespace}`)
  // The loopback device takes no VLANs.
  await ip(`-n ${namespace} link add low type veth peer name end`)
  const { code } = await ip(
    `-n ${namespace} link add ${kind === 'vlan' ? 'link low name probe type vlan id 1' : 'name probe type bond'}`,
  )
  await ip(`netns del ${namespace}`)
  if (code !== 0) t.pass(kind, { skip: `this kernel has no devices of kind ${kind}` })
  return code === 0
}

/** A host with a container on br0, and two cards on a LAN. Whoever is there has `LAN`; in VLAN 100 with `vlan`. */
async function lab(t: Test, vlan: boolean): Promise<World> {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await world.namespace('lan')
  // Whoever is there keeps its address, whichever cables come and go.
  await world.ip('lan', 'link', 'add', 'lan0', 'address', '02:00:00:00:02:00', 'type', 'bridge')
  for (const nic of CARDS) await plugIn(world, nic)
  await world.ip('lan', 'link', 'set', 'lan0', 'up')
  if (vlan) await world.ip('lan', 'link', 'add', 'link', 'lan0', 'name', 'lan0.100', 'type', 'vlan', 'id', '100')
  const own = vlan ? 'lan0.100' : 'lan0'
  await world.ip('lan', 'address', 'add', `${LAN}/24`, 'dev', own)
  await world.ip('lan', 'link', 'set', own, 'up')
  return world
}

async function plugIn(world: World, nic: string): Promise<void> {
  await world.cable(['lan', nic], ['h', nic])
  await world.ip('lan', 'link', 'set', nic, 'master', 'lan0')
}

/** Taken when all ways were open before. */
async function take(t: Test, world: World, ...ports: string[]) {
  await open(t, world, 'by the bridge')
  const daemon = await world.switch('h', { networks: {} })
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  const names = async () => (await daemon.client.ports(CALL)).map(({ name }) => name).sort()
  const are = (...wanted: string[]) =>
    until(`ports ${wanted.join(' ')}`, 20_000, async () =>
      JSON.stringify(await names()) === JSON.stringify([...wanted, 'ssw-br0'].sort()) ? true : undefined,
    )
  await are('c1', ...ports)
  await open(t, world, 'by the switch')
  return { daemon, are }
}

async function open(t: Test, world: World, how: string): Promise<void> {
  for (const from of ['c1', 'h']) {
    const pings = () => world.pings(from, LAN)
    await until(`the way from ${from} to the LAN`, 20_000, async () => ((await pings()).code === 0 ? true : undefined))
    const { code, stdout } = await pings()
    t.equal(code, 0, `${how}: ${from} to the LAN`)
    t.notMatch(stdout, /duplicates/)
  }
}

/** Segments that their sender leaves to be cut, both ways. */
async function bulk(t: Test, world: World): Promise<void> {
  const server = await world.start('lan', 'iperf3', '--server', '--forceflush')
  await until('iperf3', 10_000, () => (server.stdout.includes('listening') ? true : undefined), 20)
  for (const way of [[], ['--reverse']]) {
    const { code, stderr, stdout } = await world.try('c1', 'iperf3', '--client', LAN, '--bytes', '8M', ...way)
    t.equal(code, 0, `8 MiB by TCP ${way}: ${code === 0 ? '' : stdout.slice(-300) + stderr}`)
  }
  await server.stop()
}

t.test('a VLAN of a card is the port', root, async (t) => {
  if (!(await has(t, 'vlan'))) return
  const world = await lab(t, true)
  await world.ip('h', 'link', 'set', 'nic1', 'up')
  await world.ip('h', 'link', 'add', 'link', 'nic1', 'name', 'nic1.100', 'type', 'vlan', 'id', '100')
  await joinBridge(world, 'nic1.100')
  await take(t, world, 'nic1.100')
  await bulk(t, world)
  const wire = await world.capture('lan', 'nic1', 'icmp', 'or', 'vlan', 'and', 'icmp')
  t.equal((await world.pings('c1', LAN)).code, 0)
  await wire.says(/vlan 100.*echo reply/s)
  t.match(await wire.stop(), /vlan 100, /, 'tagged on the wire')
})

t.test('a bond of two cards is the port', root, async (t) => {
  if (!(await has(t, 'bond'))) return
  const world = await lab(t, false)
  await world.ip('h', ...'link add bond0 type bond mode active-backup miimon 50'.split(' '))
  for (const nic of CARDS) await world.ip('h', 'link', 'set', nic, 'master', 'bond0')
  await joinBridge(world, 'bond0')
  const { daemon, are } = await take(t, world, 'bond0')
  await bulk(t, world)
  const streams = [
    await Stream.start(world, 'c1', 'lan', LAN, 5001),
    await Stream.start(world, 'lan', 'h', HOST_ADDRESS, 5002),
  ]
  for (const nic of CARDS) {
    await world.ip('lan', 'link', 'set', nic, 'down')
    await open(t, world, `${nic} has no carrier`)
    await world.ip('lan', 'link', 'set', nic, 'up')
    await world.linkSays('h', nic, /state UP/)
  }
  await world.ip('h', 'link', 'set', 'nic1', 'nomaster')
  await open(t, world, 'nic1 has left the bond')
  await are('c1', 'bond0')
  for (const stream of streams) {
    const { sent, lost, doubled } = await stream.end()
    t.comment(`${stream.name}: ${sent} sent, ${lost} lost while cards changed`)
    t.equal(doubled, 0, `${stream.name}: none twice`)
  }
  t.equal((await daemon.client.bridges(CALL))[0]!.problem, null)
})

t.test('a card is pulled, comes again under its name, and loses its carrier', root, async (t) => {
  const world = await lab(t, false)
  await joinBridge(world, 'nic1')
  const { daemon, are } = await take(t, world, 'nic1')
  for (let time = 0; time < 3; time++) {
    // As when its driver is taken off it: the device goes, and another one comes, with an index of its own.
    await world.ip('h', 'link', 'delete', 'nic1')
    await plugIn(world, 'nic1')
    await joinBridge(world, 'nic1')
    await open(t, world, `come again ${time + 1}`)
    await are('c1', 'nic1')
  }
  await world.ip('h', 'link', 'delete', 'nic1')
  await are('c1')
  t.equal((await world.pings('c1', HOST_ADDRESS)).code, 0)
  await plugIn(world, 'nic1')
  await joinBridge(world, 'nic1')
  await are('c1', 'nic1')
  const before = (await daemon.port('nic1')).counters.txFrames
  for (let time = 0; time < 3; time++) {
    await world.ip('lan', 'link', 'set', 'nic1', 'down')
    await world.linkSays('h', 'nic1', /NO-CARRIER/)
    await world.ip('lan', 'link', 'set', 'nic1', 'up')
    await open(t, world, `the carrier is back ${time + 1}`)
  }
  t.ok((await daemon.port('nic1')).counters.txFrames > before, 'by the switch')
  // It goes to a container, as `ip link set nic1 netns` and some runtimes do.
  await world.ip('h', 'link', 'set', 'nic1', 'netns', world.name('c1'))
  await are('c1')
  await daemon.client.giveBridge('br0', CALL)
  t.equal(await world.in('h', 'nft', 'list', 'ruleset'), '')
  await until('the way by the bridge', 20_000, async () =>
    (await world.pings('c1', HOST_ADDRESS)).code === 0 ? true : undefined,
  )
})
