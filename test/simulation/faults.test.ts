// A simulation that finds nothing proves something only if it finds what is there: one planted fault after the other,
// each to be caught, shrunk and drawn, while the same schedule holds without it.

import t from 'tap'
import { fileLimit, patience } from '../patience.js'
import { runCampaign } from './campaign.js'
import { plantedFaults } from './faults.js'
import { networkFaults } from './faults-networks.js'
import { uplinkFaults } from './faults-uplink.js'
import { runScenario } from './run.js'
import { drawOnTrunks } from './scenario.js'

const SEED = 7_000_000
const SCHEDULES = 6_000
const SECONDS = patience(60_000) / 1000

t.setTimeout(fileLimit(280_000))

for (const { name, breaks, plant, after = 0, adapt } of [...plantedFaults, ...uplinkFaults, ...networkFaults]) {
  t.test(`caught: ${name}`, async (t) => {
    const options = { seed: SEED + after, schedules: SCHEDULES, seconds: SECONDS, plant, draw: drawOnTrunks }
    const { failure, tally } = await runCampaign(adapt === undefined ? options : { ...options, adapt })
    if (failure === null) {
      t.fail(`not caught in ${tally.schedules} schedules`)
      return
    }
    const { scenario, violation } = failure
    t.comment(`schedule ${after + tally.schedules}; ${violation.message}`)
    t.ok(breaks.includes(violation.invariant), `it breaks invariant ${violation.invariant}`)
    t.equal((await runScenario(scenario)).violation?.message, undefined, 'without the fault the same schedule holds')
    t.ok(scenario.sends.length <= 32, `${scenario.sends.length} frames are enough to show it`)
    t.match(failure.diagram, /invariant \d violated/, 'it is drawn')
  })
}
