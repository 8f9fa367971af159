// What waits on processors, read from a file of the kernel's, which gives a page at a time.

import t, { type Test } from 'tap'
import { Backlogs } from '../../src/linux/processors.js'

const PAGE = 4096
const hex = (value: number) => value.toString(16).padStart(8, '0')

/** A line of each processor: fifteen numbers, as kernel 6.18 has them. */
function text(waiting: readonly number[], handled = 0): string {
  const line = (count: number, processor: number) =>
    [handled, ...new Array(10).fill(0), count, processor, 0, 0].map(hex).join(' ')
  return waiting.map((count, processor) => `${line(count, processor)}\n`).join('')
}

/** Gives whole lines, as many as a page has room for, from any byte on. */
function file(words: () => string) {
  let reads = 0
  const readAt = (buffer: Uint8Array, at: number) => {
    reads++
    const rest = words().slice(at)
    const page = rest.length <= PAGE ? rest : rest.slice(0, rest.lastIndexOf('\n', PAGE - 1) + 1)
    const given = Buffer.from(page).subarray(0, buffer.length - at)
    buffer.set(given, at)
    return given.length
  }
  return { readAt, reads: () => reads }
}

for (const processors of [2, 30, 31, 64, 1024]) {
  t.test(`${processors} processors: none is left out`, async (t) => {
    const waiting = new Array<number>(processors).fill(0)
    let words = text(waiting)
    const { readAt, reads } = file(() => words)
    const backlogs = new Backlogs(readAt)
    t.teardown(() => backlogs.close())
    t.ok(backlogs.mark(), 'nothing waits')
    if (processors === 2) t.equal(reads(), 1, 'a second read only where there may be more')
    waiting[processors - 1] = 3
    words = text(waiting)
    t.notOk(backlogs.mark())
    t.notOk(backlogs.passed)
    t.notOk(backlogs.drained(1))
    waiting[processors - 1] = 0
    words = text(waiting)
    t.ok(backlogs.passed)
    t.ok(backlogs.drained(1))
  })
}

/** By a file that says what it is told to. */
function told(t: Test, waiting: readonly number[], handled: number) {
  let words = text(waiting, handled)
  const backlogs = new Backlogs(file(() => words).readAt)
  t.teardown(() => backlogs.close())
  return {
    backlogs,
    says: (now: readonly number[], count: number) => {
      words = text(now, count)
    },
  }
}

t.test('a queue that is never empty has been handled when as many frames were, around 2^32 too', async (t) => {
  for (const before of [1000, 2 ** 32 - 3, 2 ** 32 - 5]) {
    const { backlogs, says } = told(t, [5, 0], before)
    t.notOk(backlogs.mark())
    says([7, 0], (before + 4) % 2 ** 32)
    t.notOk(backlogs.passed, `${before} and 4`)
    says([7, 0], (before + 5) % 2 ** 32)
    t.ok(backlogs.passed, `${before} and 5`)
  }
})

t.test('queues that become empty one after the other have been handled', async (t) => {
  const { backlogs, says } = told(t, [5, 5], 1000)
  t.notOk(backlogs.mark())
  says([0, 5], 1000)
  t.notOk(backlogs.passed)
  says([1, 0], 1001)
  t.ok(backlogs.passed)
})

t.test('more than there is room for: not known', async (t) => {
  const tooMany = text(new Array(1300).fill(0))
  const { readAt } = file(() => tooMany)
  const backlogs = new Backlogs(readAt)
  t.teardown(() => backlogs.close())
  t.notOk(backlogs.mark())
  t.notOk(backlogs.passed)
})

t.test('the kernel’s own', async (t) => {
  const backlogs = new Backlogs()
  t.teardown(() => backlogs.close())
  t.ok(backlogs.drained(1000))
})
