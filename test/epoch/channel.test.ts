// A channel between two switches, seen from one of them: peers that come and restart, markers and their repeats, closure by
// count and by deadline, losses of ordinary running.

import fc from 'fast-check'
import t from 'tap'
import { PeerChannel } from '../../src/epoch/channel.js'

const MAC = Uint8Array.of(2, 0, 0, 0, 0, 9)
const DEADLINE = 200

function known(sentBefore = 0): PeerChannel {
  const channel = new PeerChannel()
  channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, sentBefore, 0)
  return channel
}

const receive = (channel: PeerChannel, color: number, count: number) => {
  for (let i = 0; i < count; i++) channel.received.add(color)
}

t.test(
  'a peer is new when it is first heard of, when it has restarted, and when another host is at the other end',
  async (t) => {
    const channel = new PeerChannel()
    t.equal(channel.lastHeard, Number.NEGATIVE_INFINITY)
    t.equal(channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 10, 1), true)
    t.equal(channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 10, 2), false)
    t.match(channel, { host: 'b', bootId: 'aaaaaaaaaaaaaaaa', lastHeard: 2, mac: MAC })
    receive(channel, 3, 5)
    channel.takeMarker('aaaaaaaaaaaaaaaa', 4, 15, 3)
    t.equal(channel.hello('b', 'bbbbbbbbbbbbbbbb', MAC, 0, 4), true)
    t.equal(channel.received.total, 0, 'counts begin anew')
    t.equal(channel.hasMarker(4), false, 'the marker of the boot before is void')
    t.equal(channel.hello('c', 'bbbbbbbbbbbbbbbb', MAC, 0, 5), true)
  },
)

t.test('closes when all have come that the marker counts', async (t) => {
  const channel = known()
  receive(channel, 6, 9)
  t.equal(channel.closure(7, DEADLINE, 1000), null, 'no marker yet')
  t.equal(channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 10, 1000), true)
  t.equal(channel.closure(7, DEADLINE, 1001), null, 'one is on its way')
  receive(channel, 7, 20)
  t.equal(channel.closure(7, DEADLINE, 1002), null, 'frames from after the cut do not count')
  receive(channel, 6, 1)
  t.same(channel.closure(7, DEADLINE, 1003), { expected: 10, received: 10, lost: 0, byCount: true })
})

t.test('closes at the deadline after the marker, and says what is missing', async (t) => {
  const channel = known()
  receive(channel, 6, 8)
  channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 10, 1000)
  t.equal(channel.closure(7, DEADLINE, 1199.9), null)
  t.same(channel.closure(7, DEADLINE, 1200), { expected: 10, received: 8, lost: 2, byCount: false })
})

t.test('a repeated marker does not put the deadline off; one of a stranger or an older one is not taken', async (t) => {
  const channel = known()
  channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 10, 1000)
  channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 10, 1150)
  t.equal(channel.takeMarker('cccccccccccccccc', 8, 0, 1160), false)
  t.equal(channel.takeMarker('aaaaaaaaaaaaaaaa', 6, 0, 1170), true)
  t.same(channel.closure(7, DEADLINE, 1200), { expected: 10, received: 0, lost: 10, byCount: false })
  t.equal(channel.hasMarker(7), true)
  t.equal(channel.hasMarker(8), false)
})

t.test('a peer that nobody has heard of has no marker', async (t) => {
  t.equal(new PeerChannel().takeMarker('aaaaaaaaaaaaaaaa', 1, 0, 0), false)
})

t.test('what a peer sent before we heard of it is nobody’s loss', async (t) => {
  const channel = known(1000)
  receive(channel, 6, 5)
  channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 1005, 0)
  t.same(channel.closure(7, DEADLINE, 1), { expected: 5, received: 5, lost: 0, byCount: true })
})

t.test('a steady loss of ordinary running does not delay a closure; a frame in flight is no loss', async (t) => {
  const channel = known()
  receive(channel, 6, 90)
  channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 100, 1000)
  t.equal(channel.lostInRunning, 0, 'may still come')
  channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 100, 2000)
  receive(channel, 6, 3)
  channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 100, 3000)
  t.equal(channel.lostInRunning, 7, 'the least that was missing at each of three HELLOs')
  channel.takeMarker('aaaaaaaaaaaaaaaa', 7, 100, 4000)
  t.same(channel.closure(7, DEADLINE, 4001), { expected: 93, received: 93, lost: 0, byCount: true })
  receive(channel, 6, 7)
  channel.hello('b', 'aaaaaaaaaaaaaaaa', MAC, 100, 5000)
  t.equal(channel.lostInRunning, 0, 'they have come after all')
})

t.test('our marker: sent at once, repeated until acknowledged or given up', async (t) => {
  const channel = known()
  for (const color of [6, 6, 6, 7]) channel.sent.add(color)
  t.equal(channel.dueMarker(0, 20), null, 'none to send')
  channel.startMarker(7, 1000, 1100)
  channel.sent.add(6)
  t.match(channel.dueMarker(1000, 20), { epoch: 7, sentBelow: 3 }, 'counted when we cut')
  t.equal(channel.dueMarker(1019, 20), null)
  t.match(channel.dueMarker(1020, 20), { epoch: 7, sentBelow: 3 })
  channel.acknowledged(6)
  t.match(channel.dueMarker(1040, 20), { epoch: 7 }, 'the answer to an older one is not enough')
  channel.acknowledged(7)
  t.equal(channel.dueMarker(1060, 20), null)
  channel.startMarker(8, 2000, 2100)
  t.match(channel.dueMarker(2099, 20), { epoch: 8 })
  t.equal(channel.dueMarker(2120, 20), null, 'given up')
  t.equal(channel.dueMarker(9999, 20), null)
})

t.test('between two ends, whatever is lost or overtaken: closes, and what it says is true', async (t) => {
  const event = fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom('send', 'deliver', 'deliverLast', 'lose') },
    { weight: 1, arbitrary: fc.constantFrom('cut', 'hello') },
  )
  let byCount = 0
  let byDeadline = 0
  fc.assert(
    fc.property(fc.array(event, { maxLength: 150 }), (events) => {
      const sender = new PeerChannel()
      const receiver = known()
      const wire: ({ color: number } | { marker: number } | { hello: number })[] = []
      let epoch = 1
      let now = 0
      let lostBelow = 0
      const arrive = (item: (typeof wire)[number]) => {
        if ('color' in item) receiver.received.add(item.color)
        else if ('marker' in item) receiver.takeMarker('aaaaaaaaaaaaaaaa', 2, item.marker, now)
        else receiver.hello('b', 'aaaaaaaaaaaaaaaa', MAC, item.hello, now)
      }
      const perform: Record<string, () => void> = {
        send: () => {
          sender.sent.add(epoch)
          wire.push({ color: epoch })
        },
        deliver: () => wire.length > 0 && arrive(wire.shift()!),
        // Overtakes all others.
        deliverLast: () => wire.length > 0 && arrive(wire.pop()!),
        lose: () => {
          const at = wire.findIndex((item) => 'color' in item)
          if (at < 0) return
          const [item] = wire.splice(at, 1)
          if ('color' in item && item.color < 2) lostBelow++
        },
        cut: () => {
          if (epoch === 2) return
          epoch = 2
          sender.startMarker(2, now, now + 1e6)
          wire.push({ marker: sender.dueMarker(now, 20)!.sentBelow })
        },
        hello: () => wire.push({ hello: sender.sent.total }),
      }
      for (const name of events) {
        perform[name]()
        now++
        const closure = receiver.closure(2, 1e9, now)
        if (closure === null) continue
        // By count: nothing from before the cut is on the wire any more, but for what was counted as lost long ago.
        const onWay = wire.filter((item) => 'color' in item && item.color < 2).length
        if (closure.received + onWay + lostBelow !== sender.sent.below(2)) return false
        if (onWay > receiver.lostInRunning) return false
      }
      perform.cut()
      while (wire.length > 0) arrive(wire.shift()!)
      const closure = receiver.closure(2, DEADLINE, now + DEADLINE)!
      if (closure.byCount) byCount++
      else byDeadline++
      const { expected, received, lost } = closure
      return (
        received === sender.sent.below(2) - lostBelow && lost === Math.max(0, expected - received) && lost <= lostBelow
      )
    }),
    { numRuns: 600 },
  )
  t.ok(byCount > 50 && byDeadline > 50, `${byCount} closed by count, ${byDeadline} by deadline`)
})
