// Many ports flood at once, or the daemon stands still for a while: what is lost is theirs who flood, the quiet ports
// lose nothing on the way through the switch. Judged by counters, not by time.

import t from 'tap'
import { sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, stations, testFrame } from '../switch/station.js'
import { root, type Switch, World } from '../switch/world.js'
import { atRest, backlogDrops, dropsOf, settled } from './daemon-health.js'
import { type TapGuest, tapGuest } from './tap-guest.js'

t.setTimeout(fileLimit(120_000))

/** Each guest's frames, and how many are written in a millisecond at most. */
const FLOOD = 120_000
const PER_MS = 40
const PINGS = 50
const LOUD = ['loud1', 'loud2', 'loud3', 'loud4'] as const

const member = (device: string): [string, object] => [device, { device, vm: device }]

/** Each guest writes broadcasts; returns how many each has written. */
async function flood(guests: readonly TapGuest[]): Promise<number[]> {
  const start = performance.now()
  const written = guests.map(() => 0)
  let tried = 0
  for (;;) {
    if (tried >= FLOOD) return written
    for (const due = (performance.now() - start) * PER_MS; tried < Math.min(due, FLOOD); tried++) {
      for (const [i, guest] of guests.entries())
        if (guest.write(testFrame(tried, { from: 100 + i })) === null) written[i]++
    }
    await sleep(1)
  }
}

/** A port's counters when they tell of all frames that it was sent. */
const counted = async (daemon: Switch, name: string, frames: number) => ({
  name,
  ...(await settled(daemon, name, ({ rxFrames, kernelDrops }) => rxFrames + kernelDrops >= frames)),
})

t.test('four ports flood; two others talk; one is never read', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  await world.endpoint('unread', 'host')
  const guests = LOUD.map((name) => tapGuest(t, world, 'host', name))
  const ports = Object.fromEntries(['one', 'two', 'unread', ...LOUD].map(member))
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  // A socket whose ring is full after a moment: nobody reads it.
  stations(t, world, 'unread')
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  const dropsBefore = await backlogDrops(world)
  const ping = ['ping', '-n', '-q', '-c', String(PINGS), '-i', '0.05', '-W', '10', '10.66.0.2']
  const [written, { stdout }] = await Promise.all([flood(guests), world.try('one', ...(ping as [string]))])
  const loud = await Promise.all(LOUD.map((name, i) => counted(daemon, name, written[i])))
  const [one, two, unread] = await Promise.all(
    ['one', 'two', 'unread'].map(async (name) => ({ name, ...(await settled(daemon, name)) })),
  )
  const lost = PINGS - Number(stdout.match(/(\d+) received/)?.[1])
  const late = (await backlogDrops(world)) - dropsBefore
  const refused = [one, two].reduce((sum, { drops }) => sum + (drops['device-dropped'] ?? 0), 0)
  t.comment(
    `${written} written; ${lost} pings lost; ${refused} frames refused by the receivers, ${late} by any backlog`,
  )
  for (const [i, { name, rxFrames, kernelDrops }] of loud.entries()) {
    t.equal(rxFrames + kernelDrops, written[i], `${name}: each frame is forwarded (${rxFrames}) or counted`)
  }
  const most = Math.max(...loud.map(({ rxFrames }) => rxFrames))
  t.ok(
    loud.every(({ rxFrames }) => rxFrames > most / 2),
    'each of the loud ones has its turn',
  )
  const flooded = loud.reduce((sum, { rxFrames }) => sum + rxFrames, 0)
  for (const { name, kernelDrops, txFrames, drops } of [one, two, unread]) {
    t.equal(kernelDrops, 0, `${name}: nothing it sent was lost in front of the switch`)
    t.equal(dropsOf({ drops }), 0, `${name}: nor behind it`)
    t.ok(txFrames >= flooded, `${name}: gets its copy of each`)
  }
  t.ok(lost <= refused + late, 'a ping that was lost was lost in its receiver’s own backlog')
  t.ok(daemon.running && (await daemon.client.status({ deadlineMs: patience(5000) })).datapathRestarts === 0)
})

t.test('a daemon that stands still under a flood loses frames of the flood only', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host')
  await world.endpoint('two', 'host')
  const loud = tapGuest(t, world, 'host', 'loud')
  const ports = Object.fromEntries(['one', 'two', 'loud'].map(member))
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const [one, two] = stations(t, world, 'one', 'two')
  two.send(testFrame(0, { from: 2 }))
  await one.collect(1)
  daemon.signal('SIGSTOP')
  const QUIET = 1000
  // The loud port is the last one: what the switch read of it first, all the others would wait for.
  for (let id = 0; id < 20_000; id++) loud.write(testFrame(id, { from: 9, to: 1 }))
  for (let id = 0; id < QUIET; id++) one.send(testFrame(id, { from: 1, to: 2 }))
  daemon.signal('SIGCONT')
  const frames = await two.collect(QUIET, (frame) => isOurs(frame) && frame.bytes[21] === 1, 5000)
  t.same(
    frames.map(idOf),
    Array.from({ length: QUIET }, (_, id) => id),
    'all of the quiet one’s, in order',
  )
  await until('the drops', 5000, async () => ((await daemon.port('loud')).counters.kernelDrops > 0 ? true : undefined))
  const { rxFrames, kernelDrops } = await counted(daemon, 'loud', 20_000)
  t.equal(rxFrames + kernelDrops, 20_000, `${kernelDrops} of the flood are lost, each counted`)
  t.equal((await daemon.port('one')).counters.kernelDrops, 0)
})

for (const poll of ['sleep', 'adaptive']) {
  t.test(`twenty idle ports: the daemon rests, poll ${poll}`, root, async (t) => {
    const world = World.for(t)
    await world.namespace('host')
    const names = Array.from({ length: 20 }, (_, i) => `idle${i}`)
    for (const name of names) tapGuest(t, world, 'host', name)
    const ports = Object.fromEntries(names.map(member))
    const daemon = await world.switch('host', { datapath: { poll }, networks: { lab0: { ports } } })
    await t.resolves(atRest(daemon))
  })
}
