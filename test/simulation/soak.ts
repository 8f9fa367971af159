// npm run soak -- [--schedules N] [--seconds S] [--seed N]
// Random schedules, by default a million from a random seed; a failing one is shrunk and drawn, and the exit code is 1.

import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import { describeTally, runCampaign } from './campaign.js'
import { describeCoverage } from './coverage.js'

const { values } = parseArgs({
  options: { schedules: { type: 'string' }, seconds: { type: 'string' }, seed: { type: 'string' } },
})
const seed = Number(values.seed ?? randomInt(1, 2 ** 31))
const schedules = Number(values.schedules ?? 1_000_000)
const seconds = Number(values.seconds ?? Number.POSITIVE_INFINITY)
if (!Number.isInteger(seed) || !(schedules >= 1) || !(seconds > 0)) {
  process.stderr.write('usage: npm run soak -- [--schedules N] [--seconds S] [--seed N]\n')
  process.exit(2)
}

process.stdout.write(`seed ${seed}\n`)
const { tally, failure } = runCampaign({
  seed,
  schedules,
  seconds,
  onProgress: (tally) => process.stdout.write(`${describeTally(tally)}\n`),
})
process.stdout.write(`${describeTally(tally)}\n${describeCoverage(tally.coverage)}\n`)
if (failure !== null) {
  process.stdout.write(`\n${failure.diagram}\n\nAgain: npm run soak -- --seed ${failure.seed} --schedules 1\n`)
  process.exit(1)
}
