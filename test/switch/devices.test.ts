// What happens to a device while it is a port: another name, MTU, address or namespace; somebody of the host who uses
// it; two devices that are one cable. A port is true to its device, and nothing is done to a stranger that has its
// name.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, stations, testFrame } from './station.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const ports = { one: { device: 'one' }, two: { device: 'two' } }
const lab0 = (more: object = {}, network: object = {}) => ({
  networks: { lab0: { ports: { ...ports, ...more }, ...network } },
})

async function twoEndpoints(t: { teardown(end: () => Promise<void>): void }, ipv6 = false): Promise<World> {
  const world = World.for(t)
  await world.namespace('host', { ipv6 })
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  return world
}

const reaches = (world: World, from: string, address: string) =>
  until(`${from} to ${address}`, 15_000, async () => ((await world.pings(from, address)).code === 0 ? true : undefined))

/** Waits until a port says what is wanted of it; what it said last is in the error. */
async function says(daemon: Switch, port: string, wanted: object, t: Tap): Promise<void> {
  const matches = async () => t.compare(await daemon.port(port), wanted)
  await until(`port ${port}`, 8000, async () => ((await matches()) ? true : undefined)).catch(() => undefined)
  t.match(await daemon.port(port), wanted)
}

interface Tap {
  compare(found: object, wanted: object): boolean
  match(found: unknown, wanted: object): boolean
}
const withCompare = (t: { match(found: unknown, wanted: object): boolean }): Tap => ({
  match: (found, wanted) => t.match(found, wanted),
  compare: (found, wanted) => {
    const fits = (is: unknown, want: unknown): boolean => {
      if (want instanceof RegExp) return typeof is === 'string' && want.test(is)
      if (want === null || typeof want !== 'object') return is === want
      if (Array.isArray(want) && (!Array.isArray(is) || is.length !== want.length)) return false
      return Object.entries(want).every(([key, value]) => fits((is as Record<string, unknown> | null)?.[key], value))
    }
    return fits(found, wanted)
  },
})

t.test('a renamed device stays a port, and a stranger of its name is left alone', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t, true)
  await world.namespace('stranger')
  const ipv6 = async (device: string) =>
    (await world.in('host', 'cat', `/proc/sys/net/ipv6/conf/${device}/disable_ipv6`)).trim()
  const daemon = await world.switch('host', lab0())
  await reaches(world, 'one', '10.66.0.2')
  const rename = async (from: string, to: string) => {
    await world.ip('host', 'link', 'set', from, 'down')
    await world.ip('host', 'link', 'set', from, 'name', to)
    await world.ip('host', 'link', 'set', to, 'up')
  }
  await rename('two', 'renamed')
  await world.cable(['stranger', 'eth0'], ['host', 'two'])
  await world.in('host', 'sysctl', '-qw', 'net.ipv6.conf.two.disable_ipv6=1')
  await says(daemon, 'two', { device: 'two', ifname: 'renamed', up: true, warnings: [{ code: 'DEVICE_RENAMED' }] }, tap)
  await reaches(world, 'one', '10.66.0.2')
  // What changes of it is seen under its new name, too.
  await world.ip('host', 'link', 'set', 'renamed', 'mtu', '1400')
  await says(daemon, 'two', { mtu: 1400, problem: null }, tap)
  const fdb = await daemon.client.fdb('lab0', { deadlineMs: patience(5000) })
  t.same(fdb.map(({ ifname }) => ifname).sort(), ['one', 'renamed'])
  t.equal(await daemon.stop(), 0)
  t.same([await ipv6('renamed'), await ipv6('two')], ['0', '1'], 'its own is given back, the stranger’s is as it was')
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'renamed'), /clsact/)
  t.match(await world.ip('host', '-o', 'link', 'show', 'two'), /state DOWN/, 'nobody has set it up')

  // Renamed while no daemon lives: the next one gives it back, though it takes the stranger.
  await world.ip('host', 'link', 'del', 'two')
  await rename('renamed', 'two')
  await daemon.start()
  await daemon.crash()
  await rename('two', 'renamed')
  t.equal(await ipv6('renamed'), '1')
  await daemon.start()
  await until('the device', 5000, async () => ((await ipv6('renamed')) === '0' ? true : undefined))
  t.match(await daemon.port('two'), { waiting: true, ifname: null, problem: { code: 'DEVICE_MISSING' } })
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'renamed'), /clsact/)
  await rename('renamed', 'two')
  await reaches(world, 'one', '10.66.0.2')
  t.equal(await daemon.stop(), 0)
})

t.test('a device by another name of its own comes and goes, and is one device', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t)
  const long = 'the-cable-to-two-with-a-name-beyond-fifteen-bytes'
  const name = () => world.ip('host', 'link', 'property', 'add', 'dev', 'two', 'altname', long)
  await name()
  const byOther = { networks: { lab0: { ports: { ...ports, two: { device: long } } } } }
  const mac = JSON.parse(await world.ip('two', '-j', 'link', 'show', 'eth0'))[0].address as string
  const daemon = await world.switch('host', byOther)
  await reaches(world, 'one', '10.66.0.2')
  t.match(await daemon.port('two'), { device: long, ifname: 'two', warnings: [] })
  await world.ip('host', 'link', 'set', 'two', 'down')
  await says(daemon, 'two', { up: false, problem: { code: 'DEVICE_DOWN' } }, tap)
  await world.ip('host', 'link', 'set', 'two', 'up')
  await says(daemon, 'two', { up: true, problem: null }, tap)
  await world.ip('host', 'link', 'del', 'two')
  await says(daemon, 'two', { waiting: true }, tap)
  await world.cable(['two', 'eth0'], ['host', 'two'])
  await world.ip('two', 'address', 'add', '10.66.0.2/24', 'dev', 'eth0')
  // Others have it in their ARP tables.
  await world.ip('two', 'link', 'set', 'eth0', 'address', mac)
  await name()
  await reaches(world, 'one', '10.66.0.2')
  t.equal(await daemon.stop(), 0)
  const twice = { networks: { lab0: { ports: { ...ports, three: { device: long } } } } }
  const refused = await world.refused('host', world.configFile('host', twice))
  t.equal(refused.code, 1)
  t.match(refused.stderr, /error PORT_EXISTS: device the-cable.* is already port two/)
})

t.test('a device that was in another namespace for a moment', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t)
  await world.namespace('elsewhere')
  const daemon = await world.switch('host', lab0())
  await reaches(world, 'one', '10.66.0.2')
  for (let round = 0; round < 3; round++) {
    const there = `ip -n ${world.name('host')} link set two netns ${world.name('elsewhere')}`
    const back = `ip -n ${world.name('elsewhere')} link set two netns ${world.name('host')}`
    await world.in('host', 'sh', '-c', round === 0 ? `${there}; sleep 0.5; ${back}` : `${there}; ${back}`)
    await says(daemon, 'two', { up: true, problem: null }, tap)
    await reaches(world, 'one', '10.66.0.2')
  }
  // The port hears everything whatever somebody says of the device's promiscuity.
  for (const said of ['on', 'off']) await world.ip('host', 'link', 'set', 'two', 'promisc', said)
  t.match(await world.ip('host', '-d', '-o', 'link', 'show', 'two'), /promiscuity 1/)
  const [one, two] = stations(t, world, 'one', 'two')
  two.send(testFrame(7, { to: 1, from: 9 }))
  t.same((await one.collect(1)).map(idOf), [7], 'a frame to another address than the device’s')
  t.equal(await daemon.stop(), 0)
})

t.test('what of the host would be cut off keeps a device from becoming a port, or is said', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t, true)
  const onTop = (name: string, ...kind: string[]) =>
    world.ip('host', 'link', 'add', 'link', 'two', 'name', name, 'type', ...kind)
  const without = (name: string) => world.ip('host', 'link', 'del', name)
  await onTop('mv0', 'macvlan', 'mode', 'bridge')
  await world.ip('host', 'address', 'add', '10.66.0.9/24', 'dev', 'one')
  await world.ip('host', 'address', 'add', '192.0.2.9/32', 'dev', 'one')
  await world.ip('host', 'address', 'add', '2001:db8::9/64', 'dev', 'one', 'nodad')
  await world.ip('host', 'link', 'set', 'one', 'up')
  await world.ip('host', 'route', 'add', 'default', 'via', '10.66.0.1')
  const daemon = await world.switch('host', lab0())
  t.match(await daemon.port('two'), {
    waiting: true,
    problem: { code: 'DEVICE_BUSY', message: 'two has macvlan mv0 on it, which would hear nothing any more' },
  })
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'two'), /clsact/, 'untouched')
  await without('mv0')
  await says(daemon, 'two', { waiting: false, problem: null }, tap)
  await reaches(world, 'one', '10.66.0.2')
  const { warnings = [] } = await daemon.port('one')
  t.same(
    warnings.map(({ code, message }) => `${code} ${message}`),
    [
      'DEVICE_SHARED one is a port: the host is not reached at 10.66.0.9/24, 192.0.2.9/32 through it',
      'DEVICE_SHARED one is a port: the host’s 2001:db8::9/64 is off, as IPv6 is, until the device is given back',
      'DEVICE_SHARED one is a port, and the host’s default route leads through it: no answers come back',
    ],
  )
  t.match(daemon.said(), /DEVICE_SHARED.*"port":"one".*something is not right with a port/)

  for (const [kind, ...more] of [['macvlan'], ['ipvlan'], ['vlan', 'id', '7'], ['macsec'], ['macvtap']] as const) {
    // Not every kernel has each of them.
    if (
      (await world.try('host', 'ip', 'link', 'add', 'link', 'two', 'name', 'later', 'type', kind!, ...more)).code !== 0
    )
      continue
    await says(
      daemon,
      'two',
      { problem: null, warnings: [{ code: 'DEVICE_SHARED', message: new RegExp(`${kind} later`) }] },
      tap,
    )
    await without('later')
    await says(daemon, 'two', { problem: null, warnings: [] }, tap)
  }
  // As libvirt limits what a guest may send: our filter stands before it.
  const filter = (what: string, ...more: string[]) =>
    world.in('host', 'tc', 'filter', what, 'dev', 'two', 'ingress', 'pref', '20', ...more)
  await filter('add', 'protocol', 'all', 'bpf', 'da', 'bytecode', '1,6 0 0 0,')
  await says(
    daemon,
    'two',
    { problem: null, warnings: [{ code: 'DEVICE_SHARED', message: /filters that others/ }] },
    tap,
  )
  await filter('del')
  await says(daemon, 'two', { problem: null, warnings: [] }, tap)
  // A container's, which the host does not see among its own devices.
  await world.namespace('container')
  await onTop('cont0', 'macvlan', 'mode', 'bridge')
  await world.ip('host', 'link', 'set', 'cont0', 'netns', world.name('container'))
  await says(daemon, 'two', { warnings: [{ message: /macvlan cont0 \(in another namespace\)/ }] }, tap)
  await world.ip('container', 'link', 'del', 'cont0')
  await says(daemon, 'two', { warnings: [] }, tap)
  await world.ip('host', 'address', 'add', '10.77.0.9/24', 'dev', 'two')
  await says(daemon, 'two', { warnings: [{ message: /10\.77\.0\.9\/24/ }] }, tap)
  await world.ip('host', 'address', 'del', '10.77.0.9/24', 'dev', 'two')
  await says(daemon, 'two', { warnings: [] }, tap)
  t.match(daemon.said(), /"port":"two".*a port is right again/)
  await reaches(world, 'one', '10.66.0.2')

  // The host is let in, and kept out again.
  await world.in('host', 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=0')
  await until('IPv6 off', 8000, async () => {
    const setting = await world.in('host', 'cat', '/proc/sys/net/ipv6/conf/two/disable_ipv6')
    return setting === '1\n' && /kept out again/.test(daemon.said()) ? true : undefined
  })
  t.equal(await daemon.stop(), 0)
  t.match(
    await world.ip('host', '-6', 'address', 'show', 'dev', 'one'),
    /2001:db8::9\/64/,
    'given back with the device',
  )

  // The other way round it is nobody's business: devices that stand on others, and that others stand on by a cable
  // only.
  await onTop('mv0', 'macvlan', 'mode', 'passthru')
  for (const device of ['two', 'mv0']) await world.ip('host', 'link', 'set', device, 'up')
  const second = await world.switch('host', lab0({ two: { device: 'mv0' } }))
  t.match(await second.port('two'), { up: true, warnings: [] })
  await reaches(world, 'one', '10.66.0.2')
  t.equal(await second.stop(), 0)
})

t.test('a machine’s own end of a card cannot be a port', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t)
  const content = lab0({ two: { device: 'end0' } })
  for (const kind of ['macvtap', 'ipvtap']) {
    const made = ['link', 'add', 'link', 'two', 'name', 'end0', 'type', kind]
    // Not every kernel has each of them.
    if ((await world.try('host', 'ip', ...made)).code !== 0) continue
    const refused = await world.refused('host', world.configFile('host', content))
    t.equal(refused.code, 1)
    t.match(refused.stderr, new RegExp(`error DEVICE_UNSUPPORTED: end0 is an? ${kind}: .*\nwhat to do: .*TAP`))
    await world.ip('host', 'link', 'del', 'end0')
    const daemon = await world.switch('host', content)
    t.match(await daemon.port('two'), { waiting: true, problem: { code: 'DEVICE_MISSING' } })
    await world.ip('host', ...made)
    await says(
      daemon,
      'two',
      { waiting: true, problem: { code: 'DEVICE_UNSUPPORTED', message: new RegExp(kind) } },
      tap,
    )
    t.equal(await daemon.stop(), 0)
    await world.ip('host', 'link', 'del', 'end0')
  }
})

t.test('a way round is closed before a frame can take it, or said', root, async (t) => {
  const tap = withCompare(t)
  const world = await twoEndpoints(t)
  const veth = (one: string, other: string) =>
    world.ip('host', 'link', 'add', one, 'type', 'veth', 'peer', 'name', other)
  await veth('ring-a', 'ring-b')
  const ring = { a: { device: 'ring-a' }, b: { device: 'ring-b' } }
  const around = await world.switch('host', lab0(ring))
  const loop = /the devices of ports a and b are the two ends of one cable/
  await says(around, 'b', { waiting: true, problem: { code: 'DEVICE_LOOP', message: loop } }, tap)
  // The first one is a port, with nothing at its end.
  await says(around, 'a', { problem: { code: 'DEVICE_DOWN' } }, tap)
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'ring-b'), /clsact/, 'the other end was not touched')
  await reaches(world, 'one', '10.66.0.2')
  t.equal(await around.stop(), 0)

  // One cable between two networks joins them. A second one would close the circle.
  await veth('patch-a', 'patch-b')
  const joined = {
    networks: {
      lab0: { ports: { one: { device: 'one' }, a: { device: 'ring-a' }, pa: { device: 'patch-a' } } },
      lab1: { ports: { two: { device: 'two' }, b: { device: 'ring-b' }, later: { device: 'patch-c' } } },
    },
  }
  const daemon = await world.switch('host', joined)
  await reaches(world, 'one', '10.66.0.2')
  await world.ip('host', 'link', 'set', 'patch-b', 'name', 'patch-c')
  await says(daemon, 'later', { waiting: true, problem: { code: 'DEVICE_LOOP' } }, tap)
  await reaches(world, 'one', '10.66.0.2')
  t.equal(await daemon.stop(), 0)

  // A bridge may know STP, so it is only said.
  await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge', 'stp_state', '1')
  for (const [one, other] of [
    ['w', 'x'],
    ['y', 'z'],
  ] as const) {
    await veth(one, other)
    await world.ip('host', 'link', 'set', other, 'up', 'master', 'br0')
  }
  const bridged = await world.switch('host', lab0({ w: { device: 'w' }, y: { device: 'y' } }))
  await says(
    bridged,
    'y',
    { warnings: [{ code: 'DEVICE_LOOP', message: /port y closes a circle through a bridge/ }] },
    tap,
  )
  t.match(await bridged.port('w'), { warnings: [] })
  await world.ip('host', 'link', 'set', 'z', 'nomaster')
  await says(bridged, 'y', { warnings: [] }, tap)
  t.equal(await bridged.stop(), 0)
})

t.test('trunks and uplinks follow their device’s MTU and address', root, async (t) => {
  const tap = withCompare(t)
  const world = World.for(t)
  await world.namespace('lan')
  await world.ip('lan', 'link', 'add', 'br0', 'up', 'type', 'bridge')
  for (const host of ['a', 'b']) {
    await world.host(host)
    await world.cable(['lan', `to-${host}`], [host, 'up'])
    await world.ip('lan', 'link', 'set', `to-${host}`, 'master', 'br0')
  }
  await world.cable(['a', 'to-b'], ['b', 'to-a'], { mtu: 1504 })
  for (const [at, [label, host]] of [
    ['one', 'a'],
    ['two', 'b'],
    ['three', 'a'],
    ['four', 'b'],
  ].entries())
    await world.endpoint(label!, host!, { address: `10.6${at < 2 ? 7 : 8}.0.${at + 1}` })
  const side = (member: string, other: string, trunk: string) => ({
    networks: {
      lan: { ports: { [member]: { device: member, vm: member }, up: { device: 'up', kind: 'uplink' } } },
      cable: { ports: { [other]: { device: other, vm: other }, trunk: { device: trunk, kind: 'trunk' } } },
    },
  })
  const a = await world.switch('a', side('one', 'three', 'to-b'))
  const b = await world.switch('b', side('two', 'four', 'to-a'))
  const peersLive = () =>
    until('the peers', 15_000, async () => {
      const all = await Promise.all([a, b].map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
      const peers = all.flatMap(({ networks }) => networks.map((network) => network.peers))
      return peers.every((of) => of.length === 1 && of[0]!.alive) || undefined
    })
  await peersLive()
  await reaches(world, 'one', '10.67.0.2')
  await reaches(world, 'three', '10.68.0.4')
  const [one, two, three, four] = stations(t, world, 'one', 'two', 'three', 'four')
  let sent = 0
  /** How often a broadcast as long as can be arrives. Each has its own id: one of before may still be under way. */
  const passes = async (from: typeof one, to: typeof one) => {
    const id = ++sent
    from.send(testFrame(id, { from: 3, length: 1514 }))
    const isIt = (copy: Parameters<typeof idOf>[0]) => isOurs(copy) && idOf(copy) === id
    return (await to.collect(1, isIt)).length
  }
  /** A switch hears of another's device a moment after it was set. */
  const passesSoon = (from: typeof one, to: typeof one) =>
    until('a broadcast', 10_000, async () => ((await passes(from, to)) > 0 ? true : undefined))
  t.equal(await passes(one, two), 1, 'in carriers')
  for (const mtu of [700, 1500, 1300]) {
    await world.ip('a', 'link', 'set', 'dev', 'up', 'mtu', String(mtu))
    await passesSoon(one, two)
    t.equal(await passes(one, two), 1, `a LAN with MTU ${mtu}`)
  }
  await world.ip('a', 'link', 'set', 'dev', 'up', 'mtu', '1500')
  await world.ip('a', 'link', 'set', 'dev', 'up', 'address', '02:00:00:00:77:01')
  const sees = await world.capture('lan', 'to-a', 'ether', 'src', '02:00:00:00:77:01')
  await until('HELLOs from the new address', 5000, () => (sees.stdout.includes('88b5') ? true : undefined))
  await sees.stop()
  await peersLive()
  await reaches(world, 'one', '10.67.0.2')
  await passesSoon(two, one)
  t.equal(await passes(one, two), 1)
  t.equal(await passes(two, one), 1, 'carriers to the new address')
  const status = await b.client.status({ deadlineMs: patience(5000) })
  t.equal(status.networks.find(({ name }) => name === 'lan')!.peers.length, 1, 'one peer, not two')

  await world.ip('a', 'link', 'set', 'to-b', 'address', '02:00:00:00:77:02')
  const onCable = await world.capture('b', 'to-a', 'ether', 'src', '02:00:00:00:77:02')
  await until('HELLOs from the new address', 5000, () => (onCable.stdout.includes('88b5') ? true : undefined))
  await onCable.stop()
  await peersLive()
  await passesSoon(four, three)
  t.equal(await passes(three, four), 1)
  t.equal(await passes(four, three), 1)
  // A trunk that has no room any more says so.
  await world.ip('a', 'link', 'set', 'to-b', 'mtu', '1500')
  await says(a, 'trunk', { mtu: 1500, warnings: [{ code: 'DEVICE_MTU' }] }, tap)
  await world.ip('a', 'link', 'set', 'to-b', 'mtu', '1504')
  await says(a, 'trunk', { warnings: [] }, tap)
  for (const daemon of [a, b]) t.equal(await daemon.stop(), 0)
})
