// Entry of `scripts/bench`: picks the measurement and sees to it that nothing is left behind, however the run ends.

import { constants } from 'node:os'
import { forwarding } from './forwarding/main.js'
import { growth } from './growth/main.js'
import { destroyAll } from './lab/lab.js'
import { play } from './play/main.js'
import { ports } from './ports/main.js'
import { all, stopAll } from './report/all.js'
import { compare } from './report/compare.js'
import { report } from './report/main.js'
import { sweepAll } from './run/machine.js'
import { snapshot } from './snapshot/main.js'
import { destroyMachines } from './snapshot/session.js'
import { startup } from './startup/main.js'
import { stores } from './stores/main.js'
import { takeover } from './takeover/main.js'
import { trace } from './trace/main.js'
import { vnsnap } from './vnsnap/main.js'

const measurements: Readonly<Record<string, (argv: readonly string[]) => Promise<number>>> = {
  all,
  compare,
  forwarding,
  growth,
  play,
  ports,
  report,
  snapshot,
  startup,
  stores,
  takeover,
  trace,
  vnsnap,
}

let down: Promise<void> | undefined

/** Machines first: their switches hold devices whose other ends the bench's own namespaces have. */
function takeDown(): Promise<void> {
  down ??= (async () => {
    await stopAll()
    await destroyMachines()
    await destroyAll()
  })()
  return down
}

async function main(): Promise<void> {
  const [name, ...rest] = process.argv.slice(2)
  // For scripts/bench, after a run that was killed.
  if (name === 'sweep') return sweepAll()
  const measurement = name === undefined ? undefined : measurements[name]
  if (measurement === undefined) {
    process.stderr.write(`Usage: scripts/bench ${Object.keys(measurements).join('|')} [--help]\n`)
    process.exitCode = 2
    return
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      process.stderr.write(`\n${signal}: taking the lab down\n`)
      void takeDown().finally(() => process.exit(128 + constants.signals[signal]))
    })
  try {
    process.exitCode = await measurement(rest)
  } finally {
    await takeDown()
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
})
