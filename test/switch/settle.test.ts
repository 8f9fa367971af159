// How long a machine's cut waits for its guest to read what it was sent: until it has, not for one that does not read.

import t from 'tap'
import { systemClock } from '../../src/runtime/clock.js'
import { residueOf, settle } from '../../switch/agent/snapshot/member.js'

const port = { index: 0, ifindex: 1 }
const hostWith = (of: () => number) => ({ clock: systemClock, unread: { of, emptied: () => {} } })

/** A machine with one port, whose guest has left `unread()` frames unread at each look. */
async function looks(unread: () => number): Promise<{ count: number; ms: number }> {
  let count = 0
  const of = () => {
    count++
    return unread()
  }
  const began = performance.now()
  await settle(hostWith(of), [port])
  return { count, ms: performance.now() - began }
}

t.test('nothing unread: no wait', async (t) => {
  t.equal((await looks(() => 0)).count, 1)
})

t.test('a guest that reads is waited for, but not for ever', async (t) => {
  let left = 12
  const reading = await looks(() => left--)
  // On a machine that stands still itself for some milliseconds it may be given up early.
  t.ok(left < 0 || reading.ms >= 5, `${left} left after ${reading.ms} ms`)
  let endless = 1_000_000
  const slow = await looks(() => endless--)
  t.ok(slow.count <= 22, 'a look a millisecond at most')
})

t.test('a guest that does not read is not waited for as long', async (t) => {
  const still = await looks(() => 7)
  t.ok(still.count <= 7, `${still.count} looks`)
})

t.test('a paused hypervisor takes one frame more: it is residue too, whenever it does', async (t) => {
  const looks = async (...counts: number[]) =>
    (
      await residueOf(
        hostWith(() => counts.shift() ?? -1),
        [port],
      )
    )[0]
  t.equal(await looks(0), 0)
  t.equal(await looks(7, 7), 8, 'before the first look')
  t.equal(await looks(7, 6), 7, 'between the looks')
  t.equal(await looks(1, 0), 1, 'the last one')
})
