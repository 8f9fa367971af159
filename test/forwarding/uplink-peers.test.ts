// Peers on a LAN that start anew, machines that move, addresses that are nobody's or two hosts', and peers with a key.

import t from 'tap'
import { NO_END, UNCOUNTED } from '../../src/epoch/peer-channel.js'
import { ControlType, encodeControl } from '../../src/frame/control.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { eventsTo, Forwarder } from '../../switch/forwarding/forwarder.js'
import { MAX_PEERS } from '../../switch/forwarding/port-state.js'
import { idOf, ip, Lan, type LanHost, type OnLan } from './lan.js'
import { defaults, mac } from './rig.js'
import { ARP, cutAll, given, isCarrier, isSwitches, settled, world } from './uplink-world.js'

t.test('a switch that starts again: known anew, nothing of before is believed', async (t) => {
  const { lan, a, b } = settled({}, 5)
  const again = lan.host('b', 2, {}, 5, '1'.repeat(16))
  a.send(1, { ...ip(4, 95), to: b.macOf(1) })
  lan.run()
  lan.pass(300)
  t.ok(a.peers.find(({ host }) => host === 'b')?.alive)
  again.send(1, { ...ARP, id: 96 })
  lan.run()
  lan.forget()
  a.send(1, { ...ip(4, 97), to: b.macOf(1) })
  lan.run()
  t.same(
    again.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [97],
  )
  lan.pass(3000)
  a.send(1, { ...ip(4, 98), to: b.macOf(1) })
  t.notOk(isCarrier(lan.wire[0]))
  lan.run()
  t.same(
    again.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [98],
  )
  t.same([again.early, a.early], [[], []])
})

t.test('a switch that starts again is quiet until its peers know, who read nothing of it by the bit', async (t) => {
  const { lan, a, b, o } = settled({}, 5)
  a.send(1, { ...ip(4, 95), to: b.macOf(1) })
  const again = lan.host('b', 2, {}, 5, '1'.repeat(16))
  lan.run()
  t.same([again.outputs[1].take(), again.drops('starting')], [[], 1], 'what was sent by the bit to the former boot')
  again.send(1, { ...ip(4, 96), to: a.macOf(1) })
  t.same([lan.wire, again.drops('starting')], [[], 2], 'what the peer would take for the former boot’s')

  // Nothing but its HELLO to all gets through, and time passes.
  for (let i = 0; i < 3; i++) {
    lan.now += 100
    again.forwarder.tick(lan.now)
    const hello = lan.wire.find(isSwitches)!
    lan.wire.length = 0
    lan.deliver(hello)
    lan.wire.length = 0
  }
  again.send(1, { ...ip(4, 97), to: a.macOf(1) })
  t.equal(lan.wire.length, 1)
  lan.run()
  t.same([a.outputs[1].take(), a.drops('starting'), a.early], [[], 1, []], 'its color would be guessed')
  a.send(1, { ...ip(4, 98), to: b.macOf(1) })
  t.ok(lan.wire.every(isCarrier) && lan.wire.length === 1, 'nor is it used')
  lan.wire.length = 0

  lan.pass(4000)
  again.send(1, { ...ip(4, 99), to: a.macOf(1) })
  lan.run()
  t.same(given(o), [])
  t.same(
    a.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [99],
  )
})

t.test('an old HELLO sent again raises no doubt', async (t) => {
  const controlKey = new Uint8Array(32).fill(9)
  const { lan, a, b } = settled({ controlKey }, 5)
  lan.now += 1000
  b.forwarder.tick(lan.now)
  const old = lan.wire.find(
    (copy) => copy.from === 'b' && isSwitches(copy) && (copy.bytes[VNET_HEADER_LENGTH] & 1) === 1,
  )!
  lan.run()
  const again = lan.host('b', 2, { controlKey }, 5, '1'.repeat(16))
  lan.pass(1000)
  for (const host of [a, again]) host.send(1, { ...ARP, id: 1 })
  lan.run()
  lan.pass(3000)
  lan.deliver(old)
  a.send(1, { ...ip(4, 71), to: b.macOf(1) })
  t.ok(lan.wire.length > 0 && !isCarrier(lan.wire.at(-1)!), 'the bit is still used')
})

t.test('an old HELLO of a boot that nobody remembers raises no doubt either, with a key', async (t) => {
  const controlKey = new Uint8Array(32).fill(9)
  const { lan, b } = settled({ controlKey }, 5)
  lan.now += 1000
  b.forwarder.tick(lan.now)
  const old = lan.wire.find(
    (copy) => copy.from === 'b' && isSwitches(copy) && (copy.bytes[VNET_HEADER_LENGTH] & 1) === 1,
  )!
  lan.run()
  lan.pass(1000)
  const again = lan.host('b', 2, { controlKey }, 5, '1'.repeat(16))
  lan.pass(1000)
  const a = lan.host('a', 2, { controlKey }, 5, '2'.repeat(16))
  lan.pass(1000)
  for (const host of [a, again]) host.send(1, { ...ARP, id: 1 })
  lan.run()
  lan.pass(3000)
  lan.forget()
  for (let id = 100; id < 400; id++) {
    lan.deliver(old)
    a.send(1, { ...ip(4, id), to: again.macOf(1) })
    again.send(1, { ...ip(4, id), to: a.macOf(1) })
    t.notOk(lan.wire.filter((copy) => idOf(copy.bytes.subarray(VNET_HEADER_LENGTH)) === id).some(isCarrier))
    lan.run()
    lan.pass(10, 10)
  }
  t.same([a.outputs[1].take().length, again.outputs[1].take().length], [300, 300])
  t.equal(a.drops('starting'), 0)
  t.notOk(lan.seen.some(isCarrier), 'the bit is used')
})

for (const controlKey of [null, new Uint8Array(32).fill(9)]) {
  t.test(
    `a switch that starts with its clock set back is not misread, with a key: ${controlKey !== null}`,
    async (t) => {
      for (let phase = 0; phase < 1000; phase += 200) {
        const { lan, a, b } = settled({ controlKey }, 5)
        lan.pass(phase)
        const bootedAt = lan.now - 60_000
        // Its color is set as the bit, which stands for 5 in what was agreed with its former boot.
        const again = lan.host('b', 2, { controlKey, bootedAt }, 7, '1'.repeat(16))
        lan.forget()
        for (let id = 100; id < 350; id++) {
          again.send(1, { ...ip(4, id), to: a.macOf(1) })
          a.send(1, { ...ip(4, id), to: b.macOf(1) })
          lan.run()
          lan.pass(20, 20)
        }
        t.same(a.outputs[1].take(), [], 'none of its frames passes for one of before the cut')
        t.ok(a.early.every((epoch) => epoch === 7) && a.early.length > 0, 'they are known for what they are')
        const got = again.outputs[1].take().map(({ bytes }) => idOf(bytes))
        t.equal(new Set(got).size, got.length)
        t.ok(got.at(-1) === 349)
        lan.pass(2000)
        const channelTo = (host: LanHost, name: string) =>
          host.forwarder.ports.find(({ channel }) => channel?.host === name)!.channel!
        t.equal(channelTo(a, 'b').bootId, '1'.repeat(16))
        t.equal(channelTo(a, 'b').received.total, channelTo(again, 'a').sent.total, 'both count the same')
      }
    },
  )
}

t.test('a machine that moves to another host is claimed there', async (t) => {
  const { lan, a, b, c } = settled({}, 5)
  const moved = a.macOf(1)
  a.forwarder.removePort(1)
  c.forwarder.announce(1, moved, lan.now)
  lan.run()
  lan.forget()
  b.send(1, { ...ip(4, 101), to: moved })
  c.send(1, { ...ip(4, 102), from: moved, to: b.macOf(1) })
  lan.run()
  t.same(
    c.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [101],
  )
  t.same(
    b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [102],
  )
  lan.pass(3000)
  b.send(1, { ...ip(4, 103), to: moved })
  t.notOk(isCarrier(lan.wire[0]), 'claimed')
  lan.run()
  t.same(
    c.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [103],
  )
})

t.test('after a restore frames find a machine that has moved before it speaks', async (t) => {
  const { lan, a, b, c, o } = settled()
  const moved = b.macOf(1)
  const got = (host: LanHost, member: number) => host.outputs[member].take().map(({ bytes }) => idOf(bytes))
  for (const host of [a, b, c]) {
    const ports = [1, 2].filter((index) => host.forwarder.byIndex[index]?.isMember)
    host.forwarder.snapshots.fence(ports, 6, lan.now)
    host.forwarder.snapshots.release(ports, lan.now)
  }
  b.forwarder.removePort(1)
  a.send(1, { ...ip(4, 31), to: moved })
  lan.run()
  t.same(got(c, 1), [31], 'c has it now')
  t.same(given(o), [])
  lan.pass(1000)
  lan.forget()
  a.send(1, { ...ip(4, 32), to: b.macOf(2) })
  lan.run()
  t.same(got(b, 2), [32])
  t.same(got(c, 1), [], 'who did not move is where it was')
})

t.test('what a port claimed that is gone, its successor with the same index does not claim', async (t) => {
  const { lan, a, b } = settled()
  const moved = b.macOf(1)
  b.forwarder.removePort(1)
  a.forwarder.removePort(1)
  for (const host of [a, b]) {
    const port = { index: 1, name: 'new', kind: 'member' as const, vm: 'new', epoch: 4, mac: mac(0) }
    host.forwarder.addPort(port, host.outputs[1])
    host.forwarder.snapshots.fence([1], 6, lan.now)
  }
  lan.pass(1000)
  lan.forget()
  // The machine that was behind b's port is behind a's now, and has not spoken yet; the other way round.
  b.send(1, { ...ip(4, 61), from: a.macOf(1), to: moved })
  lan.run()
  a.forwarder.snapshots.release([1], lan.now)
  t.same(
    a.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [61],
  )
})

t.test('an agreement that a later one has overtaken is not believed', async (t) => {
  const { lan, a, b } = settled()
  lan.pass(1000)
  const isAgreement = (copy: OnLan) => isSwitches(copy) && copy.bytes[VNET_HEADER_LENGTH + 19] === 4
  const toA = (copy: OnLan) => copy.from === 'b' && Buffer.from(a.mac).equals(copy.bytes.subarray(10, 16))
  const old = lan.seen.find((copy) => isAgreement(copy) && toA(copy))!
  const late = mac(0x9999)
  b.send(1, { ...ARP, from: late })
  lan.pass(3000)
  const ways = () => {
    lan.forget()
    a.send(1, { ...ip(4, 51, 4), to: late })
    lan.run()
    return lan.seen.map(isCarrier)
  }
  t.same(ways(), [true], 'marked by the guest, so in a carrier, and nothing else')
  lan.give('a', old)
  a.forwarder.fdb.clear()
  t.same(ways(), [true], 'not to the world')
})

t.test('who was heard in a carrier is no outsider, whatever the FDB says', async (t) => {
  const { lan, a, b } = world()
  a.send(1, { ...ARP, id: 11 })
  b.forwarder.snapshots.fence([1, 2], 5, lan.now)
  lan.run()
  b.forwarder.snapshots.release([1, 2], lan.now)
  t.same(b.outputs[1].ids(), [], 'a frame of the former incarnation does not pass the fence in its plain copy')
  const shared = mac(0x9999)
  a.forwarder.snapshots.advance(5, lan.now)
  a.send(1, { ...ARP, id: 12, from: shared })
  const plain = lan.wire.filter((copy) => !isCarrier(copy))
  lan.run((copy) => !isCarrier(copy))
  b.send(2, { ...ARP, id: 13, from: shared })
  lan.wire.push(...plain)
  lan.run()
  t.same(b.outputs[1].ids(), [12, 13], 'nor does a second copy pass when the address has been used here, too')
})

t.test('two hosts with the same address: the colors of both stay theirs', async (t) => {
  const { lan, a, b, c } = settled({}, 5)
  const contested = a.macOf(1)
  c.send(1, { ...ARP, from: contested, id: 1 })
  lan.run()
  lan.pass(3000)
  lan.forget()
  for (const [host, id] of [
    [a, 111],
    [c, 112],
    [a, 113],
  ] as const) {
    host.send(1, { ...ip(4, id), from: contested, to: b.macOf(1) })
    lan.run()
  }
  t.same(
    b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [111, 112, 113],
  )
  cutAll(lan, 6)
  lan.pass(500, 10)
  t.match(b.closed, [
    {
      closures: [
        { byCount: true, lost: 0 },
        { byCount: true, lost: 0 },
      ],
    },
  ])
  const [fromA, fromC] = b.closed[0].closures
  t.equal(fromA.received - fromA.expected, 0)
  t.equal(fromC.received - fromC.expected, 0)
})

t.test('outside hosts behind a plain port of one host talk to members of another', async (t) => {
  const lan = new Lan()
  const a = lan.host('a', 1)
  const b = lan.host('b', 1, { plain: 1 })
  lan.outsider('o')
  const x = mac(0x8888)
  lan.pass(300)
  a.send(1, { ...ARP, id: 1 })
  b.send(1, { ...ARP, id: 2 })
  lan.run()
  t.same(b.outputs[b.plainPort].ids().sort(), [1, 2], 'broadcasts reach it once')
  lan.pass(3000)
  lan.forget()
  const fromX = (words: object) => b.send(b.plainPort, { ...words, from: x })
  a.send(1, { ...ip(4, 3), to: x })
  lan.run()
  t.same(
    b.outputs[b.plainPort].take().map(({ bytes }) => idOf(bytes)),
    [3],
    'unknown',
  )
  fromX({ ...ip(4, 4), to: a.macOf(1) })
  lan.run()
  t.same(
    a.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [4],
  )
  lan.forget()
  a.send(1, { ...ip(4, 5), to: x })
  lan.run()
  t.same(
    b.outputs[b.plainPort].take().map(({ bytes }) => idOf(bytes)),
    [5],
    'known',
  )
  fromX({ ...ARP, id: 6 })
  lan.run()
  t.same([a.outputs[1].ids(), b.outputs[1].ids()], [[6], [6]])
})

t.test('with a key: the same, and whoever has none is no peer', async (t) => {
  const controlKey = new Uint8Array(32).fill(9)
  const { lan, a, b } = settled({ controlKey }, 5)
  t.same(a.peers, [
    { host: 'b', alive: true },
    { host: 'c', alive: true },
  ])
  const stranger = lan.host('d', 1, {}, 5)
  lan.pass(1500)
  t.same(stranger.peers, [])
  t.equal(a.peers.length, 2)
  t.ok(a.drops('control-unauthenticated') > 0)
  a.send(1, { ...ip(4, 5), to: b.macOf(1) })
  t.notOk(isCarrier(lan.wire[0]))
  lan.run()
  t.equal(b.outputs[1].take().length, 1)
})

t.test('a stranger with ever new addresses fills nothing, and the peers of before stay', async (t) => {
  const { lan, a, b } = settled({}, 5)
  const hello = (from: number) => {
    const words = { type: ControlType.HELLO, network: 'lab0', host: 'd', bootId: 'd'.repeat(16), epoch: 0, count: 0 }
    const end = { number: from, heard: NO_END, accepts: UNCOUNTED, sends: UNCOUNTED, takes: false }
    const body = encodeControl({ ...words, ...end }, a.mac, mac(from))
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    lan.give('a', { bytes, tagTpid: 0, tagTci: 0, color: 0, from: 'stranger' })
  }
  for (let i = 0; i < 8 * MAX_PEERS; i++) hello(0x1000 + i)
  t.same(
    a.peers.map(({ host }) => host),
    ['b', 'c', 'd'],
  )

  const saved = a.forwarder.save()
  const again = new Forwarder(
    { ...defaults, host: 'a' },
    createCounters(),
    eventsTo(() => undefined),
  )
  again.load(saved, () => a.device)
  t.same(again.save(), saved)

  lan.wire.length = 0
  lan.pass(3000)
  lan.forget()
  a.send(1, { ...ip(4, 41), to: b.macOf(1) })
  lan.run()
  t.same(
    b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [41],
  )
})
