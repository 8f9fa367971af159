// Devices that go down, go away and come back under load; a datapath that fails; a daemon that is killed. Whatever
// happens to one port, the others keep working, and nothing is left changed.

import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { atRest } from '../hardening/daemon-health.js'
import { sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, type Station, stations, testFrame } from './station.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const threePorts = {
  networks: {
    lab0: {
      ports: {
        one: { device: 'one', vm: 'one' },
        two: { device: 'two', vm: 'two' },
        three: { device: 'three', vm: 'three' },
      },
    },
  },
}

async function threeEndpoints(t: { teardown(end: () => Promise<void>): void }, ipv6 = false): Promise<World> {
  const world = World.for(t)
  await world.namespace('host', { ipv6 })
  for (const [at, label] of ['one', 'two', 'three'].entries()) {
    await world.endpoint(label, 'host', { address: `10.66.0.${at + 1}` })
  }
  return world
}

/** Broadcast frames from a station, one a millisecond or so, until stopped. */
function load(station: Station): { stop(): Promise<number> } {
  let going = true
  let id = 0
  const done = (async () => {
    while (going) {
      for (let i = 0; i < 20; i++) station.send(testFrame(id++, { from: 9 }))
      await sleep(10)
    }
  })()
  return {
    async stop() {
      going = false
      await done
      return id
    },
  }
}

const isUp = (daemon: Switch, port: string, up: boolean) =>
  until(`port ${port} ${up ? 'up' : 'down'}`, 5000, async () =>
    (await daemon.port(port)).up === up ? true : undefined,
  )

t.test('a device is set down and up under load', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  const [one] = stations(t, world, 'one')
  const traffic = load(one)
  await world.ip('host', 'link', 'set', 'two', 'down')
  await isUp(daemon, 'two', false)
  t.equal((await world.pings('three', '10.66.0.1')).code, 0, 'the others keep working')
  await world.ip('host', 'link', 'set', 'two', 'up')
  await isUp(daemon, 'two', true)
  t.equal((await world.pings('two', '10.66.0.1')).code, 0)
  await world.ip('two', 'link', 'set', 'eth0', 'down')
  await isUp(daemon, 'two', false)
  t.equal((await world.pings('three', '10.66.0.1')).code, 0, 'a lost carrier hurts nobody else, either')
  await traffic.stop()
  await t.resolves(atRest(daemon), 'with a port down')
  t.match((await daemon.port('two')).counters.drops, { 'device-down': Number })
  await world.ip('two', 'link', 'set', 'eth0', 'up')
  await isUp(daemon, 'two', true)
  t.equal((await world.pings('two', '10.66.0.3')).code, 0)
  t.match(daemon.said(), /"port":"two".*a port is down[\s\S]*"port":"two".*a port is up/)
  t.equal(await daemon.stop(), 0)
})

t.test('a device is removed under load, and one of its name comes back', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  const sockets = await world.packetSockets('host')
  const [one] = stations(t, world, 'one')
  t.equal((await world.pings('two', '10.66.0.3')).code, 0)
  const traffic = load(one)
  for (let round = 0; round < 3; round++) {
    await world.ip('host', 'link', 'del', 'two')
    await isUp(daemon, 'two', false)
    t.equal((await world.pings('three', '10.66.0.1')).code, 0, 'the others keep working')
    await world.cable(['two', 'eth0'], ['host', 'two'], { mtu: 1400 })
    await world.ip('two', 'address', 'add', '10.66.0.2/24', 'dev', 'eth0')
    await isUp(daemon, 'two', true)
    t.equal((await world.pings('two', '10.66.0.3')).code, 0, 'and this one again')
    t.match(await daemon.port('two'), { mtu: 1400, vm: 'two', gate: 'open' })
  }
  const [two] = stations(t, world, 'two')
  t.ok((await two.collect(1)).length > 0, 'it gets its share of the traffic')
  await traffic.stop()
  await t.resolves(world.packetSocketsAre('host', sockets), 'as many sockets as before')
  t.match(daemon.said(), /the device of a port is gone[\s\S]*the device of a port is here/)
  await t.resolves(atRest(daemon))
  t.equal(await daemon.stop(), 0)
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'two'), /clsact/)
})

t.test(
  'a daemon starts without devices that do not exist: their ports wait, and take them when they come',
  root,
  async (t) => {
    const world = await threeEndpoints(t)
    for (const device of ['two', 'three']) await world.ip('host', 'link', 'del', device)
    const { lab0 } = threePorts.networks
    const mistyped = { device: 'oen', vm: 'four' }
    const trunk = { device: 'trunk', kind: 'trunk' }
    const daemon = await world.switch('host', { networks: { lab0: { ports: { ...lab0.ports, mistyped, trunk } } } })
    const waiting = async () => (await daemon.client.status({ deadlineMs: patience(5000) })).networks[0].waiting
    t.same(await waiting(), ['two', 'three', 'mistyped', 'trunk'])
    t.match(await daemon.port('two'), { up: false, waiting: true, problem: { code: 'DEVICE_MISSING' } })
    t.match(await daemon.port('one'), { up: true, waiting: false, problem: null })
    t.match((await daemon.port('mistyped')).problem, {
      message: 'oen of port mistyped does not exist; the port waits for it',
      action: /is one meant\?/,
    })
    t.match(daemon.said(), /"port":"two".*the port waits for it/)
    const { problems } = await daemon.client.preflight('lab0', { deadlineMs: patience(5000) })
    t.equal(problems.filter(({ code }) => code === 'DEVICE_MISSING').length, 4, 'no snapshot meanwhile')

    for (const [label, address] of [
      ['two', '10.66.0.2'],
      ['three', '10.66.0.3'],
    ] as const) {
      await world.cable([label, 'eth0'], ['host', label])
      await world.ip(label, 'address', 'add', `${address}/24`, 'dev', 'eth0')
      await isUp(daemon, label, true)
    }
    t.equal((await world.pings('two', '10.66.0.3')).code, 0, 'they work as if they had always been there')
    t.equal((await world.pings('three', '10.66.0.1')).code, 0)
    // What a start refuses is refused when the device comes, too, until it is put right.
    await world.ip('host', 'link', 'add', 'trunk', 'type', 'veth', 'peer', 'name', 'far-end')
    await until(
      'the refusal',
      10_000,
      async () => (await daemon.port('trunk')).problem?.code === 'DEVICE_MTU' || undefined,
    )
    t.same(await waiting(), ['mistyped', 'trunk'])
    t.equal((await world.pings('two', '10.66.0.3')).code, 0, 'the others keep working')
    await world.ip('host', 'link', 'set', 'trunk', 'mtu', '1504')
    await world.ip('host', 'link', 'set', 'far-end', 'up')
    await isUp(daemon, 'trunk', true)
    t.same(await waiting(), ['mistyped'])
    t.equal(await daemon.stop(), 0)
  },
)

t.test('a device that comes back as a bridge’s port is left alone until it is free', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  await world.ip('host', 'link', 'del', 'two')
  await isUp(daemon, 'two', false)
  await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge')
  await world.ip(
    'host',
    'link',
    'add',
    'two',
    'master',
    'br0',
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    world.name('two'),
  )
  await world.ip('two', 'address', 'add', '10.66.0.2/24', 'dev', 'eth0')
  await world.ip('two', 'link', 'set', 'eth0', 'up')
  await until('the refusal', 5000, () => (/cannot be taken yet/.test(daemon.said()) ? true : undefined))
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'two'), /clsact/, 'untouched')
  await world.ip('host', 'link', 'set', 'two', 'nomaster')
  await until('the port', 5000, async () => ((await world.pings('two', '10.66.0.1')).code === 0 ? true : undefined))
  t.equal(await daemon.stop(), 0)
})

t.test('a device that a bridge takes under load is left to it, and taken back when it is free', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  const sockets = await world.packetSockets('host')
  const [one] = stations(t, world, 'one')
  await world.endpoint('bridged', 'host', { address: '10.66.0.4' })
  await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge')
  await world.ip('host', 'link', 'set', 'bridged', 'up', 'master', 'br0')
  const traffic = load(one)
  const problem = (code: string | null) =>
    until(`${code}`, 10_000, async () =>
      (await daemon.port('two')).problem?.code === (code ?? undefined) ? true : undefined,
    )
  for (let round = 0; round < 2; round++) {
    await world.ip('host', 'link', 'set', 'two', 'master', 'br0')
    await problem('DEVICE_BUSY')
    t.equal((await daemon.port('two')).up, false)
    t.equal((await world.pings('two', '10.66.0.4')).code, 0, 'the bridge has its frames now')
    t.not((await world.pings('two', '10.66.0.3', '-W', '1')).code, 0, 'and only the bridge')
    t.equal((await world.pings('three', '10.66.0.1')).code, 0, 'the others keep working')
    await world.ip('host', 'link', 'set', 'two', 'nomaster')
    await problem(null)
    // An ARP question of before may have to be given up first.
    await until('a ping', 10_000, async () => ((await world.pings('two', '10.66.0.3')).code === 0 ? true : undefined))
    t.not((await world.pings('two', '10.66.0.4', '-W', '1')).code, 0, 'no more by the bridge')
  }
  await traffic.stop()
  t.match(daemon.said(), /"code":"DEVICE_BUSY".*"port":"two".*was taken away/)
  t.equal(daemon.said().match(/cannot be taken yet/g), null, 'told once')
  await t.resolves(world.packetSocketsAre('host', sockets), 'as many sockets as before')
  t.equal(await daemon.stop(), 0)
})

t.test('the preflight of a snapshot refuses ports that carry no frames', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  const found = async () => {
    const { problems } = await daemon.client.preflight('lab0', { deadlineMs: patience(5000) })
    return problems.filter(({ code }) => code.startsWith('DEVICE_')).map(({ code, message }) => `${code} ${message}`)
  }
  t.same(await found(), [])
  await world.ip('host', 'link', 'set', 'one', 'down')
  await world.ip('two', 'link', 'set', 'eth0', 'down')
  await world.ip('host', 'link', 'del', 'three')
  await isUp(daemon, 'three', false)
  await until('the preflight', 5000, async () => ((await found()).length === 3 ? true : undefined))
  t.same((await found()).sort(), [
    'DEVICE_DOWN one of port one is down',
    'DEVICE_DOWN two of port two has no carrier: nothing is at its other end',
    'DEVICE_MISSING three of port three is gone',
  ])
  await world.ip('host', 'link', 'set', 'one', 'up')
  await world.ip('two', 'link', 'set', 'eth0', 'up')
  await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge')
  await world.ip('host', 'link', 'set', 'one', 'master', 'br0')
  const bridged = 'DEVICE_BUSY one belongs to a bridge or bond'
  await until('the bridge', 5000, async () => ((await found()).includes(bridged) ? true : undefined))
  t.equal((await found()).length, 2)
  t.equal(await daemon.stop(), 0)
})

t.test('the datapath fails and is restarted with its ports', root, async (t) => {
  const world = await threeEndpoints(t)
  const hook = pathToFileURL(join(import.meta.dirname, 'crash-hook.js')).href
  const daemon = await world.switch('host', threePorts, ['--import', hook])
  const sockets = await world.packetSockets('host')
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  const counted = (await daemon.port('one')).counters.rxFrames
  for (let failures = 1; failures <= 3; failures++) {
    daemon.signal('SIGUSR2')
    await until('the restart', 5000, async () => {
      const status = await daemon.client.status({ deadlineMs: patience(5000) }).catch(() => undefined)
      return status?.datapathRestarts === failures ? true : undefined
    })
    t.equal((await world.pings('one', '10.66.0.3')).code, 0, `forwards again after failure ${failures}`)
  }
  await t.resolves(world.packetSocketsAre('host', sockets), 'the sockets of the failed workers are closed')
  t.ok((await daemon.port('one')).counters.rxFrames > counted, 'counters go on')
  t.match(daemon.said(), /the datapath failed and was restarted/)
  t.equal(await daemon.stop(), 0)
})

t.test('a datapath that keeps failing ends the daemon, with an error', root, async (t) => {
  const world = await threeEndpoints(t)
  const hook = pathToFileURL(join(import.meta.dirname, 'crash-hook.js')).href
  const daemon = await world.switch('host', threePorts, ['--import', hook])
  for (let failures = 1; failures <= 6 && daemon.running; failures++) {
    daemon.signal('SIGUSR2')
    await until('the restart', 5000, async () => {
      if (!daemon.running) return true
      const status = await daemon.client.status({ deadlineMs: patience(1000) }).catch(() => undefined)
      return status?.datapathRestarts === failures ? true : undefined
    })
  }
  await until('the end', 5000, () => (daemon.running ? undefined : true))
  t.equal(await daemon.stop(), 1)
  t.match(daemon.said(), /^error INTERNAL: /m)
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'one'), /clsact/)
})

t.test('the daemon is killed: the devices work on for the host after the next start and stop', root, async (t) => {
  const world = await threeEndpoints(t, true)
  const setting = '/proc/sys/net/ipv6/conf/one/disable_ipv6'
  for (const device of ['one', 'two', 'three']) await world.ip('host', 'link', 'set', device, 'up')
  await world.linkSays('host', 'one', /state UP/)
  const state = async () => ({
    qdiscs: await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'one'),
    ipv6: await world.in('host', 'cat', setting),
    link: (await world.ip('host', '-d', '-o', 'link', 'show', 'one')).replace(/promiscuity 0.*/, ''),
  })
  const before = await state()
  t.match(before, { ipv6: '0\n', link: /state UP/ })
  const daemon = await world.switch('host', threePorts)
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  await daemon.crash()
  t.equal(await world.packetSockets('host'), 0)
  await daemon.start()
  t.equal((await world.pings('one', '10.66.0.2')).code, 0, 'a restart works')
  t.equal((await state()).ipv6, '1\n')
  t.equal(await daemon.stop(), 0)
  t.same(await state(), before, 'all as before the first start')
})

t.test('a device that was down is down again when the daemon has ended', root, async (t) => {
  const world = await threeEndpoints(t)
  await world.ip('host', 'link', 'set', 'two', 'up')
  const daemon = await world.switch('host', threePorts)
  await world.linkSays('host', 'one', /state UP/)
  t.equal(await daemon.stop(), 0)
  t.match(await world.ip('host', '-o', 'link', 'show', 'one'), /state DOWN/)
  t.match(await world.ip('host', '-o', 'link', 'show', 'two'), /state UP/)
})

t.test('frames in order while the rest of the daemon is busy with its API', root, async (t) => {
  const world = await threeEndpoints(t)
  const daemon = await world.switch('host', threePorts)
  const [one, two] = stations(t, world, 'one', 'two')
  let asking = true
  const asked = (async () => {
    while (asking) await daemon.client.ports({ deadlineMs: patience(5000) })
  })()
  for (let id = 0; id < 2000; id++) {
    one.send(testFrame(id))
    if (id % 100 === 99) await sleep(5)
  }
  const frames = await two.collect(2000)
  asking = false
  await asked
  t.same(
    frames.map(idOf),
    Array.from({ length: 2000 }, (_, id) => id),
  )
})
