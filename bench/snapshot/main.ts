// `scripts/bench snapshot`: reads the options, runs the cells one after another, writes what came out.

import { writeFileSync } from 'node:fs'
import { run } from '../../test/lab/command.js'
import { guestImage } from '../../test/lab/image.js'
import { sweep as sweepMachines } from '../../test/lab/record.js'
import { describeMachine } from '../forwarding/report.js'
import { sweep } from '../lab/lab.js'
import { type BenchOptions, optionsOrExit, readBenchOptions } from '../options.js'
import { summarize } from './figures.js'
import { type Cell, cells, libvirtCells } from './plan.js'
import { makeReport, markdown, readReport, writeResults } from './report.js'
import type { Row } from './rows.js'
import { runCell } from './session.js'

export const usage = `Usage: scripts/bench snapshot [options]

Measures what snapshots cost running traffic: 2, 4 and 8 machines on two hosts (network namespaces, root needed).

  --rounds N       snapshots per cell (default 8; with --quick 2)
  --only A,B       only these cells (an id as in the progress lines, or a part of it: 8x256, drop, members)
                   libvirt: two cells with domains of libvirtd, which the others do not need
  --quick          four small cells: a look, not a result
  --json FILE      write the raw rounds, summaries and ratios there as well
  --results DIR    where snapshot.{json,md} go (default bench/results; with --quick or --only: nowhere)
  --render FILE    no run: make the tables again from what an earlier run wrote with --json (needs --results)
`

export interface Options extends BenchOptions {
  readonly chosen: readonly Cell[]
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  const options = readBenchOptions(argv, { usual: 8, quick: 2, most: 1000 })
  const { only } = options
  const all = cells(options.quick, options.rounds)
  const domains = libvirtCells(options.rounds)
  const fits = ({ id }: Cell) => only?.some((part) => id.includes(part)) ?? true
  const asked = ({ id }: Cell) => only?.some((part) => part.startsWith('libvirt') && id.includes(part)) ?? false
  const chosen = [...all.filter(fits), ...domains.filter(asked)]
  if (chosen.length === 0) {
    const ids = [...all, ...domains].map(({ id }) => id)
    throw new Error(`no cell '${only}'; there are ${ids.join(', ')}`)
  }
  return { ...options, chosen }
}

/** Exit code: 0 all measured, 1 a cell or a snapshot failed, 2 wrong usage. Missed targets are said, not failed. */
export async function snapshot(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) => writeResults(readReport(file), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const say = (line: string) => process.stderr.write(`${line}\n`)
  await sweepAll()
  const machine = describeMachine()
  if (machine.loadBefore > 0.5)
    say(`The machine is not quiet (load ${machine.loadBefore}): times will be longer and spread wider.`)
  const { accelerator } = await guestImage()
  const qemu = /version (\S+)/.exec(await run('qemu-system-x86_64', ['--version']))?.[1] ?? 'unknown'
  const started = new Date()
  const rows: Row[] = []
  for (const [index, cell] of options.chosen.entries()) {
    say(`${index + 1} of ${options.chosen.length}: ${cell.id}, ${cell.rounds} snapshots`)
    const began = performance.now()
    const row = await runCell(cell, say)
    rows.push(row)
    if (row.error !== null) say(`  failed: ${row.error}`)
    const { downtime, skew } = summarize(row)
    const seconds = (performance.now() - began) / 1000
    say(
      `  downtime p50 ${downtime.p50} ms, p99 ${downtime.p99} ms; skew p50 ${skew.p50} ms; took ${seconds.toFixed(0)} s`,
    )
  }
  const guests = { accelerator: accelerator === 'kvm' ? 'KVM' : 'TCG (emulated)', qemu }
  const report = makeReport({ started, machine, guests, quick: options.quick, rows })
  if (options.json !== null) writeFileSync(options.json, `${JSON.stringify(report, null, 1)}\n`)
  if (options.results !== null) writeResults(report, options.results)
  process.stdout.write(markdown(report))
  return rows.some((row) => row.error !== null || row.rounds.some((round) => round.error !== null)) ? 1 : 0
}

/** Removes what killed runs have left, guests included. */
export async function sweepAll(): Promise<void> {
  await sweepMachines()
  await sweep()
}
