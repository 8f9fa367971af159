// One port overloads the switch, or takes nothing from it: the others lose nothing in it, memory stays bounded, what is
// dropped has a counter, and the CPU is free again afterwards.

import t, { type Test } from 'tap'
import { TapOffload } from '../../src/linux/tap.js'
import { sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { testFrame } from '../switch/station.js'
import { root, type Switch, World } from '../switch/world.js'
import { atRest, backlogDrops, dropsOf, residentMiB, settled } from './daemon-health.js'
import { type TapGuest, tapGuest } from './tap-guest.js'

t.setTimeout(fileLimit(120_000))

/** How long the load takes where nothing else runs. */
const LOAD_MS = 4000

interface Lab {
  readonly world: World
  readonly daemon: Switch
  readonly noisy: TapGuest
  readonly deaf: TapGuest
}

/** Two endpoints that talk, a guest that shouts, and a guest that never reads. */
async function lab(t: Test): Promise<Lab> {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  const noisy = tapGuest(t, world, 'host', 'noisy')
  const deaf = tapGuest(t, world, 'host', 'deaf', TapOffload.checksum | TapOffload.tso4)
  const member = (device: string) => [device, { device, vm: device }]
  const ports = Object.fromEntries(['one', 'two', 'noisy', 'deaf'].map(member))
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  return { world, daemon, noisy, deaf }
}

/**
 * Writes a burst every few milliseconds, at most `perSecond` frames a second, LOAD_MS worth of them; returns how many
 * were written.
 */
async function shout(guest: TapGuest, perSecond: number, next: (n: number) => Uint8Array): Promise<number> {
  const start = performance.now()
  const all = (LOAD_MS * perSecond) / 1000
  let written = 0
  let tried = 0
  for (;;) {
    if (tried >= all) return written
    const due = Math.min(all, ((performance.now() - start) * perSecond) / 1000)
    for (; tried < due; tried++) if (guest.write(next(tried)) === null) written++
    await sleep(2)
  }
}

/** The noisy port's counters when they tell of so many frames. */
const counted = (daemon: Switch, frames: number) =>
  settled(daemon, 'noisy', ({ rxFrames, kernelDrops }) => rxFrames + kernelDrops >= frames)

const PINGS = 70

/** Pings from `one` to `two`, twenty a second: how many had no answer, and how long the others took, for the report. */
async function roundTrips(world: World): Promise<{ lost: number; times: string }> {
  const ping = ['-n', '-q', '-c', String(PINGS), '-i', '0.05', '-W', '10', '10.66.0.2']
  const { stdout } = await world.try('one', 'ping', ...ping)
  return { lost: PINGS - Number(stdout.match(/(\d+) received/)?.[1]), times: stdout.match(/= .*/)?.[0] ?? '' }
}

/** The others' share while `load` runs, and the daemon's memory and CPU after it. */
async function under(t: Test, { world, daemon }: Lab, load: () => Promise<number>): Promise<number> {
  const before = residentMiB(daemon)
  const droppedBefore = await backlogDrops(world)
  const [written, { lost, times }] = await Promise.all([load(), roundTrips(world)])
  const after = residentMiB(daemon)
  const late = (await backlogDrops(world)) - droppedBefore
  t.comment(`${written} frames written; round trips ${times}; ${before} MiB before, ${after} after`)
  for (const port of ['one', 'two']) {
    const { kernelDrops, drops } = await settled(daemon, port)
    t.equal(kernelDrops + dropsOf({ drops }), 0, `${port}: nothing is lost in the switch`)
  }
  t.ok(lost <= late, `${lost} pings are lost, each in its receiver’s own backlog (${late})`)
  t.ok(after - before < 48, `${after - before} MiB more`)
  await t.resolves(atRest(daemon), 'it rests when it is over')
  t.equal((await daemon.client.status({ deadlineMs: patience(5000) })).datapathRestarts, 0)
  return written
}

t.test('ten thousand new addresses a second', root, async (t) => {
  const all = await lab(t)
  const { daemon, noisy } = all
  const was = await daemon.port('noisy')
  const written = await under(t, all, () =>
    shout(noisy, 10_000, (n) => {
      const frame = testFrame(n, { to: 7 })
      frame.set([2, 1, n >> 24, n >> 16, n >> 8, n], 6)
      return frame
    }),
  )
  t.ok(written > 30_000, `${written} addresses`)
  const { rxFrames, kernelDrops, unlearned } = await counted(daemon, written + was.counters.rxFrames)
  t.equal(rxFrames - was.counters.rxFrames + kernelDrops, written, 'each frame is counted')
  const entries = await daemon.client.fdb('lab0', { deadlineMs: patience(5000) })
  const learned = entries.filter(({ port }) => port === 'noisy').length
  t.equal(learned, 4096, 'one port learns its share and no more')
  t.equal(unlearned, rxFrames - was.counters.rxFrames - learned, 'the rest is counted as not learned')
  t.ok(
    entries.some(({ port }) => port === 'one'),
    'what was known before is known still',
  )
})

t.test('a broadcast flood, and a guest that never reads', root, async (t) => {
  const all = await lab(t)
  const { daemon, noisy, deaf } = all
  const written = await under(t, all, () => shout(noisy, 20_000, (n) => testFrame(n)))
  t.ok(written > 60_000, `${written} frames`)
  const flooded = await counted(daemon, written)
  t.equal(flooded.rxFrames + flooded.kernelDrops, written, 'each frame is counted')
  const queued = deaf.read().length
  // What a TAP has dropped is found out twice a second.
  const out = await settled(daemon, 'deaf', (is) => queued + (is.drops['device-dropped'] ?? 0) >= is.txFrames)
  const dropped = out.drops['device-dropped'] ?? 0
  t.comment(`to the deaf guest: ${out.txFrames} sent, ${queued} in its queue, ${JSON.stringify(out.drops)}`)
  t.equal(queued + dropped, out.txFrames, 'sent = queued + dropped by the device')
  t.ok(dropped > 0 && queued > 900, 'its queue is full, the rest is counted as dropped')
  for (const port of ['one', 'two']) {
    const { txFrames, drops } = (await daemon.port(port)).counters
    t.ok(txFrames + dropsOf({ drops }) >= flooded.rxFrames, `${port} gets its share`)
  }
  // It reads again: nothing is stuck.
  noisy.write(testFrame(1))
  await until('a frame', 2000, () => (deaf.read().length > 0 ? true : undefined), 10)
})

t.test('an endpoint whose namespace does not take what it is sent', root, async (t) => {
  const all = await lab(t)
  const { world, daemon, noisy } = all
  // Its queue empties at a crawl; the others must not wait for it.
  await world.in(
    'host',
    'tc',
    'qdisc',
    'add',
    'dev',
    'deaf',
    'root',
    'tbf',
    'rate',
    '8kbit',
    'burst',
    '1540',
    'limit',
    '3000',
  )
  const written = await under(t, all, () => shout(noisy, 20_000, (n) => testFrame(n, { length: 1000 })))
  const { rxFrames } = await counted(daemon, written)
  const out = await settled(daemon, 'deaf', (is) => is.txFrames + dropsOf(is) >= rxFrames)
  t.comment(`${written} written; to the stuck device: ${out.txFrames} sent, ${JSON.stringify(out.drops)}`)
  t.ok(out.txFrames + dropsOf(out) >= rxFrames, 'each is sent or dropped under a reason')
  t.ok((out.drops['tx-full'] ?? 0) > 0, 'the full queue is told as such')
})
