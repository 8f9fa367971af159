// Snapshots of a network whose hosts share a LAN: what is early, what is in transit, what is lost.

import t from 'tap'
import { copyFrame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { idOf, ip, tcpSegment } from './lan.js'
import { ARP, cutAll, given, isCarrier, LATER, settled } from './uplink-world.js'

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
    const { lan, a, b } = settled()
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
    cutAll(lan, 5)
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
  cutAll(lan, 5)
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
