// `scripts/bench all`: every bench in turn, then the report; `scripts/bench report`: the report of results that are
// there.

import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../../test/lab/output-file.js'
import { forwarding } from '../forwarding/main.js'
import { growth } from '../growth/main.js'
import { projectRoot } from '../lab/project.js'
import { snapshot } from '../snapshot/main.js'
import { vnsnap } from '../vnsnap/main.js'
import { htmlReport } from './html.js'
import { readAll } from './read.js'

const usage = `Usage: scripts/bench all [--quick] [--rounds N] [--results DIR] [--report [FILE]]
       scripts/bench report [--results DIR] [--report FILE]

Runs forwarding, snapshot, vnsnap and growth one after another (about 2 hours and a quarter, with --quick half an hour), and makes one page of what came out.

  --quick          short trials: a look, not a result; goes to a directory of its own, DIR/quick
  --rounds N       rounds of each
  --results DIR    where results are, and go (default bench/results)
  --report FILE    the page (default report.html in the results)
`

interface Options {
  readonly help: boolean
  readonly quick: boolean
  readonly rounds: string | undefined
  readonly results: string
  readonly report: string
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  // --report alone asks for what is made anyhow.
  const words = argv.filter(
    (word, at) => word !== '--report' || (argv[at + 1] !== undefined && !argv[at + 1]!.startsWith('-')),
  )
  const { values } = parseArgs({
    args: words,
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      results: { type: 'string' },
      report: { type: 'string' },
    },
  })
  const base = values.results ?? join(projectRoot, 'bench', 'results')
  const results = values.quick ? join(base, 'quick') : base
  if (values.report !== undefined) mustBeWritable('--report', values.report)
  return {
    help: values.help,
    quick: values.quick,
    rounds: values.rounds,
    results,
    report: values.report ?? join(results, 'report.html'),
  }
}

/** Writes the page of what is in the results. */
export function writeReport(results: string, file: string): void {
  const all = readAll(results)
  if (all.length === 0) throw new Error(`no results in ${results}: run a bench first`)
  const raw = new Map<string, string>()
  const directory = join(results, 'raw')
  for (const name of list(directory).sort()) {
    const bench = all.find((one) => name.startsWith(`${one.bench}-`))?.bench
    if (bench !== undefined) raw.set(bench, relative(dirname(file), join(directory, name)))
  }
  writeFileSync(file, htmlReport(all, raw))
  process.stderr.write(`${file}\n`)
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function optionsOr(argv: readonly string[]): Options | number {
  try {
    const options = readOptions(argv)
    if (!options.help) return options
    process.stdout.write(usage)
    return 0
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
}

export async function report(argv: readonly string[]): Promise<number> {
  const options = optionsOr(argv)
  if (typeof options === 'number') return options
  writeReport(options.results, options.report)
  return 0
}

/** Exit code: that of the first bench that failed; the others run, and the report is made, all the same. */
export async function all(argv: readonly string[]): Promise<number> {
  const options = optionsOr(argv)
  if (typeof options === 'number') return options
  mkdirSync(options.results, { recursive: true })
  const words = ['--results', options.results]
  if (options.quick) words.push('--quick')
  if (options.rounds !== undefined) words.push('--rounds', options.rounds)
  let code = 0
  for (const bench of [forwarding, snapshot, vnsnap, growth]) {
    const ended = await bench(words)
    if (ended === 2) return 2
    if (code === 0) code = ended
  }
  writeReport(options.results, options.report)
  return code
}
