// An uplink: members' frames arrive once and with their color, outside hosts see nothing but what is theirs.

import t from 'tap'
import { EtherType } from '../../src/frame/ethernet.js'
import { copyFrame, Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { idOf, ip, Lan, type OnLan, packet, tcpSegment, UPLINK } from './lan.js'
import { frame, GROUP, mac } from './rig.js'
import { ARP, given, isCarrier, isSwitches, O, settled, world } from './uplink-world.js'

t.test('peers find one another', async (t) => {
  const { a, b, c } = world()
  const all = (...hosts: string[]) => hosts.map((host) => ({ host, alive: true }))
  t.same(a.peers, all('b', 'c'))
  t.same(b.peers, all('a', 'c'))
  t.same(c.peers, all('a', 'b'))
  t.same(a.heard, ['b', 'c'], 'told once')
})

t.test('what is longer on the wire than the LAN’s MTU is carried, whatever is agreed', async (t) => {
  const { lan, a, b, o } = settled({ mtu: 1500 }, 5)
  const to = { to: b.macOf(1), from: a.macOf(1) }
  const cases: [what: string, frame: Frame, fits: number][] = [
    ['full size', frame({ ...to, ...ip(4, 1, 0, 1500) }), 1500],
    ['one byte more', frame({ ...to, ...ip(4, 1, 0, 1501) }), 1501],
    ['IPv6', frame({ ...to, ...ip(6, 1, 0, 1501) }), 1501],
    ['a jumbo frame', frame({ ...to, ...ip(4, 1, 0, 9000) }), 9000],
    ['full size with a tag', frame({ ...to, ...ip(4, 1, 0, 1500), tag: [EtherType.VLAN, 5] }), 1500],
    ['one byte more with a tag', frame({ ...to, ...ip(4, 1, 0, 1501), tag: [EtherType.VLAN, 5] }), 1501],
    ['segments of full size', tcpSegment({ ...to, payload: 5000, size: 1460 }), 1500],
    ['segments of one byte more', tcpSegment({ ...to, payload: 5000, size: 1461 }), 1501],
    ['jumbo segments', tcpSegment({ ...to, payload: 50_000, size: 8960 }), 9000],
    ['one short segment of what may be long', tcpSegment({ ...to, payload: 1000, size: 8960 }), 1040],
  ]
  for (const mtu of [1500, 9000, 1501, 1280, 1500]) {
    const { spec } = a.forwarder.byIndex[UPLINK]!
    a.forwarder.portChanged(UPLINK, { mac: spec.mac, mtu, queueLength: 1000 }, a.device, lan.now)
    lan.pass(2500)
    for (const [what, made, fits] of cases) {
      lan.forget()
      const copy = copyFrame(made)
      a.forwarder.receive(1, new Frame().pointAt({ ...copy, bytes: copy.bytes.slice() }), lan.now)
      t.equal(lan.wire.every(isCarrier), fits > mtu, `${what}, MTU ${mtu}`)
      lan.run()
      const [got] = b.outputs[1]!.take()
      t.ok(Buffer.from(got!.bytes).equals(copy.bytes.subarray(VNET_HEADER_LENGTH)), 'it arrives as it was')
    }
  }
  t.same(given(o), [])
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

t.test('nor under tags, which a LAN may take off', async (t) => {
  const payload = new Uint8Array(160)
  new DataView(payload.buffer).setUint32(0, 0x534e5357)
  payload.set([1, 2], 4)
  const inside = (...tags: [tpid: number, tci: number][]) => {
    const bytes = new Uint8Array(4 * tags.length + payload.length)
    const view = new DataView(bytes.buffer)
    // An EtherType, then what follows it.
    const types = [...tags.map(([tpid]) => tpid), EtherType.CONTROL]
    for (const [at, [, tci]] of tags.entries()) {
      view.setUint16(4 * at, tci)
      view.setUint16(4 * at + 2, types[at + 1]!)
    }
    bytes.set(payload, 4 * tags.length)
    return { type: types[0]!, payload: bytes }
  }
  const { lan, a, o } = settled()
  let forged = 0
  for (const beside of [undefined, [0x8100, 0], [0x8100, 0xe000], [0x8100, 1], [0x88a8, 7]] as const) {
    for (const within of [
      [],
      [[0x8100, 0]],
      [[0x8100, 1]],
      [
        [0x88a8, 1],
        [0x8100, 0],
      ],
    ] as [number, number][][]) {
      for (const to of [GROUP, O]) {
        a.send(1, { ...inside(...within), to, ...(beside === undefined ? {} : { tag: beside }) })
        t.equal(a.drops('control-forged'), ++forged, `${beside} ${within.join(' ')}`)
      }
    }
  }
  lan.run()
  t.same(
    o.filter((copy) => !isSwitches(copy)),
    [],
  )
  t.notOk(
    o.some(({ bytes }) => (bytes[VNET_HEADER_LENGTH]! & 1) === 0),
    'nor to it alone',
  )
  // What ends before it can be one, and other protocols under tags, leave as they are.
  lan.forget()
  for (const words of [
    { type: EtherType.CONTROL, payload: new Uint8Array(60) },
    { type: EtherType.VLAN, payload: Uint8Array.of(0, 1, 0x88) },
  ])
    a.send(1, { ...words, to: O, tag: [0x8100, 1] })
  lan.run()
  t.equal(o.length, 2)
})

for (const tci of [0, 0xe000, 0x1000]) {
  t.test(`a device that gives all it receives a priority tag (${tci}) is no hindrance`, async (t) => {
    const lan = new Lan()
    const tagged = (name: string, copy: OnLan) =>
      name === 'b' && copy.tagTpid === 0 ? { ...copy, tagTpid: 0x8100, tagTci: tci } : copy
    const give = lan.give.bind(lan)
    lan.give = (name, copy) => give(name, tagged(name, copy))
    const [a, b] = ['a', 'b'].map((name) => lan.host(name, 2, {}, 5))
    lan.outsider('o')
    lan.pass(300)
    t.same([a!.peers, b!.peers], [[{ host: 'b', alive: true }], [{ host: 'a', alive: true }]])
    for (const host of [a!, b!]) host.send(1, { ...ARP, id: 1 })
    lan.run()
    t.same([a!.outputs[1]!.ids(), b!.outputs[1]!.ids()], [[1], [1]], 'once, and no frame between switches')
    lan.pass(3000)
    lan.forget()
    for (const [from, to, id] of [
      [a!, b!, 21],
      [b!, a!, 22],
    ] as const)
      from.send(1, { ...ip(4, id), to: to.macOf(1) })
    t.notOk(lan.wire.some(isCarrier))
    lan.run()
    for (const [host, id] of [
      [a!, 22],
      [b!, 21],
    ] as const) {
      const got = host.outputs[1]!.take()
      t.same(
        got.map(({ bytes }) => Buffer.from(bytes.subarray(14))),
        [Buffer.from(packet(4, id))],
      )
    }
    t.same([a!.early, b!.early], [[], []])
  })
}

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

t.test('an uplink with carriers only does not read the bit, which is the guest’s', async (t) => {
  const { lan, a, b } = settled({ color: 'carrier' }, 5)
  lan.put('b', frame({ ...ip(4, 72, 0x04), from: b.macOf(1), to: a.macOf(1) }))
  lan.run()
  t.same([a.outputs[1].take(), a.early], [[], []])
})
