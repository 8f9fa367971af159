// The options that all benches take, and the runs that measure nothing: --help, --render, wrong usage.

import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../test/lab/output-file.js'
import { projectRoot } from './lab/project.js'

export interface BenchOptions {
  readonly help: boolean
  readonly quick: boolean
  readonly rounds: number
  /** What to measure; null: all. */
  readonly only: readonly string[] | null
  readonly json: string | null
  /** Where results go; null: nowhere. Not null with `render`. */
  readonly results: string | null
  readonly render: string | null
}

/** `quick`: rounds with --quick. Throws with a message for the user. */
export function readBenchOptions(
  argv: readonly string[],
  rounds: { readonly usual: number; readonly quick: number; readonly most: number },
): BenchOptions {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      rounds: { type: 'string' },
      only: { type: 'string' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      results: { type: 'string' },
      render: { type: 'string' },
    },
  })
  if (values.json !== undefined) mustBeWritable('--json', values.json)
  const wanted = values.rounds === undefined ? (values.quick ? rounds.quick : rounds.usual) : Number(values.rounds)
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > rounds.most)
    throw new Error(`--rounds takes a whole number from 1 to ${rounds.most}, not '${values.rounds}'`)
  const isWhole = !values.quick && values.only === undefined && values.render === undefined
  const results = values.results ?? (isWhole ? join(projectRoot, 'bench', 'results') : null)
  if (values.render !== undefined && results === null) throw new Error('--render needs --results DIR')
  return {
    help: values.help,
    quick: values.quick,
    rounds: wanted,
    only: values.only?.split(',') ?? null,
    json: values.json ?? null,
    results,
    render: values.render ?? null,
  }
}

/** The options of a run that measures, or the exit code of one that does not. */
export function optionsOrExit<O extends BenchOptions>(
  usage: string,
  read: () => O,
  render: (file: string, directory: string) => void,
): O | number {
  let options: O
  try {
    options = read()
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
  if (options.help) process.stdout.write(usage)
  else if (options.render !== null) render(options.render, options.results!)
  else return options
  return 0
}
