// A bridge that is taken over with the fast path: the kernel hands frames on between ports that stay in the bridge, and
// to and from the host, while the bridge is taken, given back, its daemon killed and the bridge taken again.

import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { ABOVE_OTHERS } from '../../src/linux/closed-first.js'
import { kernelIsAtLeast } from '../../src/linux/kernel.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations } from '../switch/station.js'
import { root, type Switch, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(180_000))
const CALL = { deadlineMs: patience(20_000) }
const FAST_PATH = { datapath: { fastPath: 'auto' }, networks: {} }
const PORTS = ['c1', 'c2', 'ssw-br0']

async function lab(t: Parameters<typeof World.for>[0]): Promise<World> {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  return world
}

/** Why each port is slow; null: it is not. */
async function whys(daemon: Switch): Promise<Record<string, string | null | undefined>> {
  const ports = await daemon.client.ports(CALL)
  return Object.fromEntries(ports.map(({ name, fastPath }) => [name, fastPath?.why]))
}

/** Waits until the kernel hands on what goes each of these ways. */
async function areFast(world: World, daemon: Switch, ways: readonly string[]): Promise<void> {
  let seen = ''
  await until('verdicts', 20_000, async () => {
    await world.pings('c1', HOST_ADDRESS)
    await world.pings('c1', '192.0.2.12')
    const found = (await daemon.client.verdicts('br0', CALL)).map(({ from, to }) => `${from} ${to}`)
    seen = JSON.stringify([found, await whys(daemon)])
    return ways.every((way) => found.includes(way)) ? true : undefined
  }).catch(() => {
    throw new Error(`not fast: ${seen}\n${daemon.said()}`)
  })
}

const WAYS = ['c1 c2', 'c2 c1', 'c1 ssw-br0', 'ssw-br0 c1']

if (!kernelIsAtLeast(6, 6)) {
  t.test('on this kernel its ports are slow', root, async (t) => {
    const world = await lab(t)
    const daemon = await world.switch('h', FAST_PATH)
    await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
    await until('the reason', 10_000, async () => /kernel 6\.6/.test((await whys(daemon)).c1 ?? '') || undefined)
  })
} else {
  t.test('taken, given back and taken again under traffic', root, taken)
}

/** Nothing of ours, which would show or stay. */
async function isClean(t: Test, world: World, why: string): Promise<void> {
  for (const device of ['c1', 'c2']) {
    t.equal((await world.in('h', 'tc', 'qdisc', 'show', 'dev', device, 'clsact')).trim(), '', `${device}, ${why}`)
    t.equal((await world.in('h', 'tc', 'filter', 'show', 'dev', device, 'ingress')).trim(), '', `${device}, ${why}`)
  }
}

const STREAMS = [
  ['c1', 'c2', '192.0.2.12'],
  ['c2', 'c1', '192.0.2.11'],
  ['c1', 'h', HOST_ADDRESS],
  ['h', 'c1', '192.0.2.11'],
] as const

async function start(world: World, firstPort: number): Promise<Stream[]> {
  const streams: Stream[] = []
  for (const [at, [from, to, address]] of STREAMS.entries())
    streams.push(await Stream.start(world, from, to, address, firstPort + at))
  return streams
}

async function taken(t: Test): Promise<void> {
  const world = await lab(t)
  const hook = pathToFileURL(join(import.meta.dirname, '..', 'switch', 'crash-hook.js')).href
  const daemon = await world.switch('h', FAST_PATH, ['--import', hook])
  const take = () => daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  const streams = await start(world, 5001)
  for (let round = 0; round < 3; round++) {
    await take()
    await areFast(world, daemon, WAYS)
    await daemon.client.giveBridge('br0', CALL)
  }
  await take()
  await areFast(world, daemon, WAYS)
  t.equal(await daemon.stop(), 0)
  await daemon.start()
  await areFast(world, daemon, WAYS)
  for (const stream of streams) {
    const { sent, lost, doubled, overtaken } = await stream.end()
    t.comment(`${stream.name}: ${sent} sent, ${overtaken} overtaken`)
    t.same({ lost, doubled }, { lost: 0, doubled: 0 }, stream.name)
  }
  t.same(await whys(daemon), Object.fromEntries(PORTS.map((name) => [name, null])))
  await isClean(t, world, 'taken')
  const numbers = readdirSync(`/proc/${daemon.pid}/fd`).map(Number)
  const high = numbers.filter((number) => number >= ABOVE_OTHERS).length
  t.equal(high, 2, 'when it is killed, its rules and its word to the watchdog go before hundreds of sockets')

  await t.test('what comes by a port shows there as ever, control frames among it', async (t) => {
    const looks = await world.capture('h', 'c1')
    const [station] = stations(t, world, 'c1')
    station.send(Uint8Array.of(1, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc, ...new Uint8Array(46)))
    await world.pings('c1', '192.0.2.12')
    await looks.says(/LLDP/)
    await looks.says(/ICMP echo request/)
    await looks.says(/ICMP echo reply/)
    await looks.stop()
  })

  await t.test('TCP of the host, uncut and with checksums to be filled in', async (t) => {
    for (const [from, to, address] of [
      ['h', 'c1', '192.0.2.11'],
      ['c1', 'h', HOST_ADDRESS],
    ] as const) {
      const { sum_sent } = await world.iperf(from, to, address, '-n', '64M')
      t.ok(sum_sent.bytes >= 64 * 1024 * 1024, `${from} to ${to}`)
    }
    t.ok((await daemon.port('c1')).counters.txGso > 100)
    t.ok((await daemon.port('ssw-br0')).counters.txGso > 100)
    const fast = (await daemon.client.verdicts('br0', CALL)).map(({ from, to }) => `${from} ${to}`)
    t.ok(fast.includes('c1 ssw-br0') && fast.includes('ssw-br0 c1'), `${fast}`)
  })

  await t.test('the datapath fails and begins anew', async (t) => {
    const streams = await start(world, 5201)
    daemon.signal('SIGUSR2')
    await until('the restart', 20_000, async () => {
      const status = await daemon.client.status(CALL).catch(() => undefined)
      return status?.datapathRestarts === 1 ? true : undefined
    })
    await areFast(world, daemon, WAYS)
    for (const stream of streams) {
      const { sent, lost, doubled } = await stream.end()
      t.comment(`${stream.name}: ${sent} sent, ${lost} lost`)
      t.equal(doubled, 0, stream.name)
    }
    t.same(await whys(daemon), Object.fromEntries(PORTS.map((name) => [name, null])))
  })

  await t.test('killed, the bridge has everything; taken again, the kernel hands on', async (t) => {
    const streams = await start(world, 5101)
    await areFast(world, daemon, WAYS)
    await daemon.crash()
    for (const [from, , address] of STREAMS) t.equal((await world.pings(from, address)).code, 0, `${from} ${address}`)
    await isClean(t, world, 'killed')
    await daemon.start()
    await areFast(world, daemon, WAYS)
    for (const stream of streams) {
      const { sent, lost, doubled, overtaken } = await stream.end()
      t.comment(`${stream.name}: ${sent} sent, ${lost} lost, ${overtaken} overtaken`)
      t.equal(doubled, 0, stream.name)
    }
    await daemon.client.giveBridge('br0', CALL)
    for (const [from, , address] of STREAMS) t.equal((await world.pings(from, address)).code, 0, `${from} ${address}`)
  })
}
