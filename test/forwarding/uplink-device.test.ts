// An uplink whose device changes under it: another MTU, another address. Frames go on to arrive once, and with their
// color.

import t from 'tap'
import { CARRIER_HEADER_LENGTH } from '../../src/frame/carrier.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import type { DeviceState } from '../../switch/forwarding/port-state.js'
import { type HostOptions, idOf, ip, Lan, type LanHost, type OnLan, packet, UPLINK } from './lan.js'
import { GROUP, mac } from './rig.js'

const EPOCH = 5
const typeOf = ({ bytes }: OnLan) => (bytes[VNET_HEADER_LENGTH + 12]! << 8) | bytes[VNET_HEADER_LENGTH + 13]!
const isCarrier = (copy: OnLan) => typeOf(copy) === EtherType.CONTROL && copy.bytes[VNET_HEADER_LENGTH + 19] === 5
const sourceOf = ({ bytes }: OnLan) =>
  Buffer.from(bytes.subarray(VNET_HEADER_LENGTH + 6, VNET_HEADER_LENGTH + 12)).toString('hex')

/** Hosts a and b with two members each, all agreed upon, in an odd epoch: the bit is set on the LAN. */
function settled(options: HostOptions = {}, epoch = EPOCH) {
  const lan = new Lan()
  const a = lan.host('a', 2, options, epoch)
  const b = lan.host('b', 2, options, epoch)
  lan.outsider('o')
  lan.pass(300)
  for (const host of [a, b]) for (const member of [1, 2]) host.send(member, { type: EtherType.ARP, id: 1 })
  lan.run()
  lan.pass(3000)
  lan.forget()
  return { lan, a, b, o: lan.outside.get('o')! }
}

function change(lan: Lan, host: LanHost, device: Partial<DeviceState>): void {
  const state = { mac: host.mac, mtu: 1500, queueLength: 1000, ...device }
  const send = (sent: Parameters<Lan['put']>[1]) => {
    lan.put(host.name, sent)
    return true
  }
  host.forwarder.portChanged(UPLINK, state, { send }, lan.now)
}

t.test('a lower MTU: carriers and agreements fit from the next frame on; a higher one is used', async (t) => {
  const { lan, a, b } = settled()
  for (const mtu of [700, 1500, 300, 9000]) {
    change(lan, a, { mtu })
    lan.forget()
    const payload = new Uint8Array(1500)
    payload[3] = 9
    a.send(1, { to: GROUP, type: EtherType.ARP, payload })
    const carriers = lan.seen.filter(isCarrier)
    const longest = Math.max(...carriers.map(({ bytes }) => bytes.length - VNET_HEADER_LENGTH - 14))
    t.equal(longest, Math.min(mtu, 1500, 1524 + CARRIER_HEADER_LENGTH - 14), `pieces for an MTU of ${mtu}`)
    lan.run()
    for (const member of [1, 2])
      t.same(
        b.outputs[member]!.take().map(({ bytes }) => bytes.subarray(14)),
        [payload],
      )
    lan.pass(2000)
  }
})

/** The uplink's device is taken out, and is in again after a while; the daemon keeps running. */
function takeAnew(lan: Lan, host: LanHost, away: number, color: 'dscp' | 'carrier' = 'dscp'): void {
  const { spec } = host.forwarder.byIndex[UPLINK]!
  host.forwarder.removePort(UPLINK)
  lan.hosts.delete(host.name)
  for (let passed = 0; passed < away; passed += 100) {
    lan.now += 100
    for (const one of lan.hosts.values()) one.forwarder.tick(lan.now)
    lan.run()
  }
  lan.hosts.set(host.name, host)
  host.forwarder.addPort({ ...spec, uplink: { ...spec.uplink!, color } }, host.device)
}

for (const controlKey of [null, new Uint8Array(32).fill(7)]) {
  for (const color of ['dscp', 'carrier'] as const) {
    t.test(`taken anew within a boot, then ${color}, with a key: ${controlKey !== null}`, async (t) => {
      // Peers say HELLO once a second: whenever in between it happens.
      for (let phase = 0; phase < 1000; phase += 100) {
        for (const [epoch, away] of [
          [5, 0],
          [5, 6000],
          [6, 300],
        ] as const) {
          const { lan, a, b, o } = settled({ controlKey }, epoch)
          lan.pass(phase)
          lan.forget()
          takeAnew(lan, a, away, color)
          const channelTo = (host: LanHost, name: string) =>
            host.forwarder.ports.find(({ channel }) => channel?.host === name)!.channel!
          let id = 100
          const speak = () => {
            id += 2
            a.send(1, { to: b.macOf(1), ...ip(4, id) })
            b.send(1, { to: a.macOf(1), ...ip(4, id + 1) })
            lan.run()
          }
          for (let round = 0; round < 150; round++) {
            speak()
            lan.pass(20, 20)
          }
          const what = `${phase} ms after a HELLO, away for ${away} ms, epoch ${epoch}`
          t.same([a.early, b.early], [[], []], `nothing is early: ${what}`)
          for (const host of [a, b]) {
            const frames = host.outputs[1]!.take()
            const ids = frames.map(({ bytes }) => idOf(bytes))
            t.equal(new Set(ids).size, ids.length, `each once: ${what}`)
            t.ok(ids.length > 130, `${ids.length} of 150 came: ${what}`)
            t.ok(
              frames.every(({ bytes }) => Buffer.from(packet(4, idOf(bytes))).equals(bytes.subarray(14))),
              `as it was sent: ${what}`,
            )
          }
          t.same(
            o.filter((copy) => typeOf({ ...copy, from: '' }) === EtherType.IPV4),
            [],
            'the outside saw none',
          )
          t.same([a.peers, b.peers], [[{ host: 'b', alive: true }], [{ host: 'a', alive: true }]], what)
          lan.pass(2000)
          lan.forget()
          speak()
          t.equal(lan.seen.every(isCarrier), color === 'carrier', `and then by the bit, if at all: ${what}`)
          t.same(
            [a, b].map((host) => host.outputs[1]!.take().length),
            [1, 1],
          )
          for (const [from, to] of [
            [a, b],
            [b, a],
          ] as const) {
            const counted = [channelTo(from, to.name).sent.total, channelTo(to, from.name).received.total]
            t.equal(counted[1], counted[0], `both count the same: ${what}`)
          }
        }
      }
    })
  }

  t.test(`another address: the peers meet anew, with a key: ${controlKey !== null}`, async (t) => {
    const { lan, a, b, o } = settled({ controlKey })
    const before = a.peers.length
    let id = 100
    const sent = { toA: [] as number[], toB: [] as number[] }
    const speak = () => {
      id += 2
      sent.toB.push(id)
      a.send(1, { to: b.macOf(1), ...ip(4, id) })
      sent.toA.push(id + 1)
      b.send(1, { to: a.macOf(1), ...ip(4, id + 1) })
      lan.run()
    }
    speak()
    change(lan, a, { mac: mac(0xfe01) })
    lan.forget()
    for (let round = 0; round < 200; round++) {
      speak()
      lan.pass(20, 20)
    }
    const took = (host: LanHost) => host.outputs[1]!.take()
    const [atA, atB] = [took(a), took(b)]
    for (const frames of [atA, atB]) {
      const ids = frames.map(({ bytes }) => idOf(bytes))
      t.equal(new Set(ids).size, ids.length, 'each once')
      t.ok(ids.length > 150, `${ids.length} of 200 came`)
      t.ok(
        frames.every(({ bytes }) => Buffer.from(packet(4, idOf(bytes))).equals(bytes.subarray(14))),
        'as it was sent',
      )
    }
    t.same(
      o.filter((copy) => typeOf({ ...copy, from: '' }) === EtherType.IPV4),
      [],
      'the outside saw none',
    )
    t.same([a.peers, b.peers], [[{ host: 'b', alive: true }], [{ host: 'a', alive: true }]])
    t.equal(a.peers.length, before)
    lan.forget()
    speak()
    lan.pass(1000)
    t.ok(lan.seen.some((copy) => sourceOf(copy) === Buffer.from(mac(0xfe01)).toString('hex')))
    t.notOk(
      lan.seen.some((copy) => sourceOf(copy) === Buffer.from(a.mac).toString('hex')),
      'the former address is silent',
    )
    t.ok(
      lan.seen.every((copy) => !isCarrier(copy)),
      'by the bit again',
    )
    t.same([took(a).length, took(b).length], [1, 1])
  })
}
