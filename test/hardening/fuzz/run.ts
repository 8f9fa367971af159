// `npm run fuzz -- [--seconds N] [--target NAME] [--seed N]`: fuzzes for minutes; with a seed, that one case.

import { parseArgs } from 'node:util'
import { runCase, runFor, targetNames } from './fuzz.js'

const usage = `usage: npm run fuzz -- [--seconds N] [--target NAME] [--seed N]
targets: ${targetNames.join(', ')}`

function refuse(why: string): never {
  console.error(`${why}\n${usage}`)
  process.exit(2)
}

function options() {
  const text = { type: 'string' } as const
  try {
    const help = { type: 'boolean', short: 'h' } as const
    return parseArgs({ options: { seconds: text, target: text, seed: text, help } }).values
  } catch (error) {
    return refuse((error as Error).message)
  }
}

const values = options()
if (values.help === true) {
  console.log(usage)
  process.exit(0)
}
const chosen = values.target === undefined ? targetNames : targetNames.filter((name) => name === values.target)
if (chosen.length === 0) refuse(`there is no target ${values.target}`)
const seconds = Number(values.seconds ?? 180)
if (!(seconds > 0)) refuse('--seconds must be a number above 0')
if (values.seed !== undefined && !/^\d+$/.test(values.seed)) refuse('--seed must be a whole number')
try {
  for (const target of chosen) {
    if (values.seed !== undefined) {
      runCase(target, Number(values.seed))
      console.log(`${target}: seed ${values.seed} passes`)
      continue
    }
    const seed = Math.floor(Math.random() * 2 ** 32)
    const cases = runFor(target, seed, (seconds * 1000) / chosen.length)
    console.log(`${target}: ${cases} cases from seed ${seed} on`)
  }
} catch (error) {
  console.error(error)
  process.exit(1)
}
