// The daemon with the fast path: what the kernel hands on by itself, what not, and what is left behind.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, stations, testFrame } from '../switch/station.js'
import { root, type Switch, World } from '../switch/world.js'

t.setTimeout(fileLimit(180_000))

const deadline = { deadlineMs: patience(5000) }
const fastPath = { datapath: { fastPath: 'auto' } }
const twoPorts = { ...fastPath, networks: { lab0: { ports: { one: { device: 'one' }, two: { device: 'two' } } } } }

/** Waits until all ports are fast. */
async function areFast(daemon: Switch): Promise<void> {
  let why = ''
  await until('fast ports', 10_000, async () => {
    const ports = await daemon.client.ports(deadline)
    why = ports.map((port) => `${port.name}: ${port.fastPath?.why}`).join(', ')
    return ports.every((port) => port.fastPath?.fast) ? true : undefined
  }).catch(() => {
    throw new Error(`not fast: ${why}\n${daemon.said()}`)
  })
}

async function verdicts(daemon: Switch): Promise<string[]> {
  return (await daemon.client.verdicts('lab0', deadline)).map(({ from, to }) => `${from} ${to}`).sort()
}

/** Pings until the kernel does it alone. */
async function ways(world: World, daemon: Switch): Promise<void> {
  await areFast(daemon)
  await until('verdicts', 10_000, async () => {
    await world.pings('one', '10.66.0.2')
    return (await verdicts(daemon)).length >= 2 ? true : undefined
  })
}

async function twoEndpoints(t: Parameters<typeof World.for>[0]): Promise<World> {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  return world
}

/** What is at the ingress hooks of a host's devices. */
const filters = (world: World, device: string) => world.in('host', 'tc', 'filter', 'show', 'dev', device, 'ingress')

t.test('two endpoints', root, async (t) => {
  const world = await twoEndpoints(t)
  const daemon = await world.switch('host', twoPorts)

  await t.test('pairs that have spoken are the kernel’s, and everything is counted', async (t) => {
    await ways(world, daemon)
    t.same(await verdicts(daemon), ['one two', 'two one'])
    const before = await daemon.port('two')
    const pings = await world.pings('one', '10.66.0.2', '-c', '20')
    t.equal(pings.code, 0, pings.stdout)
    const after = await daemon.port('two')
    t.ok(after.counters.txFrames - before.counters.txFrames >= 20, 'out')
    t.ok(after.counters.rxFrames - before.counters.rxFrames >= 20, 'in')
    t.equal((await daemon.client.status(deadline)).networks[0]!.fast, 2)
  })

  await t.test('frames of every size up to the MTU, none beyond; VLANs', async (t) => {
    for (const size of ['0', '1', '1472']) {
      const result = await world.pings('one', '10.66.0.2', '-s', size, '-M', 'do')
      t.equal(result.code, 0, `${size} bytes`)
    }
    const [sender, receiver] = stations(t, world, 'one', 'two')
    receiver.send(testFrame(0, { from: 2 }))
    for (let id = 1; id <= 40; id++) sender.send(testFrame(id, { to: 2, tags: [0x81, 0, 0, 100] }))
    t.equal((await receiver.collect(40)).length, 40, 'tagged frames come, each once')
  })

  await t.test('TCP with segmentation offload', async (t) => {
    const { sum_sent } = await world.iperf('one', 'two', '10.66.0.2', '-n', '64M')
    t.ok(sum_sent.bytes >= 64 * 1024 * 1024, 'sent')
    const { counters } = await daemon.port('two')
    t.ok(counters.txGso > 100, 'whole')
  })

  await t.test('an address that moves is followed at once, and back', async (t) => {
    const [one, two] = stations(t, world, 'one', 'two')
    const known = async () => (await daemon.client.verdicts('lab0', deadline)).map(({ destination }) => destination)
    for (const [from, to] of [
      [one, two],
      [two, one],
    ] as const) {
      to.send(testFrame(0, { from: 7 }))
      await until('a verdict about it', 10_000, async () => {
        from.send(testFrame(1, { from: from === one ? 1 : 2, to: 7 }))
        return (await known()).includes('02:00:00:00:00:07') ? true : undefined
      })
      for (const station of [one, two]) station.received()
      for (let id = 2; id <= 11; id++) from.send(testFrame(id, { from: from === one ? 1 : 2, to: 7 }))
      const came = await to.collect(10)
      t.same(came.map(idOf), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    }
  })

  await t.test('a device that is set down: what is not sent does not count; it is fast again afterwards', async (t) => {
    await ways(world, daemon)
    await world.in('host', 'ip', 'link', 'set', 'two', 'down')
    const before = await daemon.port('two')
    const [sender] = stations(t, world, 'one')
    for (let id = 1; id <= 20; id++) sender.send(testFrame(id, { to: 2 }))
    const dropped = async () => (await daemon.port('two')).counters.drops['device-down'] ?? 0
    await until('drops', 10_000, async () => ((await dropped()) >= 20 ? true : undefined))
    const after = await daemon.port('two')
    t.equal(after.counters.txFrames, before.counters.txFrames)
    t.equal(after.fastPath?.fast, false)
    await world.in('host', 'ip', 'link', 'set', 'two', 'up')
    await ways(world, daemon)
  })

  await t.test('killed: known pairs go on without it; the next daemon takes over', async (t) => {
    await ways(world, daemon)
    await world.in('one', 'ip', 'neigh', 'replace', '10.66.0.2', 'lladdr', await address(world, 'two'), 'dev', 'eth0')
    await world.in('two', 'ip', 'neigh', 'replace', '10.66.0.1', 'lladdr', await address(world, 'one'), 'dev', 'eth0')
    await world.pings('one', '10.66.0.2')
    await daemon.crash()
    const alone = await world.pings('one', '10.66.0.2', '-c', '10')
    t.equal(alone.code, 0, alone.stdout)
    await daemon.start()
    const [sender, receiver] = stations(t, world, 'one', 'two')
    receiver.send(testFrame(0, { from: 2 }))
    const ids = Array.from({ length: 20 }, (_, i) => i + 1)
    for (const id of ids) sender.send(testFrame(id, { to: 2 }))
    t.same((await receiver.collect(20)).map(idOf), ids, 'each frame comes once')
    await ways(world, daemon)
  })

  await t.test('stopped, it leaves nothing behind', async (t) => {
    t.equal(await daemon.stop(), 0)
    for (const device of ['one', 'two']) t.equal((await filters(world, device)).trim(), '', device)
  })
})

async function address(world: World, label: string): Promise<string> {
  const [link] = JSON.parse(await world.ip(label, '-j', 'link', 'show', 'eth0'))
  return link.address
}
