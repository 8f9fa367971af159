// A channel between two switches, seen from one of them: peers that come and restart, markers and their repeats,
// closure by count and by deadline, losses of ordinary running.

import t from 'tap'
import { type ChannelWords, Ends, NO_END, PeerChannel, UNCOUNTED } from '../../src/epoch/peer-channel.js'
import fc from '../property.js'

const MAC = Uint8Array.of(2, 0, 0, 0, 0, 9)
const DEADLINE = 200
const [A, B, C] = ['aaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbb', 'cccccccccccccccc']

let boots = 0
/** Of a boot that comes after all others. */
const endsOf = (bootId: string) => new Ends(bootId, ++boots)

/** What an end says, of itself and of `count`. */
const wordsOf = (channel: PeerChannel, bootId: string, count = 0): ChannelWords => ({
  ...channel.words,
  host: `h${bootId[0]}`,
  bootId,
  count,
})

/** An end of boot B that has agreed with one of boot A, and what that one says. */
function known() {
  const channel = new PeerChannel(endsOf(B))
  const peer = new PeerChannel(endsOf(A))
  meet(channel, B, peer, A)
  const hello = (count: number, now: number) => channel.hello(wordsOf(peer, A, count), MAC, now)
  const marker = (epoch: number, count: number, now: number) => channel.takeMarker(wordsOf(peer, A, count), epoch, now)
  return { channel, peer, hello, marker }
}

/** HELLOs to and fro until nobody has to answer. Returns how many. */
function meet(one: PeerChannel, oneBoot: string, other: PeerChannel, otherBoot: string, now = 0): number {
  let [from, fromBoot, to, toBoot] = [other, otherBoot, one, oneBoot]
  for (let hellos = 1; hellos < 10; hellos++) {
    if (to.hello(wordsOf(from, fromBoot, from.sent.total), MAC, now) === 'known') return hellos
    ;[from, fromBoot, to, toBoot] = [to, toBoot, from, fromBoot]
  }
  throw new Error('they do not stop')
}

const receive = (channel: PeerChannel, color: number, count: number) => {
  for (let i = 0; i < count; i++) channel.take(channel.accepts, color, 1)
}

/** New ends in one run. */
const MAX_ENDS = 4

t.test('two ends agree in four HELLOs; what comes before is let through, and not counted', async (t) => {
  const [a, b] = [new PeerChannel(endsOf(A)), new PeerChannel(endsOf(B))]
  t.match(a, { lastHeard: Number.NEGATIVE_INFINITY, sends: UNCOUNTED, established: false })
  t.match(a.words, { heard: NO_END, accepts: 0, sends: 0 })
  a.sent.add(1)
  t.equal(b.take(UNCOUNTED, 1, 1), true, 'before anything was heard')
  t.equal(b.hello(wordsOf(a, A), MAC, 1), 'new')
  t.match(b, { host: 'ha', bootId: A, lastHeard: 1, mac: MAC, sends: UNCOUNTED, established: false })
  t.equal(b.take(UNCOUNTED, 1, 1), true)
  t.equal(a.hello(wordsOf(b, B), MAC, 2), 'new')
  t.equal(a.sends, b.accepts)
  t.equal(a.sent.total, 0, 'from here on it is counted')
  t.equal(a.established, false, 'b has not said that it has heard of us')
  t.equal(b.take(a.sends, 1, 1), true, 'overtakes the HELLO that says so, and is counted')
  t.equal(b.hello(wordsOf(a, A), MAC, 3), 'answer')
  t.equal(b.established, true)
  t.equal(a.hello(wordsOf(b, B), MAC, 4), 'known')
  t.equal(a.established, true)
  t.equal(b.received.total, 1)
  t.equal(b.take(UNCOUNTED, 1, 1), false, 'sent before: too late')
  t.equal(b.hello(wordsOf(a, A), MAC, 5), 'known')
})

t.test('a new boot, a port added anew, another host: counts of both sides begin anew', async (t) => {
  const ends = endsOf(A)
  const b = new PeerChannel(endsOf(B))
  let a = new PeerChannel(ends)
  let now = 0
  meet(b, B, a, A)
  const restart = (bootId: string, next: PeerChannel) => {
    const before = b.sends
    const oldWords = wordsOf(a, bootId)
    for (let i = 0; i < 5; i++) b.sent.add(3)
    receive(b, 3, 7)
    const old = b.accepts
    a = next
    now += 10_000
    meet(b, B, a, bootId, now)
    t.ok(a.established && b.established)
    t.same([b.received.total, b.sent.total], [0, 0])
    t.not(b.accepts, old, 'another generation')
    t.equal(b.take(old, 3, 1), false, 'what the former end sent is not taken for what this one sends')
    t.equal(b.takeMarker(oldWords, 9, 11), false, 'nor its markers')
    return before
  }
  restart(C, new PeerChannel(endsOf(C)))
  restart(A, new PeerChannel(ends))
  const before = restart(A, new PeerChannel(ends))
  t.not(b.sends, before, 'a new end avoids the generation in which frames for the former one may be under way')
})

t.test('an end that has met another peer meanwhile is a new one to the peer that comes back', async (t) => {
  const [a, b, c] = [new PeerChannel(endsOf(A)), new PeerChannel(endsOf(B)), new PeerChannel(endsOf(C))]
  meet(a, A, b, B)
  for (let i = 0; i < 5; i++) a.sent.add(3)
  receive(b, 3, 5)
  meet(a, A, c, C)
  a.sent.add(3)
  // The cable is plugged in where it was before.
  meet(a, A, b, B)
  t.ok(a.established && b.established)
  t.same([a.sent.total, b.received.total], [0, 0], 'both begin anew')
})

t.test('a late HELLO of a former end of the same boot is not believed', async (t) => {
  const ends = endsOf(A)
  const [former, b] = [new PeerChannel(ends), new PeerChannel(endsOf(B))]
  meet(b, B, former, A)
  const late = wordsOf(former, A)
  const a = new PeerChannel(ends)
  meet(b, B, a, A)
  t.equal(b.hello(late, MAC, 50), 'known')
  t.ok(b.established)
})

t.test('closes when all have come that the marker counts', async (t) => {
  const { channel, marker } = known()
  receive(channel, 6, 9)
  t.equal(channel.closure(7, DEADLINE, 1000), null, 'no marker yet')
  t.equal(marker(7, 10, 1000), true)
  t.equal(channel.closure(7, DEADLINE, 1001), null, 'one is on its way')
  receive(channel, 7, 20)
  t.equal(channel.closure(7, DEADLINE, 1002), null, 'frames from after the cut do not count')
  receive(channel, 6, 1)
  t.same(channel.closure(7, DEADLINE, 1003), { expected: 10, received: 10, lost: 0, byCount: true })
})

t.test('closes at the deadline after the marker, and says what is missing', async (t) => {
  const { channel, marker } = known()
  receive(channel, 6, 8)
  marker(7, 10, 1000)
  t.equal(channel.closure(7, DEADLINE, 1199.9), null)
  t.same(channel.closure(7, DEADLINE, 1200), { expected: 10, received: 8, lost: 2, byCount: false })
})

t.test('a repeated marker does not put the deadline off; one of a stranger or an older one is not taken', async (t) => {
  const { channel, peer, marker } = known()
  marker(7, 10, 1000)
  marker(7, 10, 1150)
  t.equal(channel.takeMarker(wordsOf(peer, C), 8, 1160), false)
  t.equal(marker(6, 0, 1170), true)
  t.same(channel.closure(7, DEADLINE, 1200), { expected: 10, received: 0, lost: 10, byCount: false })
  t.equal(channel.hasMarker(7), true)
  t.equal(channel.hasMarker(8), false)
})

t.test('a peer that nobody has heard of has no marker', async (t) => {
  t.equal(new PeerChannel(endsOf(B)).takeMarker(wordsOf(new PeerChannel(endsOf(A)), A), 1, 0), false)
})

t.test('a steady loss of ordinary running does not delay a closure; a frame in flight is no loss', async (t) => {
  const { channel, hello, marker } = known()
  receive(channel, 6, 90)
  hello(100, 1000)
  t.equal(channel.lostInRunning, 0, 'may still come')
  hello(100, 2000)
  receive(channel, 6, 3)
  hello(100, 3000)
  t.equal(channel.lostInRunning, 7, 'the least that was missing at each of three HELLOs')
  marker(7, 100, 4000)
  t.same(channel.closure(7, DEADLINE, 4001), { expected: 93, received: 93, lost: 0, byCount: true })
  receive(channel, 6, 7)
  hello(100, 5000)
  t.equal(channel.lostInRunning, 0, 'they have come after all')
})

t.test('our marker: sent at once, repeated until acknowledged or given up', async (t) => {
  const { channel, peer } = known()
  const acknowledged = (epoch: number) => channel.acknowledged(wordsOf(peer, A), epoch)
  for (const color of [6, 6, 6, 7]) channel.sent.add(color)
  t.equal(channel.dueMarker(0, 20), null, 'none to send')
  channel.startMarker(7, 1000, 1100)
  channel.sent.add(6)
  t.match(channel.dueMarker(1000, 20), { epoch: 7, sentBelow: 3 }, 'counted when we cut')
  t.equal(channel.dueMarker(1019, 20), null)
  t.match(channel.dueMarker(1020, 20), { epoch: 7, sentBelow: 3 })
  acknowledged(6)
  channel.acknowledged(wordsOf(peer, C), 7)
  t.match(channel.dueMarker(1040, 20), { epoch: 7 }, 'the answer to an older one is not enough, nor that of a stranger')
  acknowledged(7)
  t.equal(channel.dueMarker(1060, 20), null)
  channel.startMarker(8, 2000, 2100)
  t.match(channel.dueMarker(2099, 20), { epoch: 8 })
  t.equal(channel.dueMarker(2120, 20), null, 'given up')
  t.equal(channel.dueMarker(9999, 20), null)
})

t.test(
  'between two ends that may begin anew, whatever is lost or overtaken: closes, and what it says is true',
  async (t) => {
    const event = fc.oneof(
      { weight: 12, arbitrary: fc.constantFrom('send', 'deliver', 'deliver', 'deliverLast') },
      { weight: 2, arbitrary: fc.constantFrom('lose', 'back', 'back', 'backLast') },
      { weight: 2, arbitrary: fc.constantFrom('cut', 'hello', 'hello', 'helloBack') },
      { weight: 1, arbitrary: fc.constantFrom('newSender', 'newReceiver', 'newPort') },
    )
    let [byCount, byDeadline, restarts, dropped] = [0, 0, 0, 0]
    fc.assert(
      fc.property(fc.array(event, { maxLength: 200, size: 'max' }), (events) => {
        let booted = 0
        const boot = () => (++booted + 0xa0).toString(16).repeat(8)
        let [senderBoot, receiverBoot] = [boot(), boot()]
        let senderEnds = endsOf(senderBoot)
        let sender = new PeerChannel(senderEnds)
        let receiver = new PeerChannel(endsOf(receiverBoot))
        type Item =
          | { readonly generation: number; readonly color: number; readonly of: PeerChannel; readonly chosen: number }
          | { readonly words: ChannelWords; readonly marker: boolean }
        const wire: Item[] = []
        const back: { readonly words: ChannelWords; readonly ends: number }[] = []
        let epoch = 1
        let now = 0
        let restarted = false
        let ends = 0
        /** How many ends had been new when the generation that is sent in was chosen. */
        let chosen = 0
        /** A late HELLO of a former end has come after the cut: the snapshot is called off. */
        let broken = false
        /** Of the sender's present end and generation. */
        let lost = 0
        const hello = () => wire.push({ words: wordsOf(sender, senderBoot, sender.sent.total), marker: false })
        const helloBack = () => back.push({ words: wordsOf(receiver, receiverBoot), ends })
        const arrive = (item: Item) => {
          if ('color' in item) {
            if (!receiver.take(item.generation, item.color, 1)) dropped++
          } else if (item.marker) receiver.takeMarker(item.words, 2, now)
          else {
            const heard = receiver.hello(item.words, MAC, now)
            if (heard !== 'known') helloBack()
            if (heard === 'new') broken = epoch === 2
          }
        }
        const arriveBack = ({ words, ends }: (typeof back)[number]) => {
          const before = sender.sends
          const heard = sender.hello(words, MAC, now)
          if (heard !== 'known') hello()
          if (heard === 'new') broken = epoch === 2
          if (sender.sends === before) return
          lost = 0
          chosen = ends
        }
        /**
         * No frame is under way while three ends come and go: so long do none travel, and generations are enough for
         * two.
         */
        const mayBegin = () => {
          if (epoch === 2 || ends >= MAX_ENDS) return false
          if (wire.some((item) => 'color' in item && item.generation !== UNCOUNTED && item.chosen < ends)) return false
          ends++
          return true
        }
        const newEnd = () => {
          restarted = true
          lost = 0
          hello()
        }
        const perform: Record<string, () => void> = {
          send: () => {
            sender.sent.add(epoch)
            wire.push({ generation: sender.sends, color: epoch, of: sender, chosen })
          },
          deliver: () => wire.length > 0 && arrive(wire.shift()!),
          // Overtakes all others.
          deliverLast: () => wire.length > 0 && arrive(wire.pop()!),
          back: () => back.length > 0 && arriveBack(back.shift()!),
          backLast: () => back.length > 0 && arriveBack(back.pop()!),
          lose: () => {
            const at = wire.findIndex((item) => 'color' in item)
            if (at < 0) return
            const [item] = wire.splice(at, 1)
            if ('color' in item && item.color < 2 && isCounted(item)) lost++
          },
          cut: () => {
            // A snapshot begins when both sides count the same.
            if (epoch === 2 || !sender.established || !receiver.established) return
            epoch = 2
            sender.startMarker(2, now, now + 1e6)
            const { sentBelow } = sender.dueMarker(now, 20)!
            wire.push({ words: wordsOf(sender, senderBoot, sentBelow), marker: true })
          },
          hello,
          helloBack,
          newSender: () => {
            if (!mayBegin()) return
            senderBoot = boot()
            senderEnds = endsOf(senderBoot)
            sender = new PeerChannel(senderEnds)
            newEnd()
          },
          newPort: () => {
            if (!mayBegin()) return
            sender = new PeerChannel(senderEnds)
            newEnd()
          },
          newReceiver: () => {
            if (!mayBegin()) return
            receiverBoot = boot()
            receiver = new PeerChannel(endsOf(receiverBoot))
            restarted = true
            helloBack()
          },
        }
        const isCounted = (item: Extract<Item, { color: number }>) =>
          item.of === sender && item.generation === sender.sends
        /** Frames from before the cut that the receiver will still let in. */
        const onWay = () =>
          wire.filter((item) => 'color' in item && item.color < 2 && item.generation === receiver.accepts).length
        const settle = () => {
          for (let round = 0; round < 5; round++) {
            hello()
            helloBack()
            while (wire.length > 0) arrive(wire.shift()!)
            while (back.length > 0) arriveBack(back.shift()!)
          }
        }
        if (events.length % 3 > 0) settle()
        for (const name of events) {
          perform[name]()
          now++
          const closure = receiver.closure(2, 1e9, now)
          if (broken) return true
          if (closure === null) continue
          // By count: nothing from before the cut is on the wire any more, but for what was counted as lost long ago.
          if (closure.received + onWay() + lost !== sender.sent.below(2)) return false
          if (onWay() > receiver.lostInRunning) return false
        }
        if (epoch === 1) settle()
        perform.cut()
        while (wire.length > 0) arrive(wire.shift()!)
        const closure = receiver.closure(2, DEADLINE, now + DEADLINE)
        if (broken) return true
        if (closure === null) return false
        if (closure.byCount) byCount++
        else byDeadline++
        if (restarted) restarts++
        const { expected, received } = closure
        return (
          received === sender.sent.below(2) - lost &&
          closure.lost === Math.max(0, expected - received) &&
          closure.lost <= lost
        )
      }),
      { numRuns: 1500 },
    )
    t.ok(byCount > 50 && byDeadline > 5, `${byCount} closed by count, ${byDeadline} by deadline`)
    t.ok(restarts > 100 && dropped > 100, `${restarts} began anew, ${dropped} frames dropped`)
  },
)
