// `scripts/bench growth`: how figures change with the number of machines, of hosts, and of ports.

import { loadavg } from 'node:os'
import { guestImage } from '../../test/lab/image.js'
import { compileGear } from '../forwarding/gear.js'
import { expandList } from '../forwarding/main.js'
import { describeMachine } from '../forwarding/report.js'
import { allCores, Lab } from '../lab/lab.js'
import { type BenchOptions, optionsOrExit, readBenchOptions } from '../options.js'
import { sweepAll } from '../snapshot/main.js'
import { finish, makeReport, readReport, writeResults } from '../vnsnap/report.js'
import { inTurn } from '../vnsnap/rounds.js'
import type { Row } from '../vnsnap/rows.js'
import { type MachinesPlan, machinesCells, measureMachines } from './machines.js'
import { measurePorts, type PortsPlan, portsCells } from './ports.js'

export const usage = `Usage: scripts/bench growth [options]

Measures snapshots of 2 to 16 machines and on 1 to 4 hosts, and forwarding between two of 2 to 200 ports (root needed).

  --rounds N       rounds over all cells (default 3; with --quick 1)
  --only A,B       only these cells: ${[...machinesCells, ...portsCells].map(({ id }) => id).join(', ')}
  --quick          two snapshots a cell and short trials: a look, not a result
  --json FILE      write the raw rows there as well, compressed when its name ends in .gz
  --results DIR    where growth.{json,md} go (default bench/results; with --quick or --only: nowhere)
  --render FILE    no run: make the tables again from an earlier run's report or raw rows (needs --results)
`

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): BenchOptions & { readonly chosen: ReadonlySet<string> } {
  const options = readBenchOptions(argv, { usual: 3, quick: 1, most: 100 })
  const ids = [...machinesCells, ...portsCells].map(({ id }) => id)
  for (const word of options.only ?? [])
    if (!ids.includes(word)) throw new Error(`no cell '${word}'; there are ${ids.join(', ')}`)
  return { ...options, chosen: new Set(options.only ?? ids) }
}

/** Exit code: 0 all measured, 1 something failed, 2 wrong usage. */
export async function growth(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) => writeResults(readReport(file), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const say = (line: string) => process.stderr.write(`${line}\n`)
  await sweepAll()
  const machine = describeMachine()
  if (machine.loadBefore > 0.5) say(`The machine is not quiet (load ${machine.loadBefore}): figures mean little.`)
  const { accelerator } = await guestImage()
  const started = new Date()
  const rows: Row[] = []
  const chosenMachines = machinesCells.filter(({ id }) => options.chosen.has(id))
  const machinesPlan: MachinesPlan = {
    snapshots: options.quick ? 2 : 6,
    memoryMiB: 96,
    idleMs: options.quick ? 1000 : 3000,
  }
  rows.push(
    ...(await inTurn('machines', options.rounds, chosenMachines, (cell) => measureMachines(cell, machinesPlan), say)),
  )
  const chosenPorts = portsCells.filter(({ id }) => options.chosen.has(id))
  const [first, second] = expandList(allCores())
  if (second === undefined) throw new Error('two cores are needed: one for the switch, one for the endpoints')
  const portsPlan: PortsPlan = {
    trialMs: options.quick ? 300 : 800,
    tcpSeconds: options.quick ? 1 : 2,
    cores: { switch: String(second), sender: String(first), receiver: String(first) },
  }
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    rows.push(
      ...(await inTurn('ports', options.rounds, chosenPorts, (cell) => measurePorts(cell, portsPlan, gear), say)),
    )
  } finally {
    await workshop.destroy()
  }
  const note = (id: string, title: string, setup: string) => ({ id, title, setup, version: '' })
  const report = makeReport(
    {
      kind: 'growth',
      date: started.toISOString(),
      minutes: Number(((Date.now() - started.getTime()) / 60_000).toFixed(1)),
      command: ['scripts/bench', 'growth', ...argv].join(' '),
      quick: options.quick,
      rounds: options.rounds,
      machine,
      loadAfter: Number(loadavg()[0]!.toFixed(2)),
      accelerator: accelerator === 'kvm' ? 'KVM' : 'TCG (emulated)',
      subjects: [
        ...chosenMachines.map(({ id, title }) =>
          note(id, title, `${machinesPlan.memoryMiB} MiB each, in a ring; policy buffer`),
        ),
        ...chosenPorts.map(({ id, title }) => note(id, title, 'one host, veth ports; all but two silent')),
      ],
      absent: [],
    },
    rows,
  )
  return finish(report, rows, options)
}
