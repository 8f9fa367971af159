// Ports open and close side by side, and beside the forwarding: many of them come and go, others lose nothing by it,
// and what cannot be opened leaves nothing behind.

import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { FrameCopy } from '../../src/frame/frame.js'
import { openPortSockets, ringsFor } from '../../src/linux/port-sockets.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { TapGuest } from '../hardening/tap-guest.js'
import { run, sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, Station, stations, testFrame } from './station.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const openDescriptors = () => readdirSync('/proc/self/fd').length

async function batch(world: World, label: string, lines: readonly string[]): Promise<void> {
  const file = join(world.directory, 'batch')
  writeFileSync(file, `${lines.join('\n')}\n`)
  await run('ip', ['-n', world.name(label), '-batch', file], 60_000)
}

/** So many veths, `p0` and on in `host`, their other ends `e0` and on in `ends`. */
async function manyCables(t: { teardown(end: () => Promise<void>): void }, count: number) {
  const world = World.for(t)
  await world.namespace('host')
  await world.namespace('ends')
  const all = Array.from({ length: count }, (_, i) => i)
  const peer = (i: number) => `peer name e${i} netns ${world.name('ends')}`
  await batch(
    world,
    'host',
    all.map((i) => `link add p${i} type veth ${peer(i)}`),
  )
  await batch(
    world,
    'host',
    all.map((i) => `link set p${i} up`),
  )
  await batch(
    world,
    'ends',
    all.map((i) => `link set e${i} up`),
  )
  const ports: Record<string, { device: string; kind: 'plain' }> = {}
  for (const i of all) ports[`port${i}`] = { device: `p${i}`, kind: 'plain' }
  return { world, content: { networks: { lab0: { ports } } }, all }
}

/** A frame that enters by the first port leaves by each other one. */
async function floods(world: World, count: number): Promise<number> {
  const sent = (i: number) => `/sys/class/net/p${i}/statistics/tx_packets`
  const files = Array.from({ length: count - 1 }, (_, i) => sent(i + 1))
  const read = async () => (await world.in('host', 'cat', ...files)).trim().split('\n').map(Number)
  const before = await read()
  const sender = new Station(world.name('ends'), 'e0')
  sender.send(testFrame(1))
  sender.close()
  let reached = 0
  await until('a flood', 10_000, async () => {
    const now = await read()
    reached = now.filter((sent, i) => sent > before[i]!).length
    return reached === files.length ? true : undefined
  }).catch(() => undefined)
  return reached
}

/** In whole, one after the other while the switch stands still: many more than come between two looks of it. */
async function burst(daemon: Switch, from: TapGuest, to: TapGuest, lengths: readonly number[]): Promise<number[]> {
  const count = 2000
  from.read()
  to.read()
  to.write(testFrame(0, { from: 9 }))
  await until('an address to be learned', 10_000, () => (from.read().length > 0 ? true : undefined), 5)
  // Both are silent by then.
  await sleep(500)
  daemon.signal('SIGSTOP')
  for (let i = 0; i < count; i++) {
    const error = from.write(testFrame(i, { to: 9, from: 8, length: lengths[i % lengths.length]! }))
    if (error !== null) throw new Error(error)
  }
  daemon.signal('SIGCONT')
  const got: number[] = []
  const take = () => {
    got.push(...to.read().flatMap((bytes) => (isOurs({ bytes } as FrameCopy) ? [idOf({ bytes } as FrameCopy)] : [])))
    return got.length >= count ? true : undefined
  }
  await until('the burst', 10_000, take, 5).catch(() => undefined)
  return got
}

t.test('200 ports come, their datapath is started again, and they go', root, async (t) => {
  const count = 200
  const { world, content } = await manyCables(t, count)
  const guests = ['tap0', 'tap1'].map((name) => new TapGuest(world.name('host'), name))
  t.teardown(() => {
    for (const guest of guests) guest.close()
  })
  for (const device of ['tap0', 'tap1']) {
    // It is not the queue of the device that is to be long enough.
    await world.ip('host', 'link', 'set', device, 'txqueuelen', '5000')
    content.networks.lab0.ports[device] = { device, kind: 'plain' }
  }
  const hook = pathToFileURL(join(import.meta.dirname, 'crash-hook.js')).href
  const daemon = await world.switch('host', content, ['--import', hook])
  const ports = await daemon.client.ports({ deadlineMs: patience(10_000) })
  t.same(
    ports.map(({ name }) => name),
    Object.keys(content.networks.lab0.ports),
    'in the order of the configuration',
  )
  t.equal(await floods(world, count), count - 1)
  const sockets = await world.packetSockets('host')
  daemon.signal('SIGUSR2')
  await until('the restart', 20_000, async () => {
    const status = await daemon.client.status({ deadlineMs: patience(1000) }).catch(() => undefined)
    return status?.datapathRestarts === 1 ? true : undefined
  })
  t.equal(await floods(world, count), count - 1, 'all work again')
  for (const lengths of [[60], [1514], [60, 400, 1514, 61, 180, 1000]]) {
    const got = await burst(daemon, guests[0]!, guests[1]!, lengths)
    t.same(
      got,
      [...Array(2000).keys()],
      `a burst into an idle port, frames of ${lengths} bytes: none is lost, none overtaken`,
    )
  }
  await t.resolves(world.packetSocketsAre('host', sockets), 'as many sockets as before')
  t.equal(await daemon.stop(), 0)
  t.equal(await world.packetSockets('host'), 0)
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show'), /clsact/, 'devices are given back')

  const file = world.configFile('host', content)
  // Of its own files the program opens fewer side by side than the first number, and more than the others. Node.js may
  // then call a package missing whose files it could not open.
  for (const [limit, where] of [
    [420, /^error FILES_SHORT: 202 ports need up to \d+ open files, .* 420\nwhat to do: .*open files/m],
    ...[110, 80, 66].map((limit) => [limit, /^error [A-Z_]+: /m] as const),
  ] as const) {
    await t.test(`${limit} descriptors are too few: nothing is left, devices are as they were`, async (t) => {
      const { code, stderr } = await world.refused('host', file, ['prlimit', `--nofile=${limit}`])
      t.equal(code, 1)
      t.match(stderr, where)
      t.equal(await world.packetSockets('host'), 0)
      t.notMatch(await world.in('host', 'tc', 'qdisc', 'show'), /clsact/)
    })
  }
})

t.test('ports come and go while others carry frames: these lose none', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const label of ['one', 'two', 'three']) await world.endpoint(label, 'host')
  const ports = Object.fromEntries(['one', 'two', 'three'].map((name) => [name, { device: name, kind: 'plain' }]))
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const [one, two] = stations(t, world, 'one', 'two')
  two!.send(testFrame(0, { to: 1, from: 2 }))
  await one!.collect(1)
  let sent = 0
  const got: number[] = []
  const take = () => void got.push(...two!.received().map(idOf))
  // Never more under way than any ring holds, whoever gets no processor.
  const sending = setInterval(() => {
    take()
    for (let i = 0; i < 5 && sent - got.length < 500; i++) one!.send(testFrame(++sent, { to: 2, from: 1 }))
  }, 2)
  const becomes = (what: string, is: () => boolean | Promise<boolean>) =>
    until(what, 10_000, async () => {
      take()
      return (await is()) ? true : undefined
    })
  for (let round = 0; round < 8; round++) {
    await world.ip('host', 'link', 'del', 'three')
    await becomes('it to be gone', async () => (await daemon.port('three')).waiting === true)
    await world.cable(['three', 'eth0'], ['host', 'three'])
    await becomes('it to be back', async () => (await daemon.port('three')).up)
  }
  await becomes('frames enough', () => sent > 500)
  clearInterval(sending)
  await becomes('the last frame', () => got.at(-1) === sent).catch(() => undefined)
  t.equal(got.length, sent, 'none is lost')
  const { counters } = await daemon.port('one')
  t.equal(counters.kernelDrops, 0)
})

t.test('a port that the datapath refuses, and one without a device, leave no descriptor', root, async (t) => {
  const datapath = new Datapath({ poll: 'sleep', spinUs: 0 })
  await datapath.start()
  t.teardown(() => datapath.stop())
  const spec = {
    index: 0,
    name: 'a',
    kind: 'plain',
    vm: null,
    epoch: 0,
    mac: new Uint8Array(6),
    queueLength: 1000,
  } as const
  const device = { device: 'lo', ifindex: 1 }
  const before = openDescriptors()
  for (let i = 0; i < 3; i++) {
    await t.rejects(datapath.addPort({ network: 'none', spec, device }), { code: 'NETWORK_UNKNOWN' })
    await t.rejects(datapath.addPort({ network: 'none', spec, device: { device: 'x', ifindex: 0x7ffffff } }))
    await t.rejects(openPortSockets({ device: 'x', ifindex: 0x7ffffff }, 1))
  }
  await until('the sockets to be closed', 5000, () => (openDescriptors() <= before ? true : undefined))
  t.pass()
})

t.test('rings for more ports have smaller slots, and as many', async (t) => {
  const slots = (ports: number) => ringsFor(ports).receive.slot
  t.same([1, 2, 40, 41, 80, 81, 160, 161, 1024].map(slots), [2048, 2048, 2048, 1024, 1024, 512, 512, 256, 256])
  t.same(
    [2, 40, 41, 200].map((ports) => ringsFor(ports).transmitSlots),
    [256, 256, 128, 128],
  )
  for (let ports = 1; ports <= 320; ports++) {
    const { receive } = ringsFor(ports)
    t.equal(receive.slots, 2048)
    t.ok(receive.slots * receive.slot * ports <= 160 * 1024 * 1024, `${ports}`)
  }
})
