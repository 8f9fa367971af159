// The bench's own arithmetic: a wrong median or search would make every figure wrong without a sign.

import t from 'tap'
import { highestLosslessRate, median, spread } from '../../bench/forwarding/statistics.js'

t.test('median of odd, even and unsorted lists', async (t) => {
  t.equal(median([3]), 3)
  t.equal(median([9, 1, 5]), 5)
  t.equal(median([10, 2, 4, 8]), 6)
  t.ok(Number.isNaN(median([])))
  const kept = [3, 1, 2]
  median(kept)
  t.same(kept, [3, 1, 2], 'the list is left as it was')
})

t.test('spread is half the range relative to the median', async (t) => {
  t.equal(spread([90, 100, 110]), 0.1)
  t.equal(spread([5, 5]), 0)
  t.equal(spread([0, 0, 0]), 0)
})

const options = { resolution: 0.04, attempts: 2 }

t.test('the search finds the edge within its resolution', async (t) => {
  for (const edge of [30_000, 123_456, 499_000]) {
    let trials = 0
    const found = await highestLosslessRate(
      async (rate) => {
        trials++
        return rate <= edge
      },
      500_000,
      options,
    )
    t.ok(found <= edge, `${found} is without loss`)
    t.ok(found >= edge * 0.95, `${found} is close to ${edge}`)
    t.ok(trials <= 40, `${trials} trials`)
  }
})

t.test('a subject without loss at the ceiling costs one trial', async (t) => {
  let trials = 0
  t.equal(await highestLosslessRate(async () => ++trials > 0, 1000, options), 1000)
  t.equal(trials, 1)
})

t.test('one hiccup does not decide, two do', async (t) => {
  let trials = 0
  t.equal(await highestLosslessRate(async () => ++trials > 1, 1000, options), 1000)
  trials = 0
  const after = await highestLosslessRate(async () => ++trials > 2, 1000, options)
  t.ok(after < 1000 && after >= 850)
})

t.test('a subject that always loses gets 0, in a bounded number of trials', async (t) => {
  let trials = 0
  const found = await highestLosslessRate(
    async () => {
      trials++
      return false
    },
    1_000_000,
    options,
  )
  t.equal(found, 0)
  t.ok(trials < 60, `${trials} trials`)
})
