// The production algorithm under tens of thousands of random schedules: fixed seeds, then random ones for as long as the time
// allows. A schedule that breaks an invariant is shrunk and drawn.

import { randomInt } from 'node:crypto'
import t from 'tap'
import { describeTally, runCampaign } from './campaign.js'
import { describeCoverage, events } from './coverage.js'

const FIXED_SEED = 1
const FIXED_SCHEDULES = 5_000
const RANDOM_SCHEDULES = 40_000
const SECONDS = 15

t.setTimeout(150_000)

t.test('every invariant holds under random schedules, fixed seeds', async (t) => {
  const { tally, failure } = runCampaign({ seed: FIXED_SEED, schedules: FIXED_SCHEDULES, seconds: SECONDS * 4 })
  t.comment(describeTally(tally))
  if (failure !== null) t.comment(`\n${failure.diagram}`)
  t.equal(failure?.violation.message, undefined)
  t.comment(describeCoverage(tally.coverage))
  t.same(
    events.filter((event) => !tally.coverage.has(event)),
    [],
    'all that the rules are about has happened',
  )
  t.ok(tally.complete > tally.schedules / 2, 'most snapshots are complete')
  t.ok(tally.restored > tally.schedules / 20, 'and many are restored')
  t.ok(tally.failed > tally.schedules / 20, 'and many fail, as the schedule wills')
})

t.test('every invariant holds under random schedules, a random seed', async (t) => {
  const seed = randomInt(1, 2 ** 31)
  t.comment(`seed ${seed}`)
  const { tally, failure } = runCampaign({ seed, schedules: RANDOM_SCHEDULES, seconds: SECONDS })
  t.comment(describeTally(tally))
  if (failure !== null) t.comment(`\n${failure.diagram}\nAgain: npm run soak -- --seed ${failure.seed} --schedules 1`)
  t.equal(failure?.violation.message, undefined, `seed ${seed}`)
})
