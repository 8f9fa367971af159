// Send times of a play: from the first frame on, never adding up, never going back.

import t from 'tap'
import { type Pace, Schedule } from '../../src/play/schedule.js'
import fc from '../property.js'

const SECOND = 1e9

/** Times in nanoseconds since some second of 2026. */
function sendTimes(pace: Pace, times: readonly (number | null)[], maxGapNs: number | null = null, passes = 1) {
  const schedule = new Schedule({ pace, maxGapNs })
  const sent: number[] = []
  for (let pass = 0; pass < passes; pass++) {
    if (pass > 0) schedule.nextPass()
    for (const time of times) {
      const at = time ?? 0
      const seconds = 1_790_000_000 + Math.floor(at / SECOND)
      sent.push(schedule.next(time !== null, seconds, at % SECOND, 100))
    }
  }
  return { sent, schedule }
}

const captured = (speed = 1): Pace => ({ kind: 'captured', speed })
const time = fc.integer({ min: 0, max: 1000 * SECOND })
const ascending = fc.array(time, { minLength: 1, maxLength: 100 }).map((times) => times.sort((a, b) => a - b))

t.test('captured times are kept to the nanosecond, the first gap too', async (t) => {
  fc.assert(
    fc.property(ascending, (times) => {
      t.same(
        sendTimes(captured(), times).sent,
        times.map((one) => one - times[0]),
      )
    }),
  )
  t.same(sendTimes(captured(), [5, 1_000_000_005, 1_000_000_006]).sent, [0, 1_000_000_000, 1_000_000_001])
})

t.test('no error adds up over a million frames', async (t) => {
  const schedule = new Schedule({ pace: captured(3), maxGapNs: null })
  let last = 0
  for (let i = 0; i <= 1_000_000; i++) {
    const at = i * 333_333
    last = schedule.next(true, 1_790_000_000 + Math.floor(at / SECOND), at % SECOND, 60)
  }
  t.equal(last, (1_000_000 * 333_333) / 3)
  const rate = new Schedule({ pace: { kind: 'frames', perSecond: 7 }, maxGapNs: null })
  for (let i = 0; i <= 7_000_000; i++) last = rate.next(false, 0, 0, 60)
  t.equal(last, 1_000_000 * SECOND)
})

t.test('speed divides, and a frame that is out of order or has no time goes at once', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.option(time)), fc.double({ min: 0.01, max: 1000, noNaN: true }), (times, speed) => {
      const { sent } = sendTimes(captured(speed), times)
      const { sent: usual } = sendTimes(captured(), times)
      t.same(
        sent,
        usual.map((one) => one / speed),
      )
      t.ok(sent.every((one, i) => i === 0 || one >= sent[i - 1]))
    }),
  )
  const { sent, schedule } = sendTimes(captured(), [100, 300, 200, null, 400])
  t.same(sent, [0, 200, 200, 200, 300])
  t.equal(schedule.backward, 1)
})

t.test('a clock that was set back: what follows keeps its gaps', async (t) => {
  const minute = 60 * SECOND
  const times = [600 * SECOND, 601 * SECOND, minute, minute + 5, minute - 7, minute + 2 * SECOND]
  const { sent, schedule } = sendTimes(captured(), times)
  t.same(sent, [0, SECOND, SECOND, SECOND + 5, SECOND + 5, 3 * SECOND])
  t.equal(schedule.backward, 2)
  // Once more, and in the middle of a second.
  const again = [9.5 * SECOND, 3.25 * SECOND, 3.75 * SECOND, 1.125 * SECOND, 1.25 * SECOND]
  t.same(sendTimes(captured(), again).sent, [0, 0, 0.5 * SECOND, 0.5 * SECOND, 0.625 * SECOND])
  // It is right again after a while; or one frame alone had a wrong time.
  const minutes = [100, 101, 50, 51, 53, 104.5, 105].map((one) => one * SECOND)
  t.same(
    sendTimes(captured(), minutes).sent,
    [0, 1, 1, 2, 4, 4.5, 5].map((one) => one * SECOND),
  )
  const wrong = [100, 101, 5, 101.25, 102, 3, 4, 500].map((one) => one * SECOND)
  t.same(
    sendTimes(captured(), wrong).sent,
    [0, 1, 1, 1.25, 2, 2, 3, 400].map((one) => one * SECOND),
  )
  // A pass that is repeated begins anew.
  const passes = [5, 6, 2, 4].map((one) => one * SECOND)
  t.same(
    sendTimes(captured(), passes, null, 2).sent,
    [0, 1, 1, 3, 4, 5, 5, 7].map((one) => one * SECOND),
  )
})

t.test('rates count frames and bits from the first one', async (t) => {
  t.same(sendTimes({ kind: 'frames', perSecond: 1000 }, [9, 0, null]).sent, [0, 1e6, 2e6])
  t.same(sendTimes({ kind: 'bits', perSecond: 800_000 }, [1, 2, 3]).sent, [0, 1e6, 2e6])
  t.same(sendTimes({ kind: 'top' }, [1, 2, 3]).sent, [0, 0, 0])
})

t.test('a pass follows the one before by the mean gap', async (t) => {
  t.same(sendTimes(captured(), [100, 200, 300], null, 3).sent, [0, 100, 200, 300, 400, 500, 600, 700, 800])
  t.same(sendTimes(captured(), [100], null, 2).sent, [0, 0])
  fc.assert(
    fc.property(ascending, fc.integer({ min: 1, max: 5 }), (times, passes) => {
      const { sent } = sendTimes(captured(), times, null, passes)
      t.ok(sent.every((one, i) => i === 0 || one >= sent[i - 1]))
      const span = times.at(-1)! - times[0]
      const gap = times.length > 1 ? span / (times.length - 1) : 0
      t.ok(Math.abs(sent.at(-1)! - (span * passes + gap * (passes - 1))) < 1)
    }),
  )
})

t.test('long silences are cut to the limit, and nothing else is', async (t) => {
  const { sent, schedule } = sendTimes(captured(), [0, 10, 5_000_000_010, 5_000_000_020], 1000)
  t.same(sent, [0, 10, 1010, 1020])
  t.equal(schedule.cutNs, 4_999_999_000)
  fc.assert(
    fc.property(ascending, fc.integer({ min: 0, max: 10 * SECOND }), (times, most) => {
      const { sent } = sendTimes(captured(), times, most)
      const gaps = times.map((one, i) => (i === 0 ? 0 : Math.min(most, one - times[i - 1])))
      t.same(
        sent,
        gaps.map((_, i) => gaps.slice(0, i + 1).reduce((a, b) => a + b, 0)),
      )
    }),
  )
})
