// A simulation that finds nothing proves something only if it finds what is there: one planted fault after the other,
// each to be caught, shrunk and drawn, while the same schedule holds without it.

import t from 'tap'
import { fileLimit, patience } from '../patience.js'
import { CampaignThread, faults } from './thread.js'

const SEED = 7_000_000
const SCHEDULES = 6_000
const SECONDS = patience(60_000) / 1000
/** A soak goes on to the smallest; one of ten schedules here, too, as far as it gets. */
const LIMITS = { shrinkRuns: 600, fewFrames: 16 }
const TO_THE_SMALLEST = { shrinkRuns: 500 }

t.setTimeout(fileLimit(280_000))
const thread = new CampaignThread()
t.teardown(() => thread.end())

for (const [index, { name, breaks, after = 0 }] of faults.entries()) {
  t.test(`caught: ${name}`, async (t) => {
    const limits = index % 10 === 0 ? TO_THE_SMALLEST : LIMITS
    const start = { seed: SEED + after, schedules: SCHEDULES, seconds: SECONDS }
    const { failure, tally } = await thread.run({ ...start, ...limits, fault: name })
    if (failure === null) {
      t.fail(`not caught in ${tally.schedules} schedules`)
      return
    }
    const { scenario, invariant, message, diagram, without } = failure
    t.comment(`schedule ${after + tally.schedules}; ${message}`)
    t.ok(breaks.includes(invariant), `it breaks invariant ${invariant}`)
    t.equal(without, null, 'without the fault the same schedule holds')
    t.ok(scenario.sends.length <= 32, `${scenario.sends.length} frames are enough to show it`)
    t.match(diagram, /invariant \d violated/, 'it is drawn')
  })
}
