// `scripts/bench snapshot`: reads the options, runs the cells one after another, writes what came out.

import { run } from '../../test/lab/command.js'
import { acceleratorName, begin } from '../run/machine.js'
import { type BenchOptions, endOf, optionsOrExit, readBenchOptions } from '../run/options.js'
import { usualRounds } from '../run/usual-rounds.js'
import { summarize } from './figures.js'
import { type Cell, cells, libvirtCells, secondsOf } from './plan.js'
import { makeReport, markdown, type Report, readReport, writeRaw, writeResults } from './report.js'
import type { Row } from './rows.js'
import { runCell } from './session.js'

export const usage = `Usage: scripts/bench snapshot [options]

Measures what snapshots cost running traffic: 2, 4 and 8 machines on two hosts (network namespaces, root needed).

  --rounds N       snapshots per cell (default 8; with --quick 2)
  --minutes N      five cells of four snapshots, as far as they fit
  --only A,B       only these cells (an id as in the progress lines, or a part of it: 8x256, drop, members)
                   libvirt: two cells with domains of libvirtd, which the others do not need
  --quick          four small cells: a look, not a result
  --json FILE      write the raw rounds, summaries and ratios there as well, compressed when its name ends in .gz
  --results DIR    where snapshot.{json,md} go (default bench/results; with --quick, --minutes or --only: nowhere)
  --render FILE    no run: make the tables again from what an earlier run wrote with --json (needs --results)
`

export interface Options extends BenchOptions {
  readonly chosen: readonly Cell[]
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  const usual = argv.includes('--minutes') ? 4 : usualRounds.snapshot
  const options = readBenchOptions(argv, { usual, quick: 2, most: 1000 })
  const { only } = options
  const all = cells(options.size, options.rounds)
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
  const untilMs = endOf(options)
  const { machine, started, say } = await begin()
  const qemu = /version (\S+)/.exec(await run('qemu-system-x86_64', ['--version']))?.[1] ?? 'unknown'
  const guests = { accelerator: await acceleratorName(), qemu }
  const command = ['scripts/bench', 'snapshot', ...argv].join(' ')
  const rows: Row[] = []
  const missing: string[] = []
  const save = (whole: boolean): Report => {
    const { quick, minutes: budget } = options
    const report = makeReport({ started, machine, guests, command, quick, budget, whole, missing, rows })
    if (options.json !== null) writeRaw(report, options.json)
    if (options.results !== null) writeResults(report, options.results)
    return report
  }
  for (const [index, cell] of options.chosen.entries()) {
    const began = performance.now()
    if (began + secondsOf(cell) * 1000 > untilMs) {
      missing.push(cell.id)
      continue
    }
    say(`${index + 1} of ${options.chosen.length}: ${cell.id}, ${cell.rounds} snapshots`)
    const row = await runCell(cell, say)
    rows.push(row)
    save(false)
    if (row.error !== null) say(`  failed: ${row.error}`)
    const { downtime, skew } = summarize(row)
    const seconds = (performance.now() - began) / 1000
    say(
      `  downtime p50 ${downtime.p50} ms, p99 ${downtime.p99} ms; skew p50 ${skew.p50} ms; took ${seconds.toFixed(0)} s`,
    )
  }
  if (missing.length > 0) say(`no time for ${missing.join(', ')}`)
  process.stdout.write(markdown(save(true)))
  return rows.some((row) => row.error !== null || row.rounds.some((round) => round.error !== null)) ? 1 : 0
}
