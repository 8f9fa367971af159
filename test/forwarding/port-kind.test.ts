// A port becomes a member, or is one no more, while frames come and go: its device's machine becomes known only after
// the device is a port.

import t from 'tap'
import { EtherType } from '../../src/frame/ethernet.js'
import { NO_COLOR } from '../../src/frame/frame.js'
import type { PortSpec } from '../../switch/forwarding/port-state.js'
import fc from '../property.js'
import { idOf, ip, Lan, type LanHost } from './lan.js'
import { mac, Rig } from './rig.js'

const asMember = (spec: PortSpec, vm = 'found') => ({ ...spec, kind: 'member' as const, vm, epoch: 0 })
const asPlain = (spec: PortSpec) => ({ ...spec, kind: 'plain' as const, vm: null })

t.test('a plain port becomes a member on the spot: what was learned stays, its frames have a color', async (t) => {
  const rig = new Rig(['member', 'plain'], {}, 3)
  const { forwarder, outputs, now } = rig
  rig.receive(1, { from: mac(2), id: 1 })
  rig.receive(0, { from: mac(1), to: mac(2), id: 2 })
  t.same(rig.ids(), [[1], [2]])
  const port = forwarder.byIndex[1]!
  t.equal(forwarder.portReplaced(asMember(port.spec), outputs[1]!, now), port, 'the same port')
  t.match({ epoch: port.epoch, isMember: port.isMember, vm: port.spec.vm }, { epoch: 3, isMember: true, vm: 'found' })
  rig.receive(0, { from: mac(1), to: mac(2), id: 3 })
  t.same(rig.ids(), [[], [3]], 'it is known still')

  const { snapshots } = forwarder
  snapshots.begin(4, 'buffer', now + 1e6, now)
  snapshots.gate([0, 1], now)
  snapshots.flip([0], 4, [0], now)
  rig.receive(1, { from: mac(2), to: mac(1), id: 4 })
  snapshots.flip([1], 4, [0], now)
  snapshots.release([0, 1], now)
  t.same(rig.ids(), [[4], []])
  const { frames } = snapshots.end()
  t.equal(frames.length, 1, 'its frame crossed the cut')
  t.equal(frames[0]!.copy.color, 3)
})

t.test('a member that is one no more: what waited for it goes out, and it is no part of a cut', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 3)
  const { forwarder, outputs, now } = rig
  rig.receive(1, { from: mac(2), id: 1 })
  // A frame from after a cut that its own machine has not made.
  forwarder.byIndex[0]!.epoch = 4
  rig.receive(0, { from: mac(1), to: mac(2), id: 2 })
  t.same(rig.ids(), [[1], []])
  forwarder.portReplaced(asPlain(forwarder.byIndex[1]!.spec), outputs[1]!, now)
  t.same(rig.ids(), [[], [2]])
  const seen: number[] = []
  const { deliver } = forwarder.egress
  forwarder.egress.deliver = (port, sent, at) => {
    seen.push(sent.color)
    deliver.call(forwarder.egress, port, sent, at)
  }
  rig.receive(1, { from: mac(2), to: mac(1), id: 3 })
  t.same([seen, rig.ids()], [[NO_COLOR], [[3], []]])
})

t.test('rules change behind a closed gate: the gate stays, and what waits leaves as it came', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 3)
  const { forwarder, outputs, now } = rig
  forwarder.snapshots.gate([1], now)
  rig.receive(0, { from: mac(1), to: mac(2), id: 1 })
  const { spec } = forwarder.byIndex[1]!
  forwarder.portReplaced({ ...spec, rules: { vlan: { pvid: 10 } } }, outputs[1]!, now)
  rig.receive(0, { from: mac(1), to: mac(2), id: 2 })
  t.equal(forwarder.byIndex[1]!.closed, true)
  t.same(rig.ids(), [[], []])
  forwarder.snapshots.release([1], now)
  t.same(rig.ids(), [[], [1]], 'the first was let in before the rule, the second was not')
})

/** Host b's second port is a machine's that comes and goes as a member. */
function lan(epoch: number): { lan: Lan; a: LanHost; b: LanHost; port: number } {
  const made = new Lan()
  const a = made.host('a', 1, {}, epoch)
  const b = made.host('b', 1, { plain: 1 }, epoch)
  made.outsider('o')
  made.pass(300)
  return { lan: made, a, b, port: b.plainPort }
}

const PEOPLE = ['a', 'b', 'x', 'o'] as const
type Person = (typeof PEOPLE)[number]
type Step =
  | { readonly kind: 'frame'; readonly from: Person; readonly to: Person }
  | { readonly kind: 'become' }
  | { readonly kind: 'run' }
  | { readonly kind: 'pass' }
const person = fc.constantFrom(...PEOPLE)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('frame' as const), from: person, to: person }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('become' as const) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('run' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('pass' as const) }) },
)

t.test('on a LAN: nothing is lost by the change, and peers count the same', async (t) => {
  let changes = 0
  let frames = 0
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80, size: 'max' }), (steps) => {
      const { lan: wire, a, b, port } = lan(4)
      const addresses: Record<Person, Uint8Array> = { a: a.macOf(1), b: b.macOf(1), x: b.macOf(port), o: mac(0x7777) }
      const send = (from: Person, to: Uint8Array | undefined, id: number) => {
        const words = { ...ip(4, id), from: addresses[from], ...(to === undefined ? {} : { to }) }
        if (from === 'a') a.send(1, words)
        else if (from === 'o') wire.send('o', words)
        else b.send(from === 'b' ? 1 : port, words)
      }
      for (const from of PEOPLE) send(from, undefined, 0)
      wire.run()
      wire.pass(3000)
      wire.forget()
      const wanted = new Map<Person, number[]>(PEOPLE.map((one) => [one, []]))
      let id = 1
      let late = 0
      for (const one of steps) {
        if (one.kind === 'run') wire.run()
        else if (one.kind === 'pass') wire.pass(700)
        else if (one.kind === 'become') {
          wire.pass(late)
          const { spec } = b.forwarder.byIndex[port]!
          const isMember = spec.kind === 'member' && !b.forwarder.byIndex[port]!.leaving
          b.forwarder.portReplaced(isMember ? asPlain(spec) : asMember(spec), b.outputs[port]!, wire.now)
          changes++
          // What is under way passes the change; the next one comes when this one is known.
          late = 3000
        } else if (one.from !== one.to) {
          // It is a member no more, and its peers do not know that yet.
          const isLeaving = one.from === 'x' && one.to === 'a' && b.forwarder.byIndex[port]!.leaving
          if (!isLeaving) wanted.get(one.to)!.push(id)
          send(one.from, addresses[one.to], id++)
          frames++
        }
      }
      wire.run()
      const typeAt = (bytes: Uint8Array, at: number) => (bytes[at]! << 8) | bytes[at + 1]!
      const ids = (list: readonly Uint8Array[]) =>
        list.filter((bytes) => typeAt(bytes, 12) === EtherType.IPV4).map(idOf)
      const taken = (host: LanHost, index: number) => ids(host.outputs[index]!.take().map(({ bytes }) => bytes))
      const came: Record<Person, number[]> = {
        a: taken(a, 1),
        b: taken(b, 1),
        // What a peer floods while it changes may come in both of its copies.
        x: [...new Set(taken(b, port))],
        o: ids(wire.outside.get('o')!.map(({ bytes }) => bytes.subarray(10))),
      }
      for (const who of PEOPLE) {
        // They hear what is flooded, too.
        const own = came[who].filter((one) => wanted.get(who)!.includes(one))
        const [sent, found] = [wanted.get(who)!, own].map((list) => [...list].sort((x, y) => x - y).join())
        if (sent !== found) throw new Error(`to ${who}: sent ${sent}; came ${found}`)
      }
      const channel = (host: LanHost) => host.forwarder.ports.find(({ peer }) => peer !== null)!.channel!
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const [sent, received] = [channel(from).sent.total, channel(to).received.total]
        if (sent !== received) throw new Error(`${from.name} has counted ${sent}, ${to.name} ${received}`)
      }
    }),
    { numRuns: 200 },
  )
  t.ok(changes > 200 && frames > 2000, `${changes} changes, ${frames} frames`)
})
