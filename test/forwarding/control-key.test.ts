// Peers that share a key: they find one another, and nothing recorded, reflected, forged or sent to somebody else is
// believed.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { ControlType, encodeControl } from '../../src/frame/control.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { decodeSealed, encodeSealed } from '../../src/frame/sealed-control.js'
import type { DropReason } from '../../switch/forwarding/counters.js'
import { Handshake, Sequence } from '../../switch/forwarding/peers/handshake.js'
import { GROUP, mac, Rig } from './rig.js'

const controlKey = Buffer.from('0123456789abcdef')
const MEMBER = 0
const TRUNK = 1
const A = 'aaaaaaaaaaaaaaaa'
const B = 'bbbbbbbbbbbbbbbb'
const LATER = 1e15
const UNHEARD = { number: 1, heard: { bootId: '0'.repeat(16), number: 0 }, accepts: 1, sends: 0, takes: false } as const

function station(host: string, bootId: string, options: { epoch?: number; key?: Uint8Array | null } = {}): Rig {
  const { epoch = 0, key = controlKey } = options
  return new Rig(['member', 'trunk'], { host, bootId, controlKey: key }, epoch)
}

/** Control frames that a rig has sent since the last look. */
function sent(rig: Rig): Uint8Array[] {
  return rig.outputs[TRUNK]
    .take()
    .filter(({ bytes }) => bytes[12] === 0x88 && bytes[13] === 0xb5)
    .map(({ bytes }) => bytes)
}

function hear(rig: Rig, bytes: Uint8Array): void {
  const [to, from] = [bytes.slice(0, 6), bytes.slice(6, 12)]
  rig.receive(TRUNK, { to, from, type: EtherType.CONTROL, payload: bytes.slice(14) })
}

/** Carries control frames to and fro until there are none; returns all that passed, by sender. */
function exchange(a: Rig, b: Rig): { fromA: Uint8Array[]; fromB: Uint8Array[] } {
  const passed = { fromA: [] as Uint8Array[], fromB: [] as Uint8Array[] }
  for (let round = 0; round < 20; round++) {
    const [fromA, fromB] = [sent(a), sent(b)]
    if (fromA.length + fromB.length === 0) return passed
    passed.fromA.push(...fromA)
    passed.fromB.push(...fromB)
    for (const bytes of fromA) hear(b, bytes)
    for (const bytes of fromB) hear(a, bytes)
  }
  throw new Error('they do not stop talking')
}

function pass(a: Rig, b: Rig, milliseconds: number) {
  a.tick(milliseconds)
  b.tick(milliseconds)
  return exchange(a, b)
}

const peers = (rig: Rig) => rig.events.flatMap((event) => (event.kind === 'peer' ? [event.bootId] : []))
const drops = (rig: Rig, reason: DropReason) => rig.drops(TRUNK, reason)
const REFUSALS = ['control-unauthenticated', 'control-replayed', 'control-unexpected', 'control-version'] as const
const refusals = (rig: Rig) => REFUSALS.map((reason) => drops(rig, reason))

t.test('two that start find one another at once, and stay in touch', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  a.tick()
  exchange(a, b)
  t.same([peers(a), peers(b)], [[B], [A]])
  for (let second = 0; second < 10; second++) pass(a, b, 1000)
  for (const rig of [a, b]) {
    t.ok(rig.forwarder.trunks.isAlive(rig.forwarder.byIndex[TRUNK]!, rig.now))
    t.same(refusals(rig), [0, 0, 0, 0])
    t.equal(peers(rig).length, 1)
  }
})

t.test('no snapshot without the key; with it markers are taken and acknowledged', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  pass(a, b, 0)
  for (const rig of [a, b]) {
    rig.forwarder.snapshots.begin(1, 'buffer', LATER, rig.now)
    rig.forwarder.snapshots.flip([MEMBER], 1, [0], rig.now)
  }
  const { fromA } = exchange(a, b)
  t.equal(fromA.filter((bytes) => bytes[19] === ControlType.MARKER).length, 1)
  pass(a, b, 20)
  const closed = (rig: Rig) => rig.events.filter(({ kind }) => kind === 'closed').length
  t.same([closed(a), closed(b)], [1, 1])
  pass(a, b, 100)
  t.equal(sent(a).length, 0, 'acknowledged: not repeated')
})

t.test('unsealed, forged and damaged frames do nothing', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  pass(a, b, 0)
  const message = { bootId: B, network: 'lab0', host: 'b', ...UNHEARD, epoch: 9, count: 0 } as const
  const forged = { sequence: 2 ** 52, heard: { bootId: A, sequence: a.now * 1000 } }
  for (const type of Object.values(ControlType)) {
    hear(a, encodeControl({ ...message, type }, GROUP, mac(99)))
    hear(
      a,
      encodeSealed({ message: { ...message, type }, ...forged }, Buffer.from('a wrong key, guessed'), GROUP, mac(99)),
    )
  }
  b.tick(1000)
  const [good] = sent(b)
  const damaged = good.slice()
  damaged[165] ^= 1
  hear(a, damaged)
  const refused = 2 * Object.keys(ControlType).length + 1
  t.equal(drops(a, 'control-unauthenticated'), refused)
  t.same(peers(a), [B])
  t.equal(a.events.length, 1, 'no early frame, no new peer')
  t.same(a.refused, [`${TRUNK} control-unauthenticated`], 'said once')
  hear(a, good)
  t.same(refusals(a), [refused, 0, 0, 0], 'the undamaged one is taken')
})

t.test('a key on one side only: both refuse', async (t) => {
  const [a, b] = [station('a', A), station('b', B, { key: null })]
  pass(a, b, 0)
  t.same([peers(a), peers(b)], [[], []])
  t.ok(drops(a, 'control-unauthenticated') > 0)
  t.ok(drops(b, 'control-version') > 0)
})

t.test('within a boot: a copy is refused, whatever it is', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  const past = [pass(a, b, 0), pass(a, b, 1000)]
  b.forwarder.snapshots.begin(1, 'buffer', LATER, b.now)
  b.forwarder.snapshots.flip([MEMBER], 1, [0], b.now)
  past.push(exchange(a, b))
  const copies = past.flatMap(({ fromB }) => fromB)
  t.ok(copies.some((bytes) => bytes[19] === ControlType.MARKER))
  t.ok(copies.some((bytes) => bytes[19] === ControlType.HELLO))
  a.clear()
  const before = refusals(a)
  for (const bytes of copies) hear(a, bytes)
  t.equal(drops(a, 'control-replayed') - before[1], copies.length)
  t.same([a.events, sent(a)], [[], []])
})

t.test('what was meant for another switch, and what comes back to its sender, is not believed', async (t) => {
  const [a, b, c] = [station('a', A), station('b', B), station('c', 'cccccccccccccccc')]
  pass(a, c, 0)
  a.clear()
  // The same boot of a on another trunk, with b: one sequence for all, so nothing but the receiver's name tells them
  // apart.
  const fromAToB = (type: ControlType) =>
    encodeSealed(
      {
        message: { type, bootId: A, network: 'lab0', host: 'a', ...UNHEARD, epoch: 5, count: 1000 },
        sequence: (a.now + 10) * 1000,
        heard: { bootId: B, sequence: b.now * 1000 },
      },
      controlKey,
      GROUP,
      mac(99),
    )
  c.clear()
  for (const type of Object.values(ControlType)) hear(c, fromAToB(type))
  t.equal(drops(c, 'control-unexpected'), Object.keys(ControlType).length)
  t.same([c.events, sent(c)], [[], []])
  a.tick(1000)
  const own = sent(a)
  t.ok(own.length > 0)
  for (const bytes of own) hear(a, bytes)
  t.equal(drops(a, 'control-unexpected'), own.length)
})

t.test('a peer that restarts is believed; its former boot never again', async (t) => {
  const [a, old] = [station('a', A), station('b', B)]
  const recorded = [pass(a, old, 0), pass(a, old, 1000)].flatMap(({ fromB }) => fromB)
  // Never arrived at a, so a has not counted it: caught by somebody on the way, for later.
  old.tick(1000)
  recorded.push(...sent(old))
  const now = station('b', 'b2b2b2b2b2b2b2b2')
  now.now = a.now
  pass(a, now, 1000)
  t.same(peers(a), [B, 'b2b2b2b2b2b2b2b2'])
  for (let second = 0; second < 4; second++) pass(a, now, 1000)
  const before = drops(a, 'control-replayed')
  a.clear()
  // All named a's boot, as the real ones did, but the first.
  for (const bytes of recorded) hear(a, bytes)
  t.same(peers(a), [])
  t.ok(drops(a, 'control-replayed') > before)
  pass(a, now, 1000)
  t.equal(a.forwarder.byIndex[TRUNK]!.channel!.bootId, 'b2b2b2b2b2b2b2b2')
  t.ok(a.forwarder.trunks.isAlive(a.forwarder.byIndex[TRUNK]!, a.now))
})

/** The device of a rig's trunk goes away and comes back after a while, and the daemon keeps running. */
function unplug(rig: Rig, other: Rig, milliseconds: number): void {
  const { spec } = rig.forwarder.byIndex[TRUNK]!
  rig.forwarder.removePort(TRUNK)
  sent(rig)
  for (let passed = 0; passed < milliseconds; passed += 1000) {
    for (const one of [rig, other]) one.tick(1000)
    for (const one of [rig, other]) sent(one)
  }
  rig.forwarder.addPort(spec, rig.outputs[TRUNK])
}

const isAlive = (rig: Rig) => rig.forwarder.trunks.isAlive(rig.forwarder.byIndex[TRUNK]!, rig.now)

for (const away of [1000, 5000, 60_000]) {
  t.test(`a trunk that was away for ${away} ms, on one side or on both, comes back`, async (t) => {
    for (const sides of ['one', 'both']) {
      const [a, b] = [station('a', A), station('b', B)]
      for (let second = 0; second < 3; second++) pass(a, b, 1000)
      unplug(b, a, away)
      if (sides === 'both') unplug(a, b, 0)
      for (let tick = 0; tick < 3; tick++) pass(a, b, 100)
      t.same([isAlive(a), isAlive(b)], [true, true], sides)
      a.clear()
      const { sends } = b.forwarder.byIndex[TRUNK]!.channel!
      b.receive(MEMBER, { from: mac(2), id: 7 })
      const [colored] = b.outputs[TRUNK].take()
      t.equal(colored.serviceTci, colorVid(0, sends))
      a.receive(TRUNK, { from: mac(2), id: 7, tag: [EtherType.SERVICE_VLAN, colored.serviceTci] })
      t.equal(a.outputs[MEMBER].take().length, 1, `${sides}: members' frames are taken`)
    }
  })
}

t.test('a trunk comes back whatever recording was played to its new port', async (t) => {
  const [former, b] = [station('a', 'a0a0a0a0a0a0a0a0'), station('b', B)]
  const recorded = [pass(former, b, 0), pass(former, b, 1000)].flatMap(({ fromA }) => fromA)
  const a = station('a', A)
  a.now = b.now
  for (let second = 0; second < 5; second++) pass(a, b, 1000)
  unplug(b, a, 5000)
  for (const bytes of recorded) hear(b, bytes)
  t.equal(b.forwarder.byIndex[TRUNK]!.channel!.bootId, null, 'none is believed')
  sent(b)
  for (let second = 0; second < 3; second++) pass(a, b, 1000)
  t.same([isAlive(a), isAlive(b)], [true, true])
})

t.test('recordings of a peer that is believed raise no answer when it names nobody', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  b.tick()
  const [first] = sent(b)
  a.tick()
  sent(a)
  for (let second = 0; second < 5; second++) pass(a, b, 1000)
  const before = drops(a, 'control-replayed')
  hear(a, first)
  t.same([drops(a, 'control-replayed'), sent(a)], [before + 1, []])
})

t.test('a switch that restarts believes nothing that its former boot was told', async (t) => {
  const [former, b] = [station('a', A), station('b', B, { epoch: 3 })]
  const recorded = [pass(former, b, 0), pass(former, b, 1000)].flatMap(({ fromB }) => fromB)
  b.forwarder.snapshots.begin(4, 'buffer', LATER, b.now)
  b.forwarder.snapshots.flip([MEMBER], 4, [0], b.now)
  recorded.push(...exchange(former, b).fromB)
  const a = station('a', 'a2a2a2a2a2a2a2a2')
  a.now = former.now
  for (const bytes of recorded) {
    a.tick(50)
    hear(a, bytes)
  }
  t.same(a.events, [], 'no peer, no early marker')
  t.equal(a.forwarder.byIndex[TRUNK]!.channel!.bootId, null)
  const answers = sent(a).flatMap((bytes) => {
    const opened = decodeSealed(bytes, controlKey)
    return typeof opened === 'string' ? [] : [opened]
  })
  t.ok(
    answers.every(({ message }) => message.type === ControlType.HELLO),
    'it asks, and no more',
  )
  b.now = a.now
  pass(a, b, 1000)
  t.same(peers(a), [B], 'the living peer is believed')
})

t.test('a recording does not make it talk: one answer in 20 ms', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  b.tick()
  const [first] = sent(b)
  for (let copy = 0; copy < 1000; copy++) hear(a, first)
  t.equal(sent(a).length, 1)
  a.now += 20
  hear(a, first)
  t.equal(sent(a).length, 1)
})

t.test('frames of the network itself are as without a key', async (t) => {
  const [a, b] = [station('a', A), station('b', B)]
  pass(a, b, 0)
  a.receive(MEMBER, { from: mac(1), id: 5 })
  const [out] = a.outputs[TRUNK].take()
  t.equal(out.serviceTci, colorVid(0, a.forwarder.byIndex[TRUNK]!.channel!.sends))
})

t.test('only a HELLO makes a boot known, however fresh what it names', async (t) => {
  const own = new Sequence()
  const handshake = new Handshake(A, own)
  const heard = { bootId: A, sequence: own.next(1000) }
  const message = { type: ControlType.MARKER, bootId: B, network: 'lab0', host: 'b', ...UNHEARD, epoch: 1, count: 0 }
  t.equal(handshake.judge({ message, sequence: 1, heard }, false, 1000), 'control-unexpected')
  t.equal(handshake.judge({ message, sequence: 1, heard }, true, 1000), 'believed')
  t.equal(handshake.judge({ message, sequence: 2, heard }, false, 1000), 'believed')
})
