// The daemon on real devices: what a network needs of a switch, between endpoints with the kernel's own stacks.

import t from 'tap'
import { atRest } from '../hardening/daemon-health.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, stations, testFrame } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

const twoPorts = { networks: { lab0: { ports: { one: { device: 'one' }, two: { device: 'two' } } } } }

/** Bytes of VLAN tags behind the addresses of a copied frame. */
function lengthOfTags(bytes: Uint8Array): number {
  let at = 22
  while ((bytes[at] === 0x81 && bytes[at + 1] === 0) || (bytes[at] === 0x88 && bytes[at + 1] === 0xa8)) at += 4
  return at - 22
}

t.test('two endpoints on one switch', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  const daemon = await world.switch('host', twoPorts)

  await t.test('ping, and the FDB knows both', async (t) => {
    const result = await world.pings('one', '10.66.0.2')
    t.equal(result.code, 0, result.stdout)
    const entries = await daemon.client.fdb('lab0', { deadlineMs: patience(5000) })
    t.same(entries.map(({ ifname }) => ifname).sort(), ['one', 'two'])
  })

  await t.test('frames of every size up to the MTU, none beyond', async (t) => {
    for (const size of ['0', '1', '1472']) {
      const result = await world.pings('one', '10.66.0.2', '-s', size, '-M', 'do')
      t.equal(result.code, 0, `${size} bytes`)
    }
  })

  await t.test('802.1Q and QinQ arrive as they were sent, untagged ones untagged', async (t) => {
    const [sender, receiver] = stations(t, world, 'one', 'two')
    const capture = await world.capture('two', 'eth0', 'ether', 'src', '02:00:00:00:00:01')
    const dot1q = [0x81, 0, 0x60, 100]
    const sent = [[], dot1q, [0x88, 0xa8, 0x20, 200, ...dot1q], [0x81, 0, 0, 7, ...dot1q], [0x81, 0, 0xe0, 0]]
    for (const [id, tags] of sent.entries()) t.equal(sender.send(testFrame(id, { tags })), null)
    const frames = await receiver.collect(sent.length)
    const tagsOf = ({ tagTpid, tagTci, bytes }: (typeof frames)[number]) => {
      const outer = tagTpid === 0 ? [] : [tagTpid >> 8, tagTpid & 0xff, tagTci >> 8, tagTci & 0xff]
      return [...outer, ...bytes.slice(22, 22 + bytes.length).slice(0, lengthOfTags(bytes))]
    }
    t.same(frames.map(idOf), [0, 1, 2, 3, 4])
    t.same(frames.map(tagsOf), sent)
    await capture.says(/vlan 200/)
    const seen = await capture.stop()
    t.match(seen, /802\.1Q-QinQ \(0x88a8\).*vlan 200, p 1.*802\.1Q.*vlan 100, p 3/)
  })

  await t.test('frames too short for a device are refused; the longest pass, longer ones never get in', async (t) => {
    const [sender, receiver] = stations(t, world, 'one', 'two')
    for (const length of [0, 1, 13]) t.equal(sender.send(new Uint8Array(length).fill(2)), 'EINVAL', `${length} bytes`)
    // A header alone is a frame; nothing says that it must be padded on a veth.
    t.equal(sender.send(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb6)), null)
    t.equal(sender.send(testFrame(2, { length: 1514 })), null)
    t.equal(sender.send(testFrame(3, { length: 1518, tags: [0x81, 0, 0, 9] })), null)
    t.equal(sender.send(testFrame(4, { length: 1515 })), 'EMSGSIZE')
    const frames = await receiver.collect(3)
    t.same(
      frames.map(({ bytes }) => bytes.length - 10),
      [14, 1514, 1514],
    )
  })

  await t.test(
    'a frame too long for the device it must leave by is dropped, counted, and delays no other',
    async (t) => {
      await world.ip('host', 'link', 'set', 'one', 'mtu', '9000')
      await world.ip('one', 'link', 'set', 'eth0', 'mtu', '9000')
      const [sender, receiver] = stations(t, world, 'one', 'two')
      for (let id = 0; id < 20; id++) t.equal(sender.send(testFrame(id, { length: id % 2 === 0 ? 60 : 4000 })), null)
      const frames = await receiver.collect(10)
      t.same(frames.map(idOf), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
      t.match((await daemon.port('two')).counters.drops, { 'too-long': 10 })
      await world.ip('host', 'link', 'set', 'one', 'mtu', '1500')
      await world.ip('one', 'link', 'set', 'eth0', 'mtu', '1500')
    },
  )

  await t.test('no CPU is used while nothing happens', async (t) => {
    await t.resolves(atRest(daemon))
  })

  await t.test('it ends on SIGTERM with code 0, and gives the devices back', async (t) => {
    t.equal(await daemon.stop(), 0, daemon.said().slice(-500))
    t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'one'), /clsact/)
    t.notMatch(await world.ip('host', '-d', 'link', 'show', 'dev', 'one'), /promiscuity [1-9]/)
    t.not((await world.pings('one', '10.66.0.2')).code, 0, 'nothing forwards now')
  })
})
