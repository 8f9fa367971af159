// `npm run fuzz -- [--seconds N] [--target NAME] [--seed N]`: fuzzes for minutes; with a seed, that one case.

import { parseArgs } from 'node:util'
import { runCase, runFor, targetNames } from './fuzz.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '180' },
    target: { type: 'string' },
    seed: { type: 'string' },
  },
})

const chosen = values.target === undefined ? targetNames : targetNames.filter((name) => name === values.target)
if (chosen.length === 0) {
  console.error(`error: no target ${values.target}; there are ${targetNames.join(', ')}`)
  process.exit(2)
}
try {
  for (const target of chosen) {
    if (values.seed !== undefined) {
      runCase(target, Number(values.seed))
      console.log(`${target}: seed ${values.seed} passes`)
      continue
    }
    const seed = Math.floor(Math.random() * 2 ** 32)
    const cases = runFor(target, seed, (Number(values.seconds) * 1000) / chosen.length)
    console.log(`${target}: ${cases} cases from seed ${seed} on`)
  }
} catch (error) {
  console.error(error)
  process.exit(1)
}
