// Frames are numbered, and the path changes while they come, at any point: none is lost, doubled or overtaken, and each
// is counted once. FLIPS=10000 for a longer run: so many for each kind of port, under several loads.

import t, { type Test } from 'tap'
import { kernelIsAtLeast } from '../../src/linux/kernel.js'
import { tcxPrograms } from '../../src/linux/tcx.js'
import { until } from '../lab/command.js'
import { enterFreshNamespace } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { Rig } from './rig.js'

const USUAL = 150
const FLIPS = Number(process.env.FLIPS ?? USUAL)
const LOAD = { burst: 8, pauseMs: 0.1 }
/** A frame now and then, some, and as many as the daemon takes. */
const LOADS = FLIPS > USUAL ? [{ burst: 1, pauseMs: 1 }, LOAD, { burst: 32, pauseMs: 0 }] : [LOAD]

t.setTimeout(fileLimit(120_000) * Math.max(1, FLIPS / USUAL))
enterFreshNamespace()

const PAIRS = [
  [0, 1],
  [1, 0],
] as const

/** Up to two milliseconds of the datapath's loop. */
function goOn(rig: Rig): number {
  let slow = 0
  const until = performance.now() + Math.random() * 2
  while (performance.now() < until) slow += rig.round()
  return slow
}

const PLACES = [
  ['TAPs', true, null],
  ['veths', false, null],
  // Of a bridge that was taken over, where the kernel can.
  ...(kernelIsAtLeast(6, 6)
    ? ([
        ['TAPs of a bridge', true, 'br0'],
        ['veths of a bridge', false, 'br1'],
      ] as const)
    : []),
] as const

/** Ports with traffic get programs at tcx hooks: they have them when this is over. */
async function busy(rig: Rig): Promise<void> {
  await until('programs at tcx hooks', fileLimit(20_000), async () => {
    await rig.under(LOAD, () => {
      for (let i = 0; i < 50; i++) goOn(rig)
      rig.pass(110)
    })
    return rig.ports.every(({ ifindex }) => tcxPrograms(ifindex) === 1) ? true : undefined
  })
}

async function flip(t: Test, rig: Rig, load: typeof LOAD, flips: number): Promise<void> {
  const before = [0, 1].map((index) => rig.counted(index))
  let slow = 0
  let failed = 0
  const { sent, fates } = await rig.under(load, () => {
    for (let i = 0; i < flips; i++) {
      rig.kernel.slow(rig.forwarder)
      slow += goOn(rig)
      if (!rig.becomeFast()) failed++
      goOn(rig)
    }
  })
  const after = [0, 1].map((index) => rig.counted(index))
  const all = PAIRS.reduce((sum, [from, to]) => sum + sent[from]![to]!, 0)
  t.ok(slow > 0, 'some went through the daemon')
  t.ok(slow < all, 'and some did not')
  t.equal(failed, 0, 'every time it became fast again')
  t.comment(`${flips} flips, ${all} frames, ${slow} of them slow`)
  for (const [from, to] of PAIRS) {
    const count = sent[from]![to]!
    t.match(fates[from]![to], { received: count, doubled: 0, overtaken: 0 }, `from ${from} to ${to}`)
    t.equal(after[from]!.rxFrames - before[from]!.rxFrames, count, `counted in at ${from}`)
    t.equal(after[to]!.txFrames - before[to]!.txFrames, count, `counted out at ${to}`)
    t.equal(after[to]!.txBytes - before[to]!.txBytes, count * 60, `bytes at ${to}`)
  }
}

for (const [places, isTap, bridge] of PLACES) {
  t.test(`from the kernel to the daemon and back, ${places}`, async (t) => {
    const rig = new Rig(2, isTap, 'plain', bridge === null ? '' : 'b', bridge)
    t.teardown(() => rig.close())
    rig.learn()
    t.ok(rig.becomeFast(), JSON.stringify(rig.kernel.paths(rig.forwarder)))
    if (kernelIsAtLeast(6, 6)) await busy(rig)
    for (const load of LOADS) await flip(t, rig, load, Math.ceil(FLIPS / LOADS.length))
  })
}
