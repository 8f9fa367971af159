// `scripts/bench growth`: how figures change with the number of machines, of hosts, and of ports.

import { compileGear } from '../forwarding/gear.js'
import { Lab } from '../lab/lab.js'
import { acceleratorName, begin, twoCores } from '../run/machine.js'
import { type BenchOptions, endOf, optionsOrExit, readBenchOptions } from '../run/options.js'
import { Run, readReport, writeResults } from '../run/report.js'
import { usualRounds } from '../run/usual-rounds.js'
import { growthBench } from './figures.js'
import { type MachinesPlan, machinesCells, measureMachines } from './machines.js'
import { measurePorts, type PortsPlan, portsCells } from './ports.js'

export const usage = `Usage: scripts/bench growth [options]

Measures snapshots of 2 to 16 machines and on 1 to 4 hosts, and forwarding between two of 2 to 200 ports (root needed).

  --rounds N       rounds over all cells (default 3; with --quick 1)
  --minutes N      as many rounds and cells as fit; three snapshots a cell
  --only A,B       only these cells: ${[...machinesCells, ...portsCells].map(({ id }) => id).join(', ')}
  --quick          two snapshots a cell and short trials: a look, not a result
  --json FILE      write the raw rows there as well, compressed when its name ends in .gz
  --results DIR    where growth.{json,md} go (default bench/results; with --quick, --minutes or --only: nowhere)
  --render FILE    no run: make the tables again from an earlier run's report or raw rows (needs --results)
`

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): BenchOptions & { readonly chosen: ReadonlySet<string> } {
  const options = readBenchOptions(argv, { usual: usualRounds.growth, quick: 1, most: 100 })
  const ids = [...machinesCells, ...portsCells].map(({ id }) => id)
  for (const word of options.only ?? [])
    if (!ids.includes(word)) throw new Error(`no cell '${word}'; there are ${ids.join(', ')}`)
  return { ...options, chosen: new Set(options.only ?? ids) }
}

/** Of the time, for the ports, which come first; their cells are short. */
const PORTS_SHARE = 0.4

/** Exit code: 0 all measured, 1 something failed, 2 wrong usage. */
export async function growth(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) =>
    writeResults(growthBench, readReport(file, growthBench), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const untilMs = endOf(options)
  const begun = await begin()
  const accelerator = await acceleratorName()
  const chosenMachines = machinesCells.filter(({ id }) => options.chosen.has(id))
  const chosenPorts = portsCells.filter(({ id }) => options.chosen.has(id))
  const machinesPlan: MachinesPlan = {
    snapshots: { whole: 6, brief: 3, quick: 2 }[options.size],
    memoryMiB: 96,
    idleMs: options.size === 'whole' ? 3000 : 1000,
  }
  const portsPlan: PortsPlan = {
    trialMs: { whole: 800, brief: 500, quick: 300 }[options.size],
    tcpSeconds: { whole: 2, brief: 1.5, quick: 1 }[options.size],
    cores: twoCores().oneHost,
  }
  const note = (id: string, title: string, setup: string) => ({ id, title, setup, version: '' })
  const run = new Run(growthBench, options, begun, () => ({
    command: ['scripts/bench', 'growth', ...argv].join(' '),
    machine: begun.machine,
    accelerator,
    subjects: [
      ...chosenMachines.map(({ id, title }) =>
        note(id, title, `${machinesPlan.memoryMiB} MiB each, in a ring; policy buffer`),
      ),
      ...chosenPorts.map(({ id, title }) => note(id, title, 'one host, veth ports; all but two silent')),
    ],
    absent: [],
  }))
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    const now = performance.now()
    const part = { part: 'ports', rounds: options.rounds, untilMs: now + (untilMs - now) * PORTS_SHARE }
    await run.rounds.inTurn(part, chosenPorts, (cell, figures) => measurePorts(cell, portsPlan, gear, figures))
  } finally {
    await workshop.destroy()
  }
  const part = { part: 'machines', rounds: options.rounds, untilMs }
  await run.rounds.inTurn(part, chosenMachines, (cell, figures) => measureMachines(cell, machinesPlan, figures))
  return run.finish()
}
