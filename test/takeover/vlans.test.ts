// A bridge that filters VLANs is taken over: access ports, a trunk, and the host on VLANs of its own. Who hears whom is
// as it was on the bridge, also when VLANs change meanwhile. Where the kernel has such bridges.

import t, { type Test } from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, found, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(180_000))
const CALL = { deadlineMs: patience(20_000) }

/** Namespace, address and VLAN of each end. Subnets are 192.0.2.0/24 in VLAN 10, 198.51.100.0/24 in VLAN 20. */
const ENDS = {
  'host in 10': ['h', '192.0.2.1', 10],
  'host in 20': ['h', '198.51.100.1', 20],
  'access 10': ['c1', '192.0.2.11', 10],
  'also 10': ['c2', '192.0.2.12', 10],
  'access 20': ['c3', '198.51.100.13', 20],
  // An address of VLAN 10 at a port that is not in it.
  stranger: ['c3', '192.0.2.13', 20],
  'trunk in 10': ['trunk', '192.0.2.14', 10],
  'trunk in 20': ['trunk', '198.51.100.14', 20],
} as const
type End = keyof typeof ENDS
/** Ends whose VLAN is another one now. */
type Moved = Partial<Record<End, number>>
const NONE = 0
const NAMES = Object.keys(ENDS) as End[]
const subnet = (end: End) => ENDS[end][1].split('.')[0]
/** Ends that would speak to one another on one cable. */
const PAIRS = NAMES.flatMap((one, at) =>
  NAMES.slice(at + 1).flatMap((other) =>
    subnet(one) === subnet(other) && ENDS[one][0] !== ENDS[other][0] ? [[one, other] as const] : [],
  ),
)

t.test('a bridge that filters VLANs, taken and given back under traffic', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  const aware = await world.try('h', 'ip', 'link', 'set', 'br0', 'type', 'bridge', 'vlan_filtering', '1')
  if (aware.code !== 0) {
    t.pass('taken', { skip: 'this kernel has no CONFIG_BRIDGE_VLAN_FILTERING' })
    return
  }
  const vlan = (...words: string[]) => world.in('h', 'bridge', 'vlan', ...words)
  // The host: VLAN 10 is what br0 itself is in, untagged; VLAN 20 comes to it tagged.
  await world.ip('h', 'address', 'flush', 'dev', 'br0')
  await vlan('del', 'dev', 'br0', 'vid', '1', 'self')
  await vlan('add', 'dev', 'br0', 'vid', '10', 'pvid', 'untagged', 'self')
  await vlan('add', 'dev', 'br0', 'vid', '20', 'self')
  await world.ip('h', 'address', 'add', '192.0.2.1/24', 'dev', 'br0')
  await tagged(world, 'h', 'br0', 20, '198.51.100.1')
  for (const [name, address, id] of [
    ['c1', '192.0.2.11', '10'],
    ['c2', '192.0.2.12', '10'],
    ['c3', '198.51.100.13', '20'],
  ] as const) {
    await container(world, name, address)
    await vlan('del', 'dev', name, 'vid', '1')
    await vlan('add', 'dev', name, 'vid', id, 'pvid', 'untagged')
  }
  await world.endpoint('trunk', 'h')
  await world.ip('h', 'link', 'set', 'trunk', 'master', 'br0', 'up')
  await world.ip('c3', 'address', 'add', '192.0.2.13/24', 'dev', 'eth0')
  await vlan('del', 'dev', 'trunk', 'vid', '1')
  for (const id of ['10', '20']) await vlan('add', 'dev', 'trunk', 'vid', id)
  await tagged(world, 'trunk', 'eth0', 10, '192.0.2.14')
  await tagged(world, 'trunk', 'eth0', 20, '198.51.100.14')

  // No end answers by one device for what is another one's.
  for (const label of ['h', 'c3', 'trunk']) await world.in(label, 'sysctl', '-qw', 'net.ipv4.conf.all.arp_ignore=1')

  const before = { bridge: await found(world), vlans: await vlan('show') }
  const hears = (t: Test, why: string, moved: Moved = {}) => hear(t, world, why, moved)
  await hears(t, 'the bridge')

  const daemon = await world.switch('h', { networks: {} })
  const streams = [
    await Stream.start(world, 'c1', 'c2', '192.0.2.12', 5001),
    await Stream.start(world, 'c1', 'trunk', '192.0.2.14', 5002),
    await Stream.start(world, 'trunk', 'h', '198.51.100.1', 5003),
    await Stream.start(world, 'h', 'c3', '198.51.100.13', 5004),
    await Stream.start(world, 'c2', 'h', '192.0.2.1', 5005),
  ]
  for (let round = 0; round < 3; round++) {
    t.match(await daemon.client.takeBridge({ bridge: 'br0' }, CALL), { taken: true, problem: null, warnings: [] })
    await passes(daemon, 'trunk')
    await daemon.client.giveBridge('br0', CALL)
  }
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  for (const stream of streams) {
    const { sent, lost, doubled, longestGap } = await stream.end()
    t.comment(`${stream.name}: ${sent} sent, ${lost} lost, ${doubled} doubled, longest gap ${longestGap.toFixed(1)} ms`)
    t.same({ lost, doubled }, { lost: 0, doubled: 0 }, stream.name)
  }
  await hears(t, 'the switch')

  await t.test('VLANs change while it is taken', (t) => changes(t, world, daemon, vlan, hears))
  await hears(t, 'as before the changes')
  await daemon.client.giveBridge('br0', CALL)
  t.same({ bridge: await found(world), vlans: await vlan('show') }, before, 'as it was found')
  await hears(t, 'the bridge again')
})

/** A device for one VLAN. */
async function tagged(world: World, label: string, device: string, id: number, address: string): Promise<void> {
  const name = `${device}.${id}`
  await world.ip(label, 'link', 'add', 'link', device, 'name', name, 'type', 'vlan', 'id', String(id))
  await world.ip(label, 'address', 'add', `${address}/24`, 'dev', name)
  await world.ip(label, 'link', 'set', name, 'up')
}

/** Who is in one VLAN hears each other, and nobody else does. */
async function hear(t: Test, world: World, why: string, moved: Moved): Promise<void> {
  const vlanOf = (end: End) => moved[end] ?? ENDS[end][2]
  const joined = ([one, other]: readonly [End, End]) => vlanOf(one) === vlanOf(other)
  const together = PAIRS.filter(joined)
  await Promise.all(
    together.map(([one, other]) =>
      until(`${why}: ${one} - ${other}`, 10_000, async () => ((await asks(world, one, other)) ? true : undefined)),
    ),
  )
  t.pass(`${why}: ${together.length} pairs hear each other`)
  const others = PAIRS.filter((pair) => !joined(pair))
  const heard = await Promise.all(others.map(async ([one, other]) => (await asks(world, one, other)) && [one, other]))
  t.same(
    heard.filter((pair) => pair !== false),
    [],
    `${why}: ${others.length} pairs do not`,
  )
}

/** Whether one answers the other, soon: who does not must not be waited for long. */
async function asks(world: World, from: End, to: End): Promise<boolean> {
  const [label, own] = ENDS[from]
  return (await world.try(label, 'ping', '-n', '-q', '-c', '1', '-W', '1', '-I', own, ENDS[to][1])).code === 0
}

type Daemon = Awaited<ReturnType<World['switch']>>

async function passes(daemon: Daemon, name: string): Promise<void> {
  const { counters: before } = await daemon.port(name)
  await until(`frames at ${name}`, 10_000, async () => {
    const { counters } = await daemon.port(name)
    return counters.rxFrames > before.rxFrames && counters.txFrames > before.txFrames ? true : undefined
  })
}

async function changes(
  t: Test,
  world: World,
  daemon: Daemon,
  vlan: (...words: string[]) => Promise<string>,
  hears: (t: Test, why: string, moved?: Moved) => Promise<void>,
): Promise<void> {
  const rules = (port: string, wanted: unknown) =>
    until(`the rules of ${port}`, 10_000, async () =>
      JSON.stringify((await daemon.port(port)).rules?.vlan ?? null) === JSON.stringify(wanted) ? true : undefined,
    )
  await vlan('del', 'dev', 'trunk', 'vid', '20')
  await rules('trunk', { untagged: [], tagged: [10] })
  await hears(t, 'a VLAN less at the trunk', { 'trunk in 20': NONE })
  await vlan('add', 'dev', 'trunk', 'vid', '20')
  await rules('trunk', { untagged: [], tagged: [10, 20] })

  await vlan('add', 'dev', 'c2', 'vid', '20', 'pvid', 'untagged')
  await vlan('del', 'dev', 'c2', 'vid', '10')
  await rules('c2', { pvid: 20, untagged: [20], tagged: [] })
  await hears(t, 'a port in another VLAN', { 'also 10': 20 })
  await world.ip('c2', 'address', 'add', '198.51.100.12/24', 'dev', 'eth0')
  t.equal((await world.pings('c2', '198.51.100.13')).code, 0)
  await world.ip('c2', 'address', 'del', '198.51.100.12/24', 'dev', 'eth0')
  await vlan('add', 'dev', 'c2', 'vid', '10', 'pvid', 'untagged')
  await vlan('del', 'dev', 'c2', 'vid', '20')
  await rules('c2', { pvid: 10, untagged: [10], tagged: [] })

  await vlan('del', 'dev', 'br0', 'vid', '20', 'self')
  await rules('ssw-br0', { tagged: [10] })
  await hears(t, 'a VLAN less at the bridge itself', { 'host in 20': NONE })
  await vlan('add', 'dev', 'br0', 'vid', '20', 'self')
  await rules('ssw-br0', { tagged: [10, 20] })
}
