// The options that all benches take, and the runs that measure nothing: --help, --render, wrong usage.

import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../../test/lab/output-file.js'
import { projectRoot } from '../lab/project.js'

export interface BenchOptions {
  readonly help: boolean
  readonly quick: boolean
  /** Whole: as the bench is meant. Brief: what fits into `minutes`. Quick: the shortest trials that work. */
  readonly size: 'whole' | 'brief' | 'quick'
  /** How long it may take; null: as long as it takes. */
  readonly minutes: number | null
  /** At most. */
  readonly rounds: number
  /** What to measure; null: all. */
  readonly only: readonly string[] | null
  readonly json: string | null
  /** Where results go; null: nowhere. Not null with `render`. */
  readonly results: string | null
  readonly render: string | null
}

const MOST_MINUTES = 1440

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
      minutes: { type: 'string' },
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
  const minutes = values.minutes === undefined ? null : Number(values.minutes)
  if (minutes !== null && !(minutes > 0 && minutes <= MOST_MINUTES))
    throw new Error(`--minutes takes a number up to ${MOST_MINUTES}, not '${values.minutes}'`)
  const isWhole = !values.quick && minutes === null && values.only === undefined && values.render === undefined
  const results = values.results ?? (isWhole ? join(projectRoot, 'bench', 'results') : null)
  if (values.render !== undefined && results === null) throw new Error('--render needs --results DIR')
  return {
    help: values.help,
    quick: values.quick,
    size: values.quick ? 'quick' : minutes === null ? 'whole' : 'brief',
    minutes,
    rounds: wanted,
    only: values.only?.split(',') ?? null,
    json: values.json ?? null,
    results,
    render: values.render ?? null,
  }
}

/** When a run that began now must end, as performance.now() tells it; infinite without --minutes. */
export const endOf = ({ minutes }: Pick<BenchOptions, 'minutes'>): number =>
  minutes === null ? Number.POSITIVE_INFINITY : performance.now() + minutes * 60_000

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
