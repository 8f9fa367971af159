// npm run soak:disks -- [SECONDS] [SEED]
// Histories of 40 steps, one after the other, from a random seed; a failing one is printed, and the exit code is 1.

import { randomInt } from 'node:crypto'
import { runHistory } from './disks-history.js'
import { World } from './world.js'

const seconds = Number(process.argv[2] ?? 300)
const first = Number(process.argv[3] ?? randomInt(2 ** 31))
const end = performance.now() + seconds * 1000
let steps = 0
let histories = 0
for (let seed = first; performance.now() < end; seed++) {
  const world = new World()
  try {
    steps += await runHistory(world, seed, 40, end)
    histories++
    process.stdout.write(`seed ${seed}: well (${histories} histories, ${steps} steps)\n`)
  } catch (thrown) {
    process.stdout.write(`${(thrown as Error).message}\n`)
    process.exitCode = 1
    break
  } finally {
    await world.destroy()
  }
}
process.stdout.write(
  `${histories} histories, ${steps} steps${process.exitCode === 1 ? ', then a failure' : ', all well'}\n`,
)
process.exit()
