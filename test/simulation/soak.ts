// npm run soak -- [--schedules N] [--seconds S] [--seed N]
// Random schedules, by default a million from a random seed; a failing one is shrunk and drawn, and the exit code is 1.

import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import { describeTally, runCampaign } from './campaign.js'
import { describeCoverage } from './coverage.js'

const usage = 'usage: npm run soak -- [--schedules N] [--seconds S] [--seed N]\n'

function refuse(why: string): never {
  process.stderr.write(`${why}\n${usage}`)
  process.exit(2)
}

function options() {
  const text = { type: 'string' } as const
  try {
    const help = { type: 'boolean', short: 'h' } as const
    return parseArgs({ options: { schedules: text, seconds: text, seed: text, help } }).values
  } catch (error) {
    return refuse((error as Error).message)
  }
}

const values = options()
if (values.help === true) {
  process.stdout.write(usage)
  process.exit(0)
}
const seed = Number(values.seed ?? randomInt(1, 2 ** 31))
const schedules = Number(values.schedules ?? 1_000_000)
const seconds = Number(values.seconds ?? Number.POSITIVE_INFINITY)
if (!Number.isInteger(seed)) refuse('--seed must be a whole number')
if (!(Number.isInteger(schedules) && schedules >= 1)) refuse('--schedules must be a whole number above 0')
if (!(seconds > 0)) refuse('--seconds must be a number above 0')

process.stdout.write(`seed ${seed}\n`)
const { tally, failure } = await runCampaign({
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
