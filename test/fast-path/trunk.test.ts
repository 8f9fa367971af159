// Two hosts with a trunk between them, and the fast path on both: the kernel pushes tags with colors and generations,
// every frame is counted in the channel whichever way it went, and none is lost, doubled or overtaken.

import t from 'tap'
import { EtherType, innerEtherType } from '../../src/frame/ethernet.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { Rig } from './rig.js'

const USUAL = 100
const FLIPS = Number(process.env.FLIPS ?? USUAL)
const LOAD = { burst: 8, pauseMs: 0.1 }
const TRUNK = 3

t.setTimeout(fileLimit(120_000) * Math.max(1, FLIPS / USUAL))
enterFreshNamespace()

function goOn(rig: Rig): void {
  const until = performance.now() + Math.random() * 2
  while (performance.now() < until) rig.round()
}

t.test('frames between hosts', async (t) => {
  run('ip', 'link', 'add', 'trunka', 'mtu', '1600', 'type', 'veth', 'peer', 'name', 'trunkb', 'mtu', '1600')
  const a = new Rig(1, false, 'member', 'a')
  const b = new Rig(1, false, 'member', 'bb')
  t.teardown(() => {
    a.close()
    b.close()
  })
  a.peer = b
  a.add(TRUNK, 'trunk', 'trunka')
  b.add(TRUNK, 'trunk', 'trunkb')
  const channels = [a, b].map((rig) => rig.forwarder.byIndex[TRUNK]!.channel!)
  for (let i = 0; i < 200 && !channels.every(({ established }) => established); i++) {
    a.pass(110)
    for (let k = 0; k < 50; k++) a.round()
  }
  t.ok(
    channels.every(({ established }) => established),
    'the hosts count the same frames',
  )
  a.learn()
  t.ok(a.becomeFast(), JSON.stringify([a, b].map((rig) => rig.kernel.paths(rig.forwarder))))
  let failed = 0
  let fast = 0
  const { sent, fates } = await a.under(LOAD, () => {
    for (let flip = 0; flip < FLIPS; flip++) {
      const one = flip % 2 === 0 ? a : b
      one.kernel.slow(one.forwarder)
      goOn(a)
      if (!a.becomeFast()) failed++
      goOn(a)
      fast = Math.max(fast, a.kernel.list(a.forwarder).length)
    }
  })
  t.equal(failed, 0, 'every time it became fast again')
  t.equal(fast, 2, 'there were verdicts both ways')
  for (const rig of [a, b]) rig.kernel.slow(rig.forwarder)
  t.comment(`${FLIPS} flips, ${sent[0]![1]} and ${sent[1]![0]} frames`)
  t.match(fates[0]![1], { received: sent[0]![1], doubled: 0, overtaken: 0 }, 'there')
  t.match(fates[1]![0], { received: sent[1]![0], doubled: 0, overtaken: 0 }, 'and back')
  for (const [from, to] of [channels, [...channels].reverse()]) {
    t.equal(from!.sent.total, to!.received.total, 'as many are counted in as out')
    t.equal(to!.lostInRunning, 0, 'none is missed meanwhile')
  }
  t.ok(channels[0]!.sent.total >= sent[0]![1]!, 'and all are')

  await t.test('many frames a second are not held up for a HELLO', async (t) => {
    t.ok(a.becomeFast())
    const rigs = [a, b]
    const ends = rigs.map(({ kernel }) => kernel.attached[TRUNK]!)
    let seen = 0
    for (const rig of rigs) {
      const receive = rig.receive.bind(rig)
      rig.receive = (port, frame, now) => {
        if (innerEtherType(frame) !== EtherType.CONTROL) seen++
        receive(port, frame, now)
      }
    }
    const rush = () => {
      for (const end of ends) {
        end.sync()
        while (!end.rushes()) {
          goOn(a)
          end.sync()
        }
      }
    }
    const { received } = channels[1]!
    const heard = channels.map(({ lastHeard }) => lastHeard)
    const { sent, fates } = await a.under(LOAD, () => {
      rush()
      // Those of before have been sent on.
      for (let last = -1; last !== seen; ) {
        last = seen
        for (let i = 0; i < 5; i++) goOn(a)
      }
      seen = 0
      for (let i = 0; i < 20; i++) {
        a.pass(110)
        // More than it takes within ten of these steps.
        for (const goal = received.total + 3000; received.total < goal; ends[1]!.sync()) goOn(a)
      }
    })
    t.ok(
      channels.every(({ lastHeard }, i) => lastHeard > heard[i]!),
      'HELLOs came',
    )
    t.equal(seen, 0, `the daemons have seen ${seen} frames`)
    for (const rig of rigs) rig.kernel.slow(rig.forwarder)
    t.match(fates[0]![1], { received: sent[0]![1], doubled: 0, overtaken: 0 }, 'there')
    t.match(fates[1]![0], { received: sent[1]![0], doubled: 0, overtaken: 0 }, 'and back')
    for (const [from, to] of [channels, [...channels].reverse()]) {
      t.equal(from!.sent.total, to!.received.total, 'as many are counted in as out')
      t.equal(to!.lostInRunning, 0, 'none is missed')
    }
    for (const end of ends) end.beginSecond()
    for (const end of ends) end.beginSecond()
    t.notOk(
      ends.some(({ isRushed }) => isRushed),
      'it is over when they are few again',
    )
  })

  await t.test('what a trunk loses is known exactly, while frames flow on', async (t) => {
    t.ok(a.becomeFast())
    await a.under({ burst: 2, pauseMs: 0.2 }, () => {
      goOn(a)
      run('ip', 'link', 'set', 'trunka', 'down')
      for (let i = 0; i < 20; i++) goOn(a)
      run('ip', 'link', 'set', 'trunka', 'up')
      // Until the kernel has both ends running again, no time passes for the peers.
      for (const device of ['trunka', 'trunkb'])
        while (!run('ip', '-br', 'link', 'show', device).includes(' UP ')) goOn(a)
      // Five seconds of the peers' time: HELLOs follow one another, and frames flow between them.
      for (let i = 0; i < 60; i++) {
        a.pass(110)
        goOn(a)
      }
    })
    for (const rig of [a, b]) rig.kernel.slow(rig.forwarder)
    let all = 0
    for (const [from, to] of [channels, [...channels].reverse()]) {
      const lost = from!.sent.total - to!.received.total
      t.equal(to!.lostInRunning, lost, `${lost} lost`)
      all += lost
    }
    t.ok(all > 0, 'some were')
  })
})
