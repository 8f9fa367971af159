// The delivery rule, judged against the table of the protocol, written down here once more and gone through
// exhaustively.

import t from 'tap'
import { judge, Verdict } from '../../src/epoch/delivery.js'
import { NO_COLOR } from '../../src/frame/frame.js'

/** | case | action |, first match counts. The fence stands before the gate: a former incarnation is not even held. */
const table: [string, (c: number, e: number, closed: boolean, fence: number) => boolean, Verdict][] = [
  ['of a former incarnation', (c, _e, _closed, fence) => c !== NO_COLOR && c < fence, Verdict.DROP_FENCED],
  ['gate of q closed', (_c, _e, closed) => closed, Verdict.HOLD],
  ['without a color', (c) => c === NO_COLOR, Verdict.DELIVER],
  ['c = epoch(q)', (c, e) => c === e, Verdict.DELIVER],
  ['c > epoch(q): early', (c, e) => c > e, Verdict.HOLD_EARLY],
  ['c < epoch(q): in-transit', (c, e) => c < e, Verdict.DELIVER_AND_RECORD],
]

t.test('every small color, epoch, gate and fence', async (t) => {
  const seen = new Map<string, number>()
  for (let color = NO_COLOR; color <= 6; color++) {
    for (let epoch = 0; epoch <= 6; epoch++) {
      for (const closed of [false, true]) {
        for (let fence = 0; fence <= 6; fence++) {
          const row = table.find(([, matches]) => matches(color, epoch, closed, fence))!
          seen.set(row[0], (seen.get(row[0]) ?? 0) + 1)
          const verdict = judge(color, epoch, closed, fence)
          if (verdict !== row[2]) {
            t.fail(
              `color ${color}, epoch ${epoch}, ${closed ? 'closed' : 'open'}, fence ${fence}: ${verdict} (${row[0]})`,
            )
          }
        }
      }
    }
  }
  t.equal(seen.size, table.length, 'every case has occurred')
})

t.test('what may never happen', async (t) => {
  for (let color = 0; color <= 6; color++) {
    for (let epoch = 0; epoch <= 6; epoch++) {
      for (const closed of [false, true]) {
        const verdict = judge(color, epoch, closed, 0)
        const delivers = verdict === Verdict.DELIVER || verdict === Verdict.DELIVER_AND_RECORD
        if (delivers && color > epoch) t.fail('an orphan: received before the cut, sent after one')
        if (delivers && closed) t.fail('delivered through a closed gate')
        if ((verdict === Verdict.DELIVER_AND_RECORD) !== (!closed && color < epoch)) t.fail('recorded wrongly')
      }
    }
  }
  t.equal(judge(NO_COLOR, 3, false, 9), Verdict.DELIVER, 'the outside world is behind no fence')
  t.equal(judge(NO_COLOR, 3, true, 9), Verdict.HOLD, 'yet a gate is a gate')
  t.equal(judge(9, 9, false, 9), Verdict.DELIVER, 'the fence lets its own epoch pass')
})
