// Frames to and from addresses that bridges treat specially: those reserved by 802.1D, and sources that are nobody's.
// Judged by the kernel's bridge on the same devices, which is asked as well what it has learned.

import t from 'tap'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, opensWay, type Station, stations, testFrame } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

const RESERVED = [0x01, 0x80, 0xc2, 0, 0]
const ALL = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
const NOBODY = [0, 0, 0, 0, 0, 0]
const station = (n: number) => [2, 0, 0, 0, 9, n]

interface Probe {
  readonly to: number[]
  readonly from: number[]
}

const probes: Record<string, Probe> = {
  ...Object.fromEntries(
    [...Array(16).keys(), 0x10, 0x20, 0x21].map((last) => [
      `01-80-C2-00-00-${last.toString(16).padStart(2, '0')}`,
      { to: [...RESERVED, last], from: station(last) },
    ]),
  ),
  'from nobody': { to: ALL, from: NOBODY },
  'from nobody to somebody': { to: station(0), from: NOBODY },
  'from everybody': { to: ALL, from: ALL },
  'from a group': { to: ALL, from: [1, 0, 0x5e, 0, 0, 1] },
  'from a local group': { to: ALL, from: [3, 0, 0, 0, 0, 1] },
  'from 00-00-00-00-00-01': { to: ALL, from: [0, 0, 0, 0, 0, 1] },
  'from 02-00-00-00-00-00': { to: ALL, from: [2, 0, 0, 0, 0, 0] },
  'to nobody': { to: NOBODY, from: station(0x40) },
}
const names = Object.keys(probes)

/** Which of the probes come out at the other port. */
async function pass(one: Station, two: Station): Promise<string[]> {
  // Devices that have just come up lose what is sent before their carriers are noticed.
  await opensWay((frame) => one.send(frame), two)
  for (const [id, name] of names.entries()) {
    const bytes = testFrame(id)
    bytes.set([...probes[name]!.to, ...probes[name]!.from])
    one.send(bytes)
  }
  one.send(testFrame(names.length, { from: 0x50 }))
  const came: FrameCopy[] = []
  await two.collect(1, (copy) => {
    if (isOurs(copy)) came.push(copy)
    return isOurs(copy) && idOf(copy) === names.length
  })
  const ids = came.map(idOf)
  if (ids.at(-1) !== names.length) throw new Error('the last frame must pass')
  for (const frame of came.slice(0, -1)) {
    const { to, from } = probes[names[idOf(frame)]!]!
    const head = [...frame.bytes.slice(VNET_HEADER_LENGTH, VNET_HEADER_LENGTH + 12)]
    if (head.join() !== [...to, ...from].join()) throw new Error('a frame was changed')
  }
  return ids.slice(0, -1).map((id) => names[id]!)
}

t.test('reserved addresses and sources that are nobody’s, beside a bridge', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host')
  await world.endpoint('two', 'host')
  const [one, two] = stations(t, world, 'one', 'two')
  const ours = (macs: string[]) => macs.filter((mac) => /^(02:00:00:00:0[09]|00:)/.test(mac)).sort()

  const bridge = async (mask: number) => {
    await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge', 'mcast_snooping', '0')
    for (const device of ['one', 'two']) {
      await world.ip('host', 'link', 'set', device, 'up', 'master', 'br0')
      await world.in('host', 'sh', '-c', `echo ${mask} >/sys/class/net/${device}/brport/group_fwd_mask`)
    }
    const passed = await pass(one, two)
    const rows: { mac: string; ifname: string; flags: string[]; state?: string }[] = JSON.parse(
      await world.in('host', 'bridge', '-j', 'fdb', 'show', 'br', 'br0'),
    )
    await world.ip('host', 'link', 'del', 'br0')
    return {
      passed,
      learned: ours(rows.filter(({ ifname, state }) => ifname === 'one' && state === '').map(({ mac }) => mac)),
    }
  }
  const ports = { one: { device: 'one' }, two: { device: 'two' } }
  const snapswitch = async (settings: object) => {
    const daemon = await world.switch('host', { networks: { lab0: { ports, ...settings } } })
    const passed = await pass(one, two)
    const rows = await daemon.client.fdb('lab0', { deadlineMs: patience(5000) })
    const drops = (await daemon.port('one')).counters.drops
    t.equal(await daemon.stop(), 0)
    return { passed, learned: ours(rows.filter(({ ifname }) => ifname === 'one').map(({ mac }) => mac)), drops }
  }

  await t.test('all that a bridge can be told to forward, which is all but PAUSE', async (t) => {
    const { drops, ...found } = await snapswitch({})
    t.same(found, await bridge(0xfffd))
    t.notOk(found.passed.includes('01-80-C2-00-00-01'))
    t.ok(found.passed.includes('01-80-C2-00-00-00') && found.passed.includes('01-80-C2-00-00-02'))
    t.same(drops, { pause: 1, 'bad-source': 5 })
  })

  await t.test('what a bridge forwards that is told nothing, and STP not even', async (t) => {
    const { drops, ...found } = await snapswitch({ linkLocal: 'drop' })
    const judge = await bridge(0)
    t.same([...found.passed, '01-80-C2-00-00-00'].sort(), judge.passed.sort())
    t.same(found.learned, judge.learned)
    t.same(drops, { pause: 1, 'link-local': 15, 'bad-source': 5 })
  })

  await t.test('a bridge that is taken over: what its mask says, and STP', async (t) => {
    const daemon = await world.switch('host', { networks: {} })
    for (const mask of [0, 0x4008]) {
      await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge', 'mcast_snooping', '0')
      await world.ip('host', 'link', 'set', 'br0', 'type', 'bridge', 'group_fwd_mask', String(mask))
      for (const device of ['one', 'two']) await world.ip('host', 'link', 'set', device, 'up', 'master', 'br0')
      const before = await pass(one, two)
      await daemon.client.takeBridge({ bridge: 'br0' }, { deadlineMs: patience(20_000) })
      const { rxFrames } = (await daemon.port('one')).counters
      t.same(await pass(one, two), before)
      t.ok((await daemon.port('one')).counters.rxFrames > rxFrames, 'through the switch')
      t.ok(before.includes('01-80-C2-00-00-00'))
      t.equal(before.includes('01-80-C2-00-00-0e'), mask !== 0)
      await daemon.client.giveBridge('br0', { deadlineMs: patience(20_000) })
      await world.ip('host', 'link', 'del', 'br0')
    }
    t.equal(await daemon.stop(), 0)
  })

  await t.test('the same by the configuration, where it says nothing else', async (t) => {
    const call = { deadlineMs: patience(20_000) }
    await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge', 'mcast_snooping', '0', 'ageing_time', '1000')
    await world.ip('host', 'link', 'set', 'br0', 'type', 'bridge', 'group_fwd_mask', String(0x4008))
    for (const device of ['one', 'two']) await world.ip('host', 'link', 'set', device, 'up', 'master', 'br0')
    const before = await pass(one, two)
    const file = (more: object) => ({ networks: { lab0: { bridge: 'br0', ...more } } })
    const daemon = await world.switch('host', file({}))
    await until('the bridge is taken', 20_000, () => daemon.port('two').catch(() => undefined))
    t.same(await pass(one, two), before)
    const learned = async () => ours((await daemon.client.fdb('lab0', call)).map(({ mac }) => mac)).length
    t.ok((await learned()) > 0)
    await until('addresses to age', 40_000, async () => ((await learned()) === 0 ? true : undefined))
    const reload = async (more: object) => {
      world.configFile('host', file(more))
      const { changes } = await daemon.client.reload(call)
      return changes
    }
    await reload({ linkLocal: 'forward', ageing: 300 })
    await until('all pass', 20_000, async () =>
      (await pass(one, two)).includes('01-80-C2-00-00-02') ? true : undefined,
    )
    await reload({})
    await until('what the bridge lets pass', 20_000, async () =>
      (await pass(one, two)).includes('01-80-C2-00-00-02') ? undefined : true,
    )
    t.same(await pass(one, two), before)
    t.equal(await daemon.stop(), 0)
    await world.ip('host', 'link', 'del', 'br0')
  })

  await t.test('PAUSE for those who want it', async (t) => {
    const { passed } = await snapswitch({ pause: 'forward' })
    t.ok(passed.includes('01-80-C2-00-00-01'))
  })
})
