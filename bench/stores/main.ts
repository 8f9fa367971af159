// `scripts/bench stores`: what goes wrong with replicated stores that are saved without coordination, and with it.

import { acceleratorName, begin } from '../run/machine.js'
import { type BenchOptions, endOf, optionsOrExit, readBenchOptions } from '../run/options.js'
import { Run, readReport, writeResults } from '../run/report.js'
import { usualRounds } from '../run/usual-rounds.js'
import type { SnapshotSystem } from '../snapshot/session.js'
import { atOnceSystem } from '../vnsnap/bridged.js'
import { snapshotSystems } from '../vnsnap/systems.js'
import { measureStores } from './attempts.js'
import { figuresOf } from './counts.js'
import { storesBench } from './figures.js'

/** Drop and buffer differ in what is sent again, not in what is whole. */
const systems: readonly SnapshotSystem[] = [
  ...snapshotSystems.filter(({ id }) => id !== 'snapswitch-drop' && id !== 'snapswitch-precopy'),
  atOnceSystem,
]

export const usage = `Usage: scripts/bench stores [options]

Saves three machines with etcd and redis and their client, under load, by each system; restores, and counts what is wrong (root needed).

  --rounds N       rounds over all systems, each with a boot of its own (default 1)
  --minutes N      as many snapshots as fit, one of each system at least
  --only A,B       only these systems: ${systems.map(({ id }) => id).join(', ')}
  --quick          one snapshot of each system
  --json FILE      write the raw rows there as well, compressed when its name ends in .gz
  --results DIR    where stores.{json,md} go (default bench/results; with --quick, --minutes or --only: nowhere)
  --render FILE    no run: make the tables again from an earlier run's report or raw rows (needs --results)
`

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): BenchOptions & { readonly chosen: readonly SnapshotSystem[] } {
  const options = readBenchOptions(argv, { usual: usualRounds.stores, quick: 1, most: 20 })
  const only = options.only
  for (const word of only ?? [])
    if (!systems.some(({ id }) => id === word))
      throw new Error(`no system '${word}'; there are ${systems.map(({ id }) => id).join(', ')}`)
  return { ...options, chosen: systems.filter(({ id }) => only === null || only.includes(id)) }
}

/** Exit code: 0 all measured, 1 something failed, 2 wrong usage. What is counted is said, not failed. */
export async function stores(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) =>
    writeResults(storesBench, readReport(file, storesBench), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const untilMs = endOf(options)
  const begun = await begin()
  const accelerator = await acceleratorName()
  const run = new Run(storesBench, options, begun, () => ({
    command: ['scripts/bench', 'stores', ...argv].join(' '),
    machine: begun.machine,
    accelerator,
    subjects: options.chosen.map(({ id, title, setup }) => ({ id, title, setup, version: '' })),
    absent: [],
  }))
  const attempts = { whole: 4, brief: 3, quick: 1 }[options.size]
  let left = options.chosen.length * options.rounds
  await run.rounds.inTurn(
    { part: 'stores', rounds: options.rounds, untilMs },
    options.chosen,
    async (system, figures) => {
      const now = performance.now()
      // Each system gets its share of the time that is left.
      const plan = { attempts, workMs: 2000, untilMs: now + (untilMs - now) / left-- }
      Object.assign(figures, figuresOf(await measureStores(system, plan, begun.say)))
    },
  )
  return run.finish()
}
