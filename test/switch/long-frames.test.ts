// How long a frame may be: what a bridge on the same devices forwards passes the switch, byte for byte and in order,
// and what it drops for its length is dropped and counted. The kernel knows three answers (packet sockets, bridges,
// drivers), and tags beside a frame or within it make a difference to each.

import { createHash } from 'node:crypto'
import t from 'tap'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { type TapGuest, tapGuest, virtioHeader } from '../hardening/tap-guest.js'
import { until } from '../lab/command.js'
import { gsoFrame } from '../linux/wire.js'
import { fileLimit, patience } from '../patience.js'
import { type Station, stations } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const [CUSTOMER, SERVICE, OLD_SERVICE, MPLS, EXPERIMENTAL] = [0x8100, 0x88a8, 0x9100, 0x8847, 0x88b6]
const SOURCE = [2, 0, 0, 0, 0, 0x51]

/**
 * A broadcast with these EtherTypes one after the other, of which all but the last are tags; `payload` begins with
 * `id`.
 */
function frame(id: number, types: readonly number[], payload: number): Uint8Array {
  const tags = types.slice(0, -1).flatMap((type, at) => [type >> 8, type & 0xff, 0x20, 5 + at])
  const type = types.at(-1)!
  const bytes = new Uint8Array(12 + tags.length + 2 + payload)
  for (let i = 0; i < payload; i++) bytes[bytes.length - payload + i] = (i * 31) & 0xff
  bytes.set([255, 255, 255, 255, 255, 255, ...SOURCE, ...tags, type >> 8, type & 0xff])
  new DataView(bytes.buffer).setUint16(bytes.length - payload, id)
  return bytes
}

function cases(mtu: number): { name: string; bytes: Uint8Array }[] {
  const kinds: [string, number[]][] = [
    ['no tag', [EXPERIMENTAL]],
    ['.1Q', [CUSTOMER, EXPERIMENTAL]],
    ['.1ad', [SERVICE, EXPERIMENTAL]],
    ['.1Q .1Q', [CUSTOMER, CUSTOMER, EXPERIMENTAL]],
    ['.1ad .1ad', [SERVICE, SERVICE, EXPERIMENTAL]],
    ['.1ad .1Q', [SERVICE, CUSTOMER, EXPERIMENTAL]],
    ['.1ad .1Q .1Q', [SERVICE, CUSTOMER, CUSTOMER, EXPERIMENTAL]],
    ['9100', [OLD_SERVICE, EXPERIMENTAL]],
    ['9100 .1Q', [OLD_SERVICE, CUSTOMER, EXPERIMENTAL]],
    ['.1Q 9100', [CUSTOMER, OLD_SERVICE, EXPERIMENTAL]],
    ['MPLS', [MPLS]],
    ['.1Q MPLS', [CUSTOMER, MPLS]],
  ]
  const lengths = [-100, -8, -4, 0, 4, 5, 8]
  return kinds.flatMap(([kind, types], k) =>
    lengths.map((more, l) => ({
      name: `${kind}, MTU ${more < 0 ? more : `+ ${more}`}`,
      bytes: frame(k * 16 + l, types, mtu + more),
    })),
  )
}

/**
 * From the destination address on, as it was on the wire: the tag that the kernel keeps beside it in its place again.
 */
function onWire({ bytes, tagTpid, tagTci }: FrameCopy): string {
  const whole = Buffer.from(bytes.subarray(VNET_HEADER_LENGTH))
  if (tagTpid === 0) return whole.toString('hex')
  const tag = Buffer.from([tagTpid >> 8, tagTpid & 0xff, tagTci >> 8, tagTci & 0xff])
  return Buffer.concat([whole.subarray(0, 12), tag, whole.subarray(12)]).toString('hex')
}

const isOurs = (hex: string) => hex.startsWith(`ffffffffffff${Buffer.from(SOURCE).toString('hex')}`)

/**
 * The last frame of a series: when it is there, what was sent before it is, or is lost. Each series has one of its own,
 * since copies of the former series' may still be under way.
 */
let lastId = 0xffff
const nextLast = () => frame(lastId--, [EXPERIMENTAL], 46)
const ends = new Set<string>()

type Receiver = () => string[]

const stationReceives =
  (station: Station): Receiver =>
  () =>
    station.received().map(onWire)
const guestReceives =
  (guest: TapGuest): Receiver =>
  () =>
    guest.read().map((bytes) => Buffer.from(bytes.subarray(VNET_HEADER_LENGTH)).toString('hex'))

/** Has a guest send; what each receiver has got by the time that the last frame has come. */
async function pass(guest: TapGuest, send: () => void, receivers: readonly Receiver[]): Promise<string[][]> {
  for (const receive of receivers) receive()
  send()
  const last = nextLast()
  const end = Buffer.from(last).toString('hex')
  ends.add(end)
  const got: string[][] = receivers.map(() => [])
  // It may come before a port is up: repeated until it is there.
  await until('the last frame', 10_000, () => {
    guest.write(last)
    for (const [i, receive] of receivers.entries()) got[i]!.push(...receive().filter(isOurs))
    return got.every((frames) => frames.includes(end)) ? true : undefined
  })
  return got.map((frames) => frames.filter((hex) => !ends.has(hex)).map(digest))
}

const writes = (guest: TapGuest, frames: readonly Uint8Array[]) => () => {
  for (const bytes of frames) guest.write(bytes)
}
const digest = (hex: string) => createHash('sha256').update(hex, 'hex').digest('hex').slice(0, 16)
const digestOf = (bytes: Uint8Array) => digest(Buffer.from(bytes).toString('hex'))

async function lab(t: { teardown(end: () => unknown): void }, mtu = 1500) {
  const world = World.for(t as { teardown(end: () => Promise<void>): void })
  await world.namespace('host')
  await world.endpoint('outside', 'host', { mtu })
  const guest = tapGuest(t, world, 'host', 'guest')
  const other = tapGuest(t, world, 'host', 'other')
  const devices = ['outside', 'guest', 'other']
  const setMtu = async (value: number) => {
    await world.ip('outside', 'link', 'set', 'eth0', 'mtu', String(value))
    for (const device of devices) await world.ip('host', 'link', 'set', device, 'mtu', String(value))
  }
  await setMtu(mtu)
  for (const device of devices) await world.ip('host', 'link', 'set', device, 'up')
  const [station] = stations(t, world, 'outside')
  const receivers = [stationReceives(station!), guestReceives(other)]

  /** The same with the devices in a bridge, then as ports of a switch. */
  const bridged = async <T>(act: () => Promise<T>): Promise<T> => {
    await world.ip('host', 'link', 'add', 'br0', 'up', 'type', 'bridge', 'mcast_snooping', '0')
    for (const device of devices) await world.ip('host', 'link', 'set', device, 'master', 'br0')
    try {
      return await act()
    } finally {
      await world.ip('host', 'link', 'del', 'br0')
    }
  }
  const startSwitch = () => {
    const ports = Object.fromEntries(devices.map((device) => [device, { device, kind: 'plain' }]))
    return world.switch('host', { networks: { lab0: { ports } } })
  }
  return { world, guest, receivers, setMtu, bridged, startSwitch }
}

for (const mtu of [1500, 9000]) {
  t.test(`frames around an MTU of ${mtu}, with tags and without, beside a bridge`, root, async (t) => {
    const { guest, receivers, bridged, startSwitch } = await lab(t, mtu)
    const sent = cases(mtu)
    const frames = sent.map(({ bytes }) => bytes)
    const nameOf = (found: string) => sent.find(({ bytes }) => digestOf(bytes) === found)?.name ?? 'changed'
    const wanted = await bridged(async () => {
      await pass(guest, () => undefined, receivers)
      return pass(guest, writes(guest, frames), receivers)
    })
    const daemon = await startSwitch()
    await pass(guest, () => undefined, receivers)
    const found = await pass(guest, writes(guest, frames), receivers)
    for (const [i, to] of ['a veth', 'a TAP'].entries()) {
      t.ok(
        wanted[i]!.length > 40 && wanted[i]!.length < frames.length,
        `the bridge passes ${wanted[i]!.length} to ${to}`,
      )
      t.same(found[i]!.map(nameOf), wanted[i]!.map(nameOf), `to ${to}: the same, byte for byte and in order`)
    }
    const { counters } = await daemon.port('other')
    t.equal(counters.drops['too-long'], frames.length - wanted[1]!.length, 'the others are counted')
  })
}

t.test('an MTU that changes while frames pass, beside a bridge', root, async (t) => {
  const { guest, receivers, setMtu, bridged, startSwitch } = await lab(t)
  const frames = [1500, 1400, 1800].flatMap((mtu) => cases(mtu).map(({ bytes }) => bytes))
  const run = async () => {
    const passed: string[][][] = []
    for (const mtu of [1500, 1800, 1400, 1500]) {
      await setMtu(mtu)
      // The first that the device refuses makes the switch look at its MTU again.
      await pass(guest, writes(guest, frames), receivers)
      passed.push(await pass(guest, writes(guest, frames), receivers))
    }
    return passed
  }
  const wanted = await bridged(run)
  await startSwitch()
  const found = await run()
  for (const [i, mtu] of ['1500', '1800', '1400', '1500 again'].entries()) {
    t.same(
      found[i]!.map((frames) => frames.length),
      wanted[i]!.map((frames) => frames.length),
      mtu,
    )
    t.same(found[i], wanted[i])
  }
})

t.test('long ones among short and GSO ones keep their places', root, async (t) => {
  const { guest, receivers, startSwitch } = await lab(t)
  await startSwitch()
  await pass(guest, () => undefined, receivers)
  const sent = Array.from({ length: 600 }, (_, id) => {
    const kinds: [number[], number][] = [
      [[EXPERIMENTAL], 46],
      [[SERVICE, CUSTOMER, EXPERIMENTAL], 1500],
      [[EXPERIMENTAL], 1500],
      [[SERVICE, EXPERIMENTAL], 46],
      [[EXPERIMENTAL], 1504],
    ]
    const [types, length] = kinds[(id * 7919) % 5]!
    return frame(id, types, length)
  })
  const digests = sent.map(digestOf)
  for (let at = 0; at < sent.length; at += 60) {
    for (const got of await pass(guest, writes(guest, sent.slice(at, at + 60)), receivers))
      t.same(got, digests.slice(at, at + 60))
  }
})

t.test('GSO frames within two tags: segments that fill the MTU, beside a bridge', root, async (t) => {
  const { guest, receivers, bridged, startSwitch } = await lab(t)
  const whole = gsoFrame(20_000, 1460)
  const header = new DataView(whole.buffer)
  const tagged = (tags: number[]) =>
    Uint8Array.from([...new Array(6).fill(255), ...SOURCE, ...tags, ...whole.subarray(VNET_HEADER_LENGTH + 12)])
  const words = (more: number) => ({
    flags: 1,
    gsoType: 1,
    headerLength: 54 + more,
    gsoSize: 1460,
    checksumStart: header.getUint16(6, true) + more,
    checksumOffset: 16,
  })
  const sets = [[], [0x81, 0, 0, 7], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], [0x81, 0, 0, 7, 0x81, 0, 0, 8]]
  const run = async () => {
    const passed: string[][] = []
    for (const tags of sets) {
      await pass(guest, () => undefined, receivers)
      const send = () => void t.equal(guest.write(tagged(tags), virtioHeader(words(tags.length))), null)
      passed.push(...(await pass(guest, send, receivers)))
    }
    return passed
  }
  const wanted = await bridged(run)
  t.ok(
    wanted.every((frames) => frames.length > 0),
    'the bridge passes them all',
  )
  await startSwitch()
  t.same(await run(), wanted)
})

t.test('over a trunk with room for the color alone', root, async (t) => {
  const world = World.for(t)
  await world.host('a')
  await world.host('b')
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1504 })
  await world.endpoint('outside', 'b')
  const guest = tapGuest(t, world, 'a', 'guest')
  const other = tapGuest(t, world, 'b', 'other')
  const local = tapGuest(t, world, 'a', 'local')
  const side = (...devices: string[]) => {
    const ports = Object.fromEntries(devices.map((device) => [device, { device, vm: device }]))
    return { networks: { lab0: { ports: { ...ports, trunk: { device: 'trunk', kind: 'trunk' } } } } }
  }
  await world.switch('a', side('guest', 'local'))
  const b = await world.switch('b', side('other', 'outside'))
  await until('the peers', 10_000, async () => {
    const { networks } = await b.client.status({ deadlineMs: patience(5000) })
    return networks[0].peers[0]?.alive ? true : undefined
  })
  const [station] = stations(t, world, 'outside')
  const frames = cases(1500).map(({ bytes }) => bytes)
  const receivers = [guestReceives(local), stationReceives(station!), guestReceives(other)]
  await pass(guest, () => undefined, receivers)
  // What the guest's own switch passes is what a bridge does: see above.
  const [here, ...there] = await pass(guest, writes(guest, frames), receivers)
  for (const found of there) t.same(found, here)
})
