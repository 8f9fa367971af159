// What any switch does, without a snapshot: learning, flooding, VLANs, trunks, and what it refuses.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { ControlType, decodeControl, encodeControl } from '../../src/frame/control.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Peer } from './peer.js'
import { frame, GROUP, mac, Rig, type Sent } from './rig.js'

/** A decoded control frame that a trunk sent; fails the test when it is none. */
function controlOf(sent: Sent) {
  const message = decodeControl(sent.bytes)
  if (typeof message === 'string') throw new Error(message)
  return message
}

const hello = (count: number, epoch = 0, bootId = 'bbbbbbbbbbbbbbbb', network = 'lab0') =>
  encodeControl({ ...controlExample(ControlType.HELLO, epoch, count, bootId), network }, GROUP, mac(99))

/** A control frame as words for the rig: its bytes are addresses, EtherType, payload. */
const asWords = (bytes: Uint8Array) => ({
  to: bytes.slice(0, 6),
  from: bytes.slice(6, 12),
  type: EtherType.CONTROL,
  payload: bytes.slice(14),
})

t.test('floods what it does not know, forwards what it has learned, follows who moves', async (t) => {
  const rig = new Rig(['member', 'member', 'plain'])
  rig.receive(0, { from: mac(1), to: mac(2), id: 1 })
  t.same(rig.ids(), [[], [1], [1]])
  rig.receive(1, { from: mac(2), to: mac(1), id: 2 })
  t.same(rig.ids(), [[2], [], []])
  rig.receive(0, { from: mac(1), to: mac(2), id: 3 })
  t.same(rig.ids(), [[], [3], []])
  rig.receive(2, { from: mac(2), to: mac(1), id: 4 })
  t.same(rig.ids(), [[4], [], []])
  rig.receive(0, { from: mac(1), to: mac(2), id: 5 })
  t.same(rig.ids(), [[], [], [5]], 'it has moved')
  rig.receive(0, { from: mac(3), to: mac(1), id: 6 })
  t.same(rig.ids(), [[], [], []], 'its destination is where it came from')
  rig.receive(0, { from: mac(1), to: GROUP, id: 7 })
  t.same(rig.ids(), [[], [7], [7]])
  t.equal(rig.count(0, 'rxFrames'), 5)
  t.equal(rig.count(0, 'rxBytes'), 5 * 60)
})

t.test('what was learned ages; time is what the caller says', async (t) => {
  const rig = new Rig(['member', 'member', 'member'])
  rig.receive(1, { from: mac(2), to: GROUP })
  rig.clear()
  rig.now += 300_000
  rig.receive(0, { from: mac(1), to: mac(2), id: 1 })
  t.same(rig.ids(), [[], [1], []])
  rig.now += 1000
  rig.receive(0, { from: mac(1), to: mac(2), id: 2 })
  t.same(rig.ids(), [[], [2], [2]])
})

t.test('what was learned at a port that loses its carrier is forgotten, and nothing else', async (t) => {
  const rig = new Rig(['member', 'member', 'plain', 'trunk'])
  const changed = (port: number, lost?: boolean) => {
    const device = { mac: mac(0xff00 + port), mtu: 1500, queueLength: 1000 }
    const state = lost === undefined ? device : { ...device, lost }
    rig.forwarder.portChanged(port, state, rig.outputs[port], rig.now)
  }
  rig.forwarder.setRules(2, { fdb: [{ mac: '02:00:00:00:00:07' }] })
  rig.receive(2, { from: mac(2), to: GROUP })
  rig.receive(1, { from: mac(3), to: GROUP })
  rig.receive(3, { from: mac(4), tag: [EtherType.SERVICE_VLAN, colorVid(0)] })
  rig.clear()
  const reached = (to: number) => {
    rig.receive(0, { from: mac(1), to: mac(to), id: to })
    return rig.ids().flatMap((ids, port) => (ids.length > 0 ? [port] : []))
  }
  for (const lost of [undefined, false]) changed(2, lost)
  t.same([2, 3, 4, 7].map(reached), [[2], [1], [3], [2]])
  changed(2, true)
  t.same([2, 3, 4, 7].map(reached), [[1, 2, 3], [1], [3], [2]], 'an address that was placed there stays')
  changed(3, true)
  t.same([3, 4].map(reached), [[1], [1, 2, 3]])
  rig.receive(1, { from: mac(2), to: mac(1), id: 2 })
  rig.clear()
  t.same(reached(2), [1], 'it speaks behind another port')
})

t.test('VLANs are kept apart: one address is two in two of them', async (t) => {
  const rig = new Rig(['member', 'member', 'member'])
  rig.receive(1, { from: mac(2), tag: [EtherType.VLAN, 10] })
  rig.receive(2, { from: mac(2), tag: [EtherType.VLAN, 20] })
  rig.clear()
  rig.receive(0, { from: mac(1), to: mac(2), tag: [EtherType.VLAN, 0x600a], id: 1 })
  rig.receive(0, { from: mac(1), to: mac(2), tag: [EtherType.VLAN, 20], id: 2 })
  rig.receive(0, { from: mac(1), to: mac(2), id: 3 })
  const sent = rig.outputs.map((output) => output.take())
  t.same(
    sent.map((list) => list.map(({ id, tagTci }) => [id, tagTci])),
    [
      [],
      [
        [1, 0x600a],
        [3, 0],
      ],
      [
        [2, 20],
        [3, 0],
      ],
    ],
    'the tag travels on, priority and all; untagged is a network of its own',
  )
})

t.test('refuses frames too short or too long for any device, and those from a group address or none', async (t) => {
  const rig = new Rig(['member', 'member'])
  const short = frame({ id: 1 })
  short.length = 13
  rig.forwarder.receive(0, short, rig.now)
  const long = new Frame().pointAt({
    bytes: new Uint8Array(VNET_HEADER_LENGTH + MAX_FRAME_LENGTH + 1),
    tagTpid: 0,
    tagTci: 0,
    color: 0,
  })
  rig.forwarder.receive(0, long, rig.now)
  t.equal(rig.drops(0, 'malformed'), 2)
  rig.receive(0, { from: GROUP, to: mac(2) })
  rig.receive(0, { from: Uint8Array.of(1, 0, 0x5e, 0, 0, 1), to: mac(2) })
  rig.receive(0, { from: new Uint8Array(6), to: GROUP })
  t.equal(rig.drops(0, 'bad-source'), 3)
  t.same(rig.ids(), [[], []])
  t.equal(rig.forwarder.fdb.size, 0)
  t.equal(rig.count(0, 'rxFrames'), 5, 'all of them were received')
})

t.test('link-local groups pass a transparent wire and stop at a bridge', async (t) => {
  const lldp = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0x0e)
  const wire = new Rig(['member', 'member'], { linkLocal: 'forward' })
  wire.receive(0, { to: lldp, id: 1 })
  t.same(wire.ids(), [[], [1]])
  const bridge = new Rig(['member', 'member'], { linkLocal: 'drop' })
  bridge.receive(0, { to: lldp, id: 1 })
  bridge.receive(0, { to: Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0x10), id: 2 })
  t.same(bridge.ids(), [[], [2]])
  t.equal(bridge.drops(0, 'link-local'), 1)
})

t.test('PAUSE frames stop at either, unless they are asked for, and teach nothing', async (t) => {
  const pause = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 1)
  for (const linkLocal of ['forward', 'drop'] as const) {
    const rig = new Rig(['member', 'plain'], { linkLocal })
    rig.receive(0, { to: pause, id: 1 })
    t.same(rig.ids(), [[], []])
    t.equal(rig.drops(0, 'pause'), 1)
    t.equal(rig.forwarder.fdb.size, 0)
    const asked = new Rig(['member', 'plain'], { linkLocal, pause: 'forward' })
    asked.receive(0, { to: pause, id: 1 })
    t.same(asked.ids(), [[], [1]])
  }
})

t.test('between trunks nothing passes, unless transit is on', async (t) => {
  for (const transit of [false, true]) {
    const rig = new Rig(['member', 'trunk', 'trunk'], { transit })
    rig.receive(1, { from: mac(9), tag: [EtherType.SERVICE_VLAN, colorVid(0)], id: 1 })
    t.same(rig.ids(), [[1], [], transit ? [1] : []])
    rig.receive(2, { from: mac(8), to: mac(9), tag: [EtherType.SERVICE_VLAN, colorVid(0)], id: 2 })
    t.same(rig.ids(), [[], transit ? [2] : [], []], 'known to be behind the other trunk')
    rig.receive(0, { from: mac(1), to: mac(9), id: 3 })
    t.same(rig.ids(), [[], [3], []])
  }
})

t.test('a trunk carries the sender’s epoch as an outer service tag, and the receiver takes it off', async (t) => {
  const a = new Rig(['member', 'trunk'], {}, 6)
  const b = new Rig(['member', 'trunk'], { host: 'b', bootId: 'bbbbbbbbbbbbbbbb' }, 6)
  for (const tag of [undefined, [EtherType.VLAN, 7], [EtherType.SERVICE_VLAN, 9]] as const) {
    a.receive(0, tag === undefined ? { id: 5 } : { id: 5, tag })
    const [sent] = a.outputs[1].take()
    t.equal(sent.serviceTci, colorVid(6))
    t.match(sent, { tagTpid: tag?.[0] ?? 0, tagTci: tag?.[1] ?? 0, id: 5 })
    // On the wire the guest's own tag lies under ours; the kernel takes off the outer one only.
    const { bytes } = sent
    const inner = tag === undefined ? [] : [tag[0] >> 8, tag[0] & 0xff, tag[1] >> 8, tag[1] & 0xff]
    const arrived = new Uint8Array([
      ...new Array(VNET_HEADER_LENGTH).fill(0),
      ...bytes.slice(0, 12),
      ...inner,
      ...bytes.slice(12),
    ])
    const cursor = new Frame().pointAt({
      bytes: arrived,
      tagTpid: EtherType.SERVICE_VLAN,
      tagTci: sent.serviceTci,
      color: 0,
    })
    b.forwarder.receive(1, cursor, b.now)
    const [delivered] = b.outputs[0].take()
    t.match(delivered, { tagTpid: 0, tagTci: 0, serviceTci: -1 }, 'no tag of ours reaches a member')
    t.same(delivered.bytes, arrived.slice(VNET_HEADER_LENGTH), 'and what the guest sent does')
  }
  t.equal(a.forwarder.byIndex[1]!.channel!.sent.total, 3)
  t.equal(b.forwarder.byIndex[1]!.channel!.received.total, 3)
})

t.test('frames of the outside world travel without a color; those that look like ours under an escape', async (t) => {
  const a = new Rig(['plain', 'trunk'])
  const sentFor = (words: Parameters<Rig['receive']>[1]) => {
    a.receive(0, words)
    return a.outputs[1].take()[0]
  }
  t.equal(sentFor({ id: 1 }).serviceTci, -1)
  t.equal(sentFor({ id: 1, tag: [EtherType.VLAN, 5] }).serviceTci, -1)
  t.equal(sentFor({ tag: [EtherType.SERVICE_VLAN, colorVid(3)] }).serviceTci, 0, 'a tag beside the frame')
  t.equal(sentFor({ type: EtherType.SERVICE_VLAN }).serviceTci, 0, 'a tag in the frame')
  t.equal(sentFor({ type: EtherType.CONTROL }).serviceTci, 0, 'what looks like a control frame')
  t.equal(a.forwarder.byIndex[1]!.channel!.sent.total, 0, 'no part of any channel')

  const b = new Rig(['member', 'trunk'], { host: 'b', bootId: 'bbbbbbbbbbbbbbbb' }, 8)
  b.receive(1, { ...asWords(hello(0)), tag: [EtherType.SERVICE_VLAN, 0] })
  t.same(b.events, [], 'an escaped control frame is payload')
  t.equal(b.outputs[0].take().length, 1)
  t.equal(b.forwarder.byIndex[1]!.channel!.received.total, 0)
})

t.test('a color that no epoch has is dropped', async (t) => {
  const rig = new Rig(['member', 'trunk'])
  rig.receive(1, { tag: [EtherType.SERVICE_VLAN, 0xfff] })
  t.equal(rig.drops(1, 'tag-unknown'), 1)
  t.same(rig.ids(), [[], []])
})

t.test('a guest can forge nothing: tags and control frames from member and plain ports are payload', async (t) => {
  for (const kind of ['member', 'plain'] as const) {
    const rig = new Rig([kind, 'member', 'trunk'], {}, 3)
    rig.receive(0, { tag: [EtherType.SERVICE_VLAN, colorVid(9)], id: 1 })
    const [toMember] = rig.outputs[1].take()
    t.match(toMember, { id: 1, tagTpid: EtherType.SERVICE_VLAN, tagTci: colorVid(9), serviceTci: -1 })
    const [toTrunk] = rig.outputs[2].take()
    t.equal(toTrunk.serviceTci, kind === 'member' ? colorVid(3) : 0, 'under our own tag')
    rig.receive(0, asWords(hello(0, 77)))
    rig.receive(0, asWords(encodeControl(controlExample(ControlType.MARKER, 77), GROUP, mac(99))))
    t.equal(rig.outputs[1].take().length, 2)
    t.equal(
      rig.outputs[2].take().every((sent) => sent.serviceTci >= 0),
      true,
    )
    t.same(rig.events, [], 'no peer, no early frame')
    t.equal(rig.forwarder.network.epoch, 3)
  }
})

const controlExample = (type: ControlType, epoch: number, count = 0, bootId = 'bbbbbbbbbbbbbbbb') => ({
  type,
  bootId,
  network: 'lab0',
  host: 'b',
  number: 1,
  heard: { bootId: '0'.repeat(16), number: 0 },
  accepts: 1,
  sends: 0,
  takes: false,
  epoch,
  count,
})

t.test('HELLO: on trunks only; quickly until the peer has agreed, then every second', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 4)
  rig.tick()
  t.same(rig.outputs[0].take(), [])
  const [first] = rig.outputs[1].take()
  t.match(controlOf(first), { type: ControlType.HELLO, network: 'lab0', host: 'a', epoch: 4, count: 0 })
  t.equal(first.serviceTci, -1)
  const hellosWithin = (milliseconds: number) => {
    for (let passed = 0; passed < milliseconds; passed += 100) rig.tick(100)
    return rig.outputs[1].take().length
  }
  t.equal(hellosWithin(3000), 30)
  t.equal(hellosWithin(3000), 3, 'nobody is there')

  rig.receive(1, asWords(hello(17, 5)))
  t.same(rig.events, [{ kind: 'peer', port: 1, host: 'b', bootId: 'bbbbbbbbbbbbbbbb', epoch: 5 }])
  t.equal(rig.outputs[1].take().length, 1, 'answered')
  t.same(rig.outputs[0].take(), [], 'no member ever sees one')
  const port = rig.forwarder.byIndex[1]!
  t.equal(rig.forwarder.trunks.isAlive(port, rig.now), false, 'it has not heard of us')
  for (let n = 0; n < 100; n++) rig.receive(1, asWords(hello(18, 5)))
  t.equal(rig.events.length, 1, 'known by now')
  t.equal(rig.outputs[1].take().length, 3, 'and who does not listen is not answered for ever')
  t.ok(hellosWithin(1000) > 8)
  const peer = new Peer(rig, 1, 'b', 'cccccccccccccccc').meet(5)
  t.equal(rig.events.length, 2, 'a new boot is a new peer')
  t.equal(rig.forwarder.trunks.isAlive(port, rig.now + 3000), true)
  t.equal(rig.forwarder.trunks.isAlive(port, rig.now + 4000), false)
  rig.outputs[1].take()
  t.equal(hellosWithin(1000), 1)
  peer.say(ControlType.HELLO, 5, 0)
  t.equal(rig.outputs[1].take().length, 0)
})

t.test(
  'control frames that are damaged, of another network, our own, or of a stranger are counted and do nothing',
  async (t) => {
    const rig = new Rig(['member', 'trunk'], {}, 4)
    rig.receive(1, { ...asWords(hello(0)), payload: hello(0).slice(14, 100) })
    t.equal(rig.drops(1, 'control-malformed'), 1)
    const other = hello(0)
    other[18] = 9
    rig.receive(1, asWords(other))
    t.equal(rig.drops(1, 'control-version'), 1)
    rig.receive(1, asWords(hello(0, 0, 'bbbbbbbbbbbbbbbb', 'lab1')))
    rig.receive(1, asWords(hello(0, 0, 'aaaaaaaaaaaaaaaa')))
    rig.receive(1, asWords(encodeControl(controlExample(ControlType.MARKER, 5), GROUP, mac(99))))
    t.equal(rig.drops(1, 'control-unexpected'), 3, 'another network; ourselves, looped; a marker before any HELLO')
    rig.receive(1, asWords(encodeControl(controlExample(ControlType.AGREEMENT, 5), GROUP, mac(99))))
    t.equal(rig.drops(1, 'control-unexpected'), 4, 'on a trunk nothing is to be agreed')
    t.same(rig.events, [])
    t.same(rig.ids(), [[], []])
  },
)

t.test('a port that is taken out takes its addresses along; one that comes later has none', async (t) => {
  const rig = new Rig(['member', 'member', 'member'])
  rig.receive(1, { from: mac(2) })
  rig.clear()
  rig.forwarder.removePort(1)
  rig.forwarder.removePort(1)
  rig.receive(0, { from: mac(1), to: mac(2), id: 1 })
  t.same(rig.ids(), [[], [], [1]])
  rig.add(1, 'member')
  rig.receive(0, { from: mac(1), to: mac(2), id: 2 })
  t.same(rig.ids(), [[], [2], [2]])
})

t.test('GSO frames are counted as such', async (t) => {
  const rig = new Rig(['member', 'member'])
  rig.receive(0, { gso: true })
  rig.receive(0, {})
  t.equal(rig.count(0, 'rxGso'), 1)
})
