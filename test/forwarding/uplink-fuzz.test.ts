// An uplink that is sent damaged frames of every kind that travels there, from wherever they claim to come: it throws
// nothing, opens no cut, and goes on working.

import t from 'tap'
import { EtherType } from '../../src/frame/ethernet.js'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { mutate } from '../hardening/fuzz/mutate.js'
import { Random } from '../simulation/chance.js'
import { ip, Lan, tcpSegment, UPLINK } from './lan.js'
import { GROUP } from './rig.js'

const ROUNDS = 20_000

for (const controlKey of [null, new Uint8Array(32).fill(3)]) {
  t.test(`damaged frames, ${controlKey === null ? 'no key' : 'with a key'}`, async (t) => {
    const random = new Random(20)
    const lan = new Lan()
    const [a, b] = ['a', 'b'].map((name) => lan.host(name, 2, { controlKey, plain: 1 }, 7))
    lan.pass(300)
    const say = () => {
      for (const host of [a, b]) host.send(1, { type: EtherType.ARP })
      a.send(1, { ...ip(4, 1), to: b.macOf(1) })
      a.send(1, { ...ip(6, 2, 4, 9000), to: b.macOf(1) })
      a.forwarder.receive(1, tcpSegment({ payload: 5000, size: 1400, to: b.macOf(1), from: a.macOf(1) }), lan.now)
      lan.run()
    }
    say()
    lan.pass(3000)
    say()
    const kinds = lan.seen.filter(({ from }) => from === 'a')
    t.ok(kinds.length > 20)
    for (let round = 0; round < ROUNDS; round++) {
      const { bytes, tagTpid, tagTci } = random.pick(kinds)
      const header = random.chance(0.2) ? mutate(random, bytes.subarray(0, VNET_HEADER_LENGTH)) : bytes
      const body = mutate(random, bytes.subarray(VNET_HEADER_LENGTH))
      const damaged = new Uint8Array(VNET_HEADER_LENGTH + body.length)
      damaged.set(header.subarray(0, VNET_HEADER_LENGTH))
      damaged.set(body, VNET_HEADER_LENGTH)
      if (body.length >= 6 && random.chance(0.2))
        damaged.set(random.pick([GROUP, b.mac, b.macOf(1), a.macOf(1)]), VNET_HEADER_LENGTH)
      b.forwarder.receive(UPLINK, new Frame().pointAt({ bytes: damaged, tagTpid, tagTci, color: 3 }), lan.now)
      lan.wire.length = 0
      if (round % 100 === 0) {
        lan.now += 10
        b.forwarder.tick(lan.now)
        for (const output of b.outputs) output?.take()
      }
    }
    t.equal(b.forwarder.snapshots.openEpoch, null)
    if (controlKey !== null) t.same(b.peers, [{ host: 'a', alive: true }])
    lan.pass(9000)
    b.forwarder.snapshots.advance(8, lan.now)
    a.forwarder.snapshots.advance(8, lan.now)
    lan.forget()
    a.send(1, { type: EtherType.ARP, id: 5 })
    lan.run()
    t.same(b.outputs[1].ids(), [5], 'a broadcast comes once')
  })
}
