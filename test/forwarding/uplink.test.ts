// An uplink: peers find one another on a LAN, members' frames arrive once and with their color, outside hosts see
// nothing but what is theirs.

import t from 'tap'
import { EtherType } from '../../src/frame/ethernet.js'
import { copyFrame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { idOf, ip, Lan, type LanHost, MEMBERS, type OnLan, packet, tcpSegment } from './lan.js'
import { frame, GROUP, mac } from './rig.js'

const LATER = 1e15
const O = mac(0x7777)
const ARP = { type: EtherType.ARP }

const typeOf = ({ bytes }: FrameCopy) => (bytes[VNET_HEADER_LENGTH + 12] << 8) | bytes[VNET_HEADER_LENGTH + 13]
const isSwitches = (copy: FrameCopy) => typeOf(copy) === EtherType.CONTROL
const given = (frames: readonly FrameCopy[]) =>
  frames.filter((copy) => !isSwitches(copy)).map(({ bytes }) => idOf(bytes.subarray(VNET_HEADER_LENGTH)))
const isCarrier = (copy: OnLan) => isSwitches(copy) && copy.bytes[VNET_HEADER_LENGTH + 19] === 5

/** Hosts a, b (two members each) and c (one), an outside host; peers have met, and nobody has spoken. */
function world(options: Parameters<Lan['host']>[2] = {}, epoch = 4) {
  const lan = new Lan()
  const a = lan.host('a', 2, options, epoch)
  const b = lan.host('b', 2, options, epoch)
  const c = lan.host('c', 1, options, epoch)
  lan.outsider('o')
  lan.pass(300)
  return { lan, a, b, c, o: lan.outside.get('o')! }
}

/** The same, and every member and the outside host have spoken, so that all is agreed. */
function settled(options: Parameters<Lan['host']>[2] = {}, epoch = 4) {
  const made = world(options, epoch)
  for (const host of [made.a, made.b, made.c]) {
    for (let member = MEMBERS; host.forwarder.byIndex[member] !== undefined; member++) {
      if (host.forwarder.byIndex[member]!.isMember) host.send(member, { ...ARP, id: 1 })
    }
  }
  made.lan.send('o', { ...ARP, from: O, id: 2 })
  made.lan.run()
  made.lan.pass(3000)
  made.lan.forget()
  return made
}

t.test('peers find one another', async (t) => {
  const { a, b, c } = world()
  const all = (...hosts: string[]) => hosts.map((host) => ({ host, alive: true }))
  t.same(a.peers, all('b', 'c'))
  t.same(b.peers, all('a', 'c'))
  t.same(c.peers, all('a', 'b'))
  t.same(a.heard, ['b', 'c'], 'told once')
})

t.test('a member’s broadcast: once to each member, once to the outside', async (t) => {
  const { lan, a, b, c, o } = world()
  for (const id of [11, 12]) {
    a.send(1, { ...ARP, id })
    lan.run()
  }
  t.same(a.outputs[2].ids(), [11, 12])
  t.same(b.outputs[1].ids(), [11, 12])
  t.same(b.outputs[2].ids(), [11, 12])
  t.same(c.outputs[1].ids(), [11, 12])
  t.same(given(o), [11, 12])
})

t.test('unicast between members: carried until all is agreed, then by the bit; the outside sees neither', async (t) => {
  const { lan, a, b, o } = world()
  a.send(1, { ...ARP, id: 1 })
  b.send(1, { ...ARP, id: 2, to: a.macOf(1) })
  lan.run()
  lan.forget()
  for (const [id, version] of [
    [21, 4],
    [22, 6],
  ] as const)
    a.send(1, { ...ip(version, id), to: b.macOf(1) })
  t.ok(lan.wire.every(isCarrier) && lan.wire.length === 2, 'carried')
  lan.run()
  t.same(
    b.outputs[1].sent.map(({ bytes }) => idOf(bytes)),
    [21, 22],
  )
  lan.pass(3000)
  lan.forget()
  a.send(1, { ...ip(4, 23), to: b.macOf(1) })
  b.send(1, { ...ip(6, 24), to: a.macOf(1) })
  t.same(lan.wire.map(isCarrier), [false, false])
  lan.run()
  t.same(
    b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [23],
  )
  t.same(
    a.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [24],
  )
  t.same(given(o), [])
})

t.test('the bit carries the epoch’s parity, and the frame arrives as it was sent', async (t) => {
  const { lan, a, b } = settled({}, 5)
  for (const version of [4, 6] as const) {
    a.send(1, { ...ip(version, 31, 0xb8), to: b.macOf(1) })
    const [onLan] = lan.wire
    t.notOk(isCarrier(onLan))
    t.not(onLan.bytes[VNET_HEADER_LENGTH + 15] & (version === 4 ? 4 : 0x40), 0, 'odd')
    lan.run()
    const [arrived] = b.outputs[1].take()
    t.same(arrived.bytes.subarray(14), packet(version, 31, 0xb8))
  }
})

t.test('a frame whose guest has set the bit arrives with it set, at odd and even epochs', async (t) => {
  for (const epoch of [4, 5]) {
    const { lan, a, b, o } = settled({}, epoch)
    for (const version of [4, 6] as const) {
      a.send(1, { ...ip(version, 32, 0x04), to: b.macOf(2) })
      t.ok(lan.wire.every(isCarrier), 'carried')
      lan.run()
      t.same(b.outputs[2].take()[0].bytes.subarray(14), packet(version, 32, 0x04))
    }
    t.same(given(o), [])
  }
})

t.test('to and from outside hosts nothing changes, whatever their bits', async (t) => {
  const { lan, a, b, o } = settled({}, 5)
  for (const trafficClass of [0, 4, 0xff]) {
    a.send(1, { ...ip(4, 41, trafficClass), to: O })
    lan.run()
    lan.send('o', { ...ip(4, 42, trafficClass), from: O, to: a.macOf(1) })
    lan.run()
    t.same(o[0].bytes.subarray(VNET_HEADER_LENGTH + 14), packet(4, 41, trafficClass))
    const [arrived, ...more] = a.outputs[1].take()
    t.same(arrived.bytes.subarray(14), packet(4, 42, trafficClass))
    t.same(more, [])
    lan.forget()
  }
  lan.send('o', { ...ARP, from: O, id: 43 })
  lan.run()
  t.same(
    [a, b].flatMap((host) => [host.outputs[1].ids(), host.outputs[2].ids()]),
    [[43], [43], [43], [43]],
  )
})

t.test('an address that nobody knows: once to each member, once to the outside', async (t) => {
  const { lan, a, b, c, o } = settled()
  a.send(1, { ...ip(4, 51), to: mac(0x5555) })
  lan.run()
  const ids = [...b.outputs.slice(1), ...c.outputs.slice(1)].map((output) =>
    output.sent.map(({ bytes }) => idOf(bytes)),
  )
  t.same(ids, [[51], [51], [51]])
  t.same(given(o), [51])
})

t.test('addresses behind a member that are not claimed: carried, nothing twice, nothing lost', async (t) => {
  const { lan, a, b, o } = settled()
  for (let n = 0; n < 20; n++) a.send(1, { ...ARP, from: mac(0x6000 + n), id: 100 + n })
  lan.run()
  t.same(
    b.outputs[1].ids(),
    Array.from({ length: 20 }, (_, n) => 100 + n),
  )
  t.equal(given(o).length, 20)
  lan.pass(3000)
  lan.forget()
  for (const n of [0, 19]) {
    a.send(1, { ...ip(4, 200 + n), from: mac(0x6000 + n), to: b.macOf(1) })
    b.send(1, { ...ip(4, 300 + n), to: mac(0x6000 + n) })
    lan.run()
  }
  t.same(
    b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [200, 219],
  )
  t.same(
    a.outputs[1].take().map(({ bytes }) => idOf(bytes)),
    [300, 319],
  )
  t.same(given(o), [])
})

t.test('tags of guests: one VLAN tag travels with the bit, service tags are carried', async (t) => {
  const { lan, a, b } = settled({}, 5)
  const tags = [
    [0x8100, 0x6064],
    [0x88a8, 7],
  ] as const
  for (const tag of tags) b.send(1, { ...ARP, tag, id: 60 })
  lan.run()
  lan.forget()
  for (const tag of tags) a.send(1, { ...ip(4, 61), tag, to: b.macOf(1) })
  t.same(lan.wire.map(isCarrier), [false, true])
  lan.run()
  t.same(
    b.outputs[1].take().map(({ tagTpid, tagTci }) => [tagTpid, tagTci]),
    tags,
  )
})

t.test(
  'a frame longer than the LAN’s: in pieces, virtio-net header and all; a lost piece loses that frame only',
  async (t) => {
    const { lan, a, b } = settled()
    const payload = Uint8Array.from({ length: 40_000 }, (_, at) => at * 7)
    const send = (gso: boolean) => a.send(1, { type: 0x9000, payload, gso, to: b.macOf(1) })
    send(true)
    t.ok(lan.wire.length > 20 && lan.wire.every((copy) => copy.bytes.length <= VNET_HEADER_LENGTH + 1514))
    lan.run()
    const [arrived] = b.outputs[1].take()
    t.same(arrived.bytes.subarray(14), payload)
    for (const lost of [0, 5, -1]) {
      send(false)
      const doomed = lan.wire.at(lost)
      lan.run((copy) => copy === doomed)
      t.same(b.outputs[1].take(), [])
      send(false)
      lan.run()
      t.equal(b.outputs[1].take().length, 1)
    }
    t.ok(b.drops('carrier-broken') > 0)
  },
)

t.test('a guest cannot speak as a switch', async (t) => {
  const { lan, a, b, o } = settled()
  const payload = new Uint8Array(160)
  new DataView(payload.buffer).setUint32(0, 0x534e5357)
  payload.set([1, 2], 4)
  for (const to of [GROUP, b.mac]) a.send(1, { type: EtherType.CONTROL, payload, to })
  a.send(1, { type: EtherType.CONTROL, payload: new Uint8Array(60), id: 7 })
  t.same(
    lan.wire.filter((copy) => !isCarrier(copy)).map((copy) => copy.bytes[VNET_HEADER_LENGTH + 14]),
    [0],
    'only what is no frame of ours leaves as it is',
  )
  t.equal(a.drops('control-forged'), 2)
  lan.run()
  t.equal(b.outputs[1].take().length, 3, 'between guests it is payload')
  t.equal(o.filter((copy) => !isSwitches(copy) || copy.bytes[VNET_HEADER_LENGTH + 14] === 0).length, 1)
})

t.test('an outside host with a member’s frames, tags or our EtherType moves no epoch', async (t) => {
  const { lan, a, b } = settled()
  const before = b.forwarder.snapshots.openEpoch
  lan.send('o', { ...ip(4, 71, 4), from: O, to: b.macOf(1) })
  lan.send('o', { ...ip(4, 72), from: O, to: b.macOf(1), tag: [0x88a8, 9] })
  lan.send('o', { type: EtherType.CONTROL, from: O, to: b.mac, payload: new Uint8Array(200).fill(0x53) })
  const payload = new Uint8Array(200)
  new DataView(payload.buffer).setUint32(0, 0x534e5357)
  payload.set([1, 5], 4)
  lan.send('o', { type: EtherType.CONTROL, from: O, to: b.mac, payload })
  lan.run()
  t.equal(b.outputs[1].take().length, 3, 'what is no frame of ours is payload, also of our EtherType')
  t.equal(b.drops('carrier-unexpected'), 1)
  t.same([b.early, b.forwarder.snapshots.openEpoch, a.early], [[], before, []])
})

t.test('a snapshot over a LAN: early frames wait, in-transit ones are recorded, channels close by count', async (t) => {
  for (const color of ['dscp', 'carrier'] as const) {
    for (const epoch of [4, 5]) {
      const { lan, a, b, c, o } = settled({ color }, epoch)
      const next = epoch + 1
      // Under way when both cut.
      b.send(1, { ...ip(4, 80), to: a.macOf(1) })
      b.send(1, { ...ARP, id: 81 })
      const underWay = lan.wire.splice(0)
      lan.forget()
      for (const host of [a, b, c]) host.forwarder.snapshots.begin(next, 'buffer', LATER, lan.now)
      a.forwarder.snapshots.flip([1, 2], next, [0, 0], lan.now)
      a.send(1, { ...ip(4, 82), to: b.macOf(1) })
      a.send(2, { ...ip(6, 83), to: b.macOf(2) })
      a.send(1, { ...ARP, id: 84 })
      lan.run()
      t.same(b.outputs[1].take(), [], 'early')
      t.ok(b.early.length > 0 && b.early.every((early) => early === next))
      t.same(given(o).slice(-1), [84], 'the outside does not wait')
      b.forwarder.snapshots.flip([1, 2], next, [0, 0], lan.now)
      t.same(
        b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
        [82, 84],
      )
      t.same(
        b.outputs[2].take().map(({ bytes }) => idOf(bytes)),
        [83, 84],
      )
      c.forwarder.snapshots.flip([1], next, [0], lan.now)
      lan.run()
      t.same(a.closed, [], 'frames are missing')
      lan.wire.push(...underWay)
      lan.pass(100, 10)
      const { frames } = a.forwarder.snapshots.end()
      t.same(frames.map(({ copy, port }) => [port, idOf(copy.bytes.subarray(VNET_HEADER_LENGTH)), copy.color]).sort(), [
        [1, 80, epoch],
        [1, 81, epoch],
        [2, 81, epoch],
      ])
      for (const host of [a, b, c]) {
        t.match(host.closed, [
          {
            epoch: next,
            closures: [
              { byCount: true, lost: 0 },
              { byCount: true, lost: 0 },
            ],
          },
        ])
      }
      t.same(
        a.closed[0].closures.map(({ host, port }) => [host, port]),
        [
          ['b', 0],
          ['c', 0],
        ],
      )
      lan.pass(5000)
      lan.forget()
      a.send(1, { ...ip(4, 85), to: b.macOf(1) })
      t.equal(lan.wire.every(isCarrier), color === 'carrier', 'the bit goes on being used')
      lan.run()
      t.equal(b.outputs[1].take().length, 1)
      t.equal(b.forwarder.byIndex[1]!.hold.length, 0)
    }
  }
})

t.test(
  'GSO frames that the LAN cuts up are counted as what they become: the channel does not close early',
  async (t) => {
    const { lan, a, b, c } = settled()
    const cut = { to: b.macOf(1), from: a.macOf(1) }
    a.forwarder.receive(1, tcpSegment({ payload: 4000, size: 1400, ...cut }), lan.now)
    a.send(1, { ...ip(4, 1), to: b.macOf(1) })
    const [, after] = lan.wire.splice(0)
    const pieces = [1400, 1400, 1200].map((payload) => ({
      ...after,
      ...copyFrame(tcpSegment({ payload, size: 0, ...cut })),
    }))
    lan.wire.push(...pieces)
    lan.run()
    for (const host of [a, b, c]) {
      host.forwarder.snapshots.begin(5, 'buffer', LATER, lan.now)
      host.forwarder.snapshots.flip([1, 2], 5, [0, 0], lan.now)
    }
    lan.pass(50, 10)
    t.same(b.closed, [], 'one frame is still under way')
    lan.wire.push(after)
    lan.pass(50, 10)
    t.match(b.closed, [{ closures: [{ host: 'a', lost: 0, byCount: true }, { host: 'c' }] }])
    t.equal(b.forwarder.snapshots.end().frames.length, 1)
  },
)

t.test('cuts in quick succession and epochs that jump: colors stay exact', async (t) => {
  const { lan, a, b } = settled({}, 4)
  for (const next of [5, 6, 9, 10]) {
    a.forwarder.snapshots.advance(next, lan.now)
    for (const id of [1, 2]) a.send(1, { ...ip(4, next * 10 + id), to: b.macOf(1) })
    lan.run()
    t.same(b.outputs[1].take(), [], `${next} is early`)
    b.forwarder.snapshots.advance(next, lan.now)
    t.same(
      b.outputs[1].take().map(({ bytes }) => idOf(bytes)),
      [next * 10 + 1, next * 10 + 2],
    )
    t.same(b.early.splice(0), [next])
    lan.pass(200)
  }
})

t.test('a lost frame is missing, and said', async (t) => {
  const { lan, a, b } = settled()
  for (const words of [ip(4, 91), ARP]) b.send(1, { ...words, to: a.macOf(1) })
  lan.run((copy) => copy.from === 'b')
  for (const host of lan.hosts.values()) {
    host.forwarder.snapshots.begin(5, 'buffer', LATER, lan.now)
    host.forwarder.snapshots.flip([1, 2], 5, [0, 0], lan.now)
  }
  lan.pass(500, 10)
  t.match(a.closed, [
    {
      closures: [
        { host: 'b', lost: 2, byCount: false },
        { host: 'c', lost: 0 },
      ],
    },
  ])
})

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

t.test('an uplink with carriers only does not read the bit, which is the guest’s', async (t) => {
  const { lan, a, b } = settled({ color: 'carrier' }, 5)
  lan.put('b', frame({ ...ip(4, 72, 0x04), from: b.macOf(1), to: a.macOf(1) }))
  lan.run()
  t.same([a.outputs[1].take(), a.early], [[], []])
})

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
  for (const host of lan.hosts.values()) {
    host.forwarder.snapshots.begin(6, 'buffer', LATER, lan.now)
    host.forwarder.snapshots.flip([1, 2], 6, [0, 0], lan.now)
  }
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
