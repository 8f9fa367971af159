// A packet port on a veth, without a daemon: ring and spill queue stay in step, whatever comes and however much.

import t from 'tap'
import { copyFrame, type Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { libc } from '../../src/linux/libc.js'
import { closePortSocketsNow, openPortSocketsNow } from '../../src/linux/port-sockets.js'
import { PacketPort } from '../../switch/datapath/port/packet-port.js'
import { Counter, createCounters, Drop } from '../../switch/forwarding/counters.js'
import { until } from '../lab/command.js'
import { gsoFrame } from '../linux/wire.js'
import { fileLimit } from '../patience.js'
import { idOf, inNamespace, isOurs, Station, testFrame } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

/** It takes rtnl, whatever is asked of the driver (dev_ethtool). */
const SIOCETHTOOL = 0x8946

async function pair(t: {
  teardown(end: () => unknown): void
}): Promise<{ world: World; sender: Station; receiver: Station; arrived: (count: number) => Promise<void> }> {
  const world = new World()
  await world.namespace('a')
  await world.namespace('b')
  await world.cable(['a', 'eth0'], ['b', 'eth0'])
  await world.ip('b', 'link', 'set', 'eth0', 'up')
  const sender = new Station(world.name('a'), 'eth0')
  // The kernel hands a frame to sockets in the reverse order of their opening: what the first one has, the other has.
  const witness = new Station(world.name('b'), 'eth0')
  const receiver = new Station(world.name('b'), 'eth0')
  let seen = 0
  /**
   * Returns when the last `count` frames have come to the receiver's socket. A busy machine leaves them in a queue of
   * its own, of 1000 frames (net.core.netdev_max_backlog): whoever sends more without waiting loses some there.
   */
  const arrived = async (count: number) => {
    seen -= count
    await until(
      'the frames',
      10_000,
      () => {
        seen += witness.received().filter(wanted).length
        return seen >= 0 ? true : undefined
      },
      1,
    )
  }
  t.teardown(async () => {
    for (const station of [sender, witness, receiver]) station.close()
    await world.destroy()
  })
  return { world, sender, receiver, arrived }
}

/** A GSO frame of `payload` bytes whose id is its first payload bytes. */
function sendGso(sender: Station, id: number, payload: number, tag?: [number, number, number, number]): string | null {
  const whole = gsoFrame(payload, 1448)
  const header = whole.slice(0, VNET_HEADER_LENGTH)
  let bytes = whole.slice(VNET_HEADER_LENGTH)
  new DataView(bytes.buffer).setUint32(54, id)
  if (tag !== undefined) {
    bytes = Uint8Array.from([...bytes.slice(0, 12), ...tag, ...bytes.slice(12)])
    const view = new DataView(header.buffer)
    view.setUint16(2, view.getUint16(2, true) + 4, true)
    view.setUint16(6, view.getUint16(6, true) + 4, true)
  }
  return sender.send(bytes, header)
}

const isGso = ({ bytes }: FrameCopy) => bytes[1] !== 0
const anyId = (copy: FrameCopy) =>
  isGso(copy) ? new DataView(copy.bytes.buffer).getUint32(VNET_HEADER_LENGTH + 54) : idOf(copy)
const wanted = (copy: FrameCopy) => isOurs(copy) || isGso(copy)

t.test('small and long frames arrive in the order they were sent, whole', root, async (t) => {
  const { sender, receiver, arrived } = await pair(t)
  let refused = 0
  const lengths: number[] = []
  const got: FrameCopy[] = []
  for (let id = 0; id < 6000; id++) {
    // Around the size of a ring slot, up to the longest that TCP makes, and many short ones.
    const kind = (id * 7919) % 10
    if (kind < 6) {
      const length = [60, 61, 590, 1514, 14 + 8, 1000][kind]
      if (sender.send(testFrame(id, { length })) !== null) refused++
      lengths.push(length)
    } else {
      const payload = [1500, 1900, 1960, 40_000][kind - 6] + (id % 64)
      if (sendGso(sender, id, payload) !== null) refused++
      lengths.push(54 + payload)
    }
    if (id % 50 !== 49) continue
    await arrived(50)
    got.push(...receiver.received().filter(wanted))
  }
  t.equal(refused, 0)
  t.equal(got.length, 6000)
  const wrong = got.findIndex(
    (copy, at) => anyId(copy) !== at || copy.bytes.length - VNET_HEADER_LENGTH !== lengths[at],
  )
  t.equal(wrong, -1, 'each in its place, with its length')
})

t.test('tags stay with their frames, long or short', root, async (t) => {
  const { sender, receiver } = await pair(t)
  for (let id = 0; id < 400; id++) {
    const tag: [number, number, number, number] = [0x81, 0, (id >> 8) & 0xf, id & 0xff]
    const failed =
      id % 3 === 0 ? sendGso(sender, id, 5000, tag) : sender.send(testFrame(id, { tags: id % 3 === 1 ? tag : [] }))
    if (failed !== null) t.fail(`${id}: ${failed}`)
  }
  const got = await receiver.collect(400, wanted)
  t.same(
    got.map((copy) => [anyId(copy), copy.tagTpid, copy.tagTci]),
    Array.from({ length: 400 }, (_, id) => [id, id % 3 === 2 ? 0 : 0x8100, id % 3 === 2 ? 0 : id]),
  )
})

t.test('more than the ring holds: the rest is dropped and counted, and what follows is right', root, async (t) => {
  const { sender, receiver, arrived } = await pair(t)
  const { port, counters } = receiver
  for (let round = 0; round < 3; round++) {
    receiver.received()
    for (let id = 0; id < 3000; id++) {
      if (id % 40 === 0) sendGso(sender, id, 20_000)
      else sender.send(testFrame(id))
      if (id % 40 === 39) await arrived(40)
    }
    const got = receiver.received().filter(wanted).map(anyId)
    t.ok(got.length >= 1500 && got.length < 3000, `${got.length} of 3000 were kept`)
    t.same(
      got,
      got.map((_, at) => at),
      'those that came first',
    )
    for (let id = 0; id < 100; id++)
      if (id % 3 === 0) sendGso(sender, id, 3000)
      else sender.send(testFrame(id))
    await arrived(100)
    const after = receiver.received().filter(wanted)
    t.same(
      after.map(anyId),
      Array.from({ length: 100 }, (_, id) => id),
      'in step again',
    )
  }
  port.housekeeping()
  t.ok(counters[Counter.kernelDrops] > 1000, `${counters[Counter.kernelDrops]} drops were counted`)
})

t.test(
  'more long frames than the socket’s buffer holds: cut ones are dropped and counted, none is taken for another',
  root,
  async (t) => {
    const { sender, receiver, arrived } = await pair(t)
    const { counters } = receiver
    for (let round = 0; round < 2; round++) {
      const before = counters[Drop.truncated]
      for (let id = 0; id < 2000; id++) {
        if (id % 4 === 0) sender.send(testFrame(id))
        else sendGso(sender, id, 60_000)
        if (id % 20 === 19) await arrived(20)
      }
      const got = receiver.received().filter(wanted)
      const ids = got.map(anyId)
      t.same(
        ids,
        [...ids].sort((a, b) => a - b),
        'in order',
      )
      const mixed = got.filter((copy) => isGso(copy) === (anyId(copy) % 4 === 0))
      t.equal(mixed.length, 0, 'each slot with its own frame')
      t.equal(got.filter((copy) => isGso(copy) && copy.bytes.length !== VNET_HEADER_LENGTH + 60_054).length, 0, 'whole')
      const truncated = counters[Drop.truncated] - before
      t.equal(ids.length + truncated, 2000, `${truncated} counted as lost`)
      t.ok(truncated > 0, 'the buffer was full')
    }
  },
)

t.test(
  'a device that goes down while long frames wait: they come, and the next ones are not mixed up',
  root,
  async (t) => {
    const { world, sender, receiver, arrived } = await pair(t)
    for (let id = 0; id < 10; id++) sendGso(sender, id, 10_000)
    await arrived(10)
    await world.ip('b', 'link', 'set', 'eth0', 'down')
    t.same((await receiver.collect(10, wanted)).map(anyId), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    await world.ip('b', 'link', 'set', 'eth0', 'up')
    for (let id = 20; id < 30; id++) {
      await until('the carrier', 5000, () => (sendGso(sender, id, 10_000) === null ? true : undefined), 10)
    }
    t.same((await receiver.collect(10, wanted)).map(anyId), [20, 21, 22, 23, 24, 25, 26, 27, 28, 29])
  },
)

t.test(
  'short and long frames leave in the order they were sent; one that the kernel refuses goes alone',
  root,
  async (t) => {
    const { sender: origin, receiver: mirror, arrived } = await pair(t)
    const { port, counters } = mirror
    const lies = (id: number) => id % 7 === 3
    const pushed = (id: number) => (id % 5 === 0 ? (id % 100) + 1 : -1)
    const lengths = [60, 512, 513, 1400, 61, 100]
    const back: FrameCopy[] = []
    let id = 0
    const turnRound = {
      receive: (_port: number, frame: Frame) => {
        // Others' frames (router solicitations) have no place here.
        if (!isOurs(copyFrame(frame))) return
        if (lies(id)) frame.bytes.set([1, 0, 0, 0, 0, 0, 0xf0, 0xff, 0, 0], frame.vnet)
        t.ok(port.send(frame, pushed(id++)))
      },
    }
    for (let sent = 0; sent < 1200; sent += 40) {
      for (let i = sent; i < sent + 40; i++) {
        const tag = i % 11 === 0 ? [0x81, 0, 0, 9] : []
        t.equal(origin.send(testFrame(i, { length: lengths[i % 6], tags: tag })), null)
      }
      await arrived(40)
      while (port.receive(turnRound, 0) > 0) {
        port.flush()
        port.release()
      }
      back.push(...origin.received().filter(isOurs))
    }
    const honest = Array.from({ length: 1200 }, (_, i) => i).filter((i) => !lies(i))
    back.push(...(await origin.collect(honest.length - back.length)))
    t.same(
      back.map((copy) => [idOf(copy), copy.tagTci, copy.bytes.length - VNET_HEADER_LENGTH]),
      honest.map((i) => {
        const inner = i % 11 === 0 ? 4 : 0
        // The outer tag comes beside the frame; one below it stays inside.
        if (pushed(i) >= 0) return [i, pushed(i), lengths[i % 6]]
        return [i, inner === 0 ? 0 : 9, lengths[i % 6] - inner]
      }),
    )
    t.equal(counters[Counter.txFrames], honest.length)
    t.equal(counters[Drop['tx-error']], 1200 - honest.length)
  },
)

t.test('a port that cannot be opened leaves nothing open', root, async (t) => {
  const { world } = await pair(t)
  const sockets = async () => (await world.in('a', 'cat', '/proc/net/packet')).trim().split('\n').length
  const before = await sockets()
  for (let i = 0; i < 5; i++) t.throws(() => new Station(world.name('a'), 'nosuch'), { code: /DEVICE_MISSING|SYSCALL/ })
  t.equal(await sockets(), before)
})

t.test('a port that is opened asks the kernel for nothing that waits for its configuration lock', root, async (t) => {
  const { world } = await pair(t)
  const c = libc()
  const { ioctl } = c
  const asked: number[] = []
  t.teardown(() => {
    c.ioctl = ioctl
  })
  inNamespace(world.name('a'), () => {
    const place = { device: 'eth0', ifindex: c.if_nametoindex('eth0'), kind: 'veth', hooked: true }
    const sockets = openPortSocketsNow(place, 1)
    c.ioctl = (fd, request, argument) => {
      asked.push(request)
      return ioctl(fd, request, argument)
    }
    const port = new PacketPort(0, 'eth0', place, sockets, { send: () => 90 }, createCounters())
    c.ioctl = ioctl
    port.close()
    closePortSocketsNow({ ...sockets, aside: port.asideFd })
  })
  t.notOk(asked.includes(SIOCETHTOOL), `${asked.length} requests`)
})
