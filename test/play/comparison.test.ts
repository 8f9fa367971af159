// What came out compared with what was expected: each kind of difference is found, and told of the right packet.

import assert from 'node:assert/strict'
import t from 'tap'
import { Comparison } from '../../src/play/comparison.js'
import fc from '../property.js'
import { numbered } from './player.js'

const MS = 1e6

/** `came`: numbers of frames, in the order in which they came, a millisecond apart unless said. */
function compared(expected: readonly number[], came: readonly (number | Uint8Array)[], options = {}, at?: number[]) {
  const comparison = new Comparison({ lateNs: null, ...options })
  for (const [i, id] of expected.entries()) comparison.expect(i + 1, numbered(id), i * MS)
  for (const [i, one] of came.entries()) {
    comparison.came(typeof one === 'number' ? numbered(one) : one, (at?.[i] ?? i) * MS)
  }
  comparison.end()
  return comparison
}

const NOTHING = { lost: 0, doubled: 0, reordered: 0, changed: 0, late: 0, other: 0 }

t.test('what is the same does not differ', async (t) => {
  const { counts, differs } = compared([1, 2, 3], [1, 2, 3])
  t.same(counts, { ...NOTHING, expected: 3, found: 3 })
  t.notOk(differs)
  t.notOk(compared([7, 7, 7, 8], [7, 7, 7, 8]).differs, 'also when frames are alike')
})

t.test('each difference', async (t) => {
  t.match(compared([1, 2, 3], [1, 3]), { counts: { lost: 1 }, told: [{ kind: 'lost', packet: 2 }] })
  t.match(compared([1, 2, 3], [1, 2, 2, 3]), { counts: { doubled: 1 }, told: [{ kind: 'doubled', packet: 2 }] })
  t.match(compared([1, 2, 3], [1, 3, 2]), {
    counts: { ...NOTHING, found: 3, reordered: 1 },
    told: [{ kind: 'reordered', packet: 2 }],
  })
  const changed = numbered(2)
  changed[30] ^= 1
  t.match(compared([1, 2, 3], [1, changed, 3]), {
    counts: { lost: 0, changed: 1, other: 0 },
    told: [{ kind: 'changed', packet: 2, words: /from 30 to 30/ }],
  })
  t.match(compared([1, 2], [1, numbered(2, 64, [0x81, 0, 0, 5])]), { counts: { changed: 1 } }, 'a tag more')
  t.match(compared([1, 2, 3], [1, 2, 3], { lateNs: 3 * MS }, [100, 101, 106]), {
    counts: { late: 1 },
    told: [{ kind: 'late', packet: 3, words: /4\.000 ms/ }],
  })
  t.match(compared([1, 2], [1, Uint8Array.from({ length: 300 }, (_, i) => i), 2]), { counts: { other: 1 } })
  t.notOk(compared([1, 2], [1, new Uint8Array(300), 2]).differs)
})

t.test('every frame is accounted for, whatever comes', async () => {
  const ids = fc.array(fc.nat(30), { maxLength: 60 })
  fc.assert(
    fc.property(ids, ids, fc.integer({ min: 1, max: 20 }), (expected, came, frames) => {
      const { counts } = compared(expected, came, { frames })
      assert.equal(counts.expected, expected.length)
      assert.equal(counts.found + counts.lost + counts.changed, expected.length)
      assert.equal(counts.found + counts.changed + counts.doubled + counts.other, came.length)
    }),
  )
})

t.test('losses and orders are counted exactly', async () => {
  const plan = fc.array(fc.boolean(), { minLength: 1, maxLength: 100 })
  fc.assert(
    fc.property(plan, (kept) => {
      const expected = kept.map((_, i) => i * 3)
      const { counts } = compared(
        expected,
        expected.filter((_, i) => kept[i]),
      )
      assert.equal(counts.lost, kept.filter((one) => !one).length)
      assert.equal(counts.reordered + counts.doubled, 0)
    }),
  )
})

t.test('many frames, of which some never come', async (t) => {
  const comparison = new Comparison({ lateNs: null, frames: 1000 })
  for (let i = 0; i < 200_000; i++) {
    const bytes = numbered(i & 0xffff)
    new DataView(bytes.buffer).setUint32(20, i)
    comparison.expect(i, bytes, i)
    if (i % 1000 !== 5) comparison.came(bytes, i)
  }
  comparison.end()
  t.same(comparison.counts, { ...NOTHING, expected: 200_000, found: 199_800, lost: 200 })
  t.equal(comparison.told.length, 20, 'the first ones')
})
