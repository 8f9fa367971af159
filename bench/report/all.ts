// `scripts/bench all`: every bench in turn, each a process of its own, then the page. A run with so many minutes gives
// each bench its share of what is left. Whatever fails, is killed or has no time: the page is made of the rest.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../../test/lab/output-file.js'
import { projectRoot } from '../lab/project.js'
import { busyCores, load, type Machine, sweepAll } from '../run/machine.js'
import type { Told } from '../run/ratios.js'
import { readJson, writeJson } from '../run/report.js'
import { usualRounds } from '../run/usual-rounds.js'
import type { RunNote } from './html.js'
import { writeReport } from './main.js'
import { readAll, toldOfNothing } from './read.js'

const usage = `Usage: scripts/bench all [--minutes N] [--quick] [--rounds N] [--resume] [--results DIR] [--report [FILE]]

Runs vnsnap, forwarding, snapshot, growth and stores one after another (about 2 hours and a half, with --quick half an hour), and makes one page of what came out.

  --minutes N      so many in all, the page included: shorter trials, fewer subjects, cells and rounds
  --quick          short trials: a look, not a result; goes to a directory of its own, DIR/quick
  --rounds N       rounds of each, at most
  --resume         goes on with a run that was ended: its benches that were done are not run again
  --results DIR    where results are, and go (default bench/results)
  --report FILE    the page (default report.html in the results)
`

export interface Options {
  readonly help: boolean
  readonly quick: boolean
  readonly resume: boolean
  readonly minutes: number | null
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
      resume: { type: 'boolean', default: false },
      minutes: { type: 'string' },
      rounds: { type: 'string' },
      results: { type: 'string' },
      report: { type: 'string' },
    },
  })
  const minutes = values.minutes === undefined ? null : Number(values.minutes)
  if (minutes !== null && !(minutes >= LEAST_MINUTES && minutes <= 1440))
    throw new Error(`--minutes takes a number from ${LEAST_MINUTES} to 1440, not '${values.minutes}'`)
  const rounds = values.rounds
  if (rounds !== undefined && !/^[1-9]\d?$/.test(rounds)) throw new Error(`--rounds takes 1 to 99, not '${rounds}'`)
  const base = values.results ?? join(projectRoot, 'bench', 'results')
  const results = values.quick ? join(base, 'quick') : base
  if (values.report !== undefined) mustBeWritable('--report', values.report)
  const { help, quick, resume } = values
  return { help, quick, resume, minutes, rounds, results, report: values.report ?? join(results, 'report.html') }
}

const LEAST_MINUTES = 4
/** For what comes after the last bench. */
const REPORT_MS = 10_000
/** A bench looks at the clock between two measurements: one of them may take so much longer. */
const GRACE_MS = 60_000
/** Of its share, what a bench is told that it has: its last measurement may take longer than those before. */
const OWN_SHARE = 0.96
/** A bench that was told to end takes its machines down meanwhile. */
const END_MS = 30_000

/**
 * In this order. The weights are shares of the time: the seconds that each takes on two cores with emulated machines
 * for one round of all that its figures need.
 */
export const steps = [
  { bench: 'vnsnap', weight: 975 },
  { bench: 'forwarding', weight: 335 },
  { bench: 'snapshot', weight: 190 },
  { bench: 'growth', weight: 310 },
  { bench: 'stores', weight: 220 },
] as const

/** Of the time that is left, what the first of the remaining steps may have. */
export function shareMs(remaining: readonly { readonly weight: number }[], leftMs: number): number {
  const sum = remaining.reduce((total, { weight }) => total + weight, 0)
  return Math.max(0, (leftMs * remaining[0]!.weight) / sum)
}

/** At most as many as the bench makes by itself. */
export function roundsOf(bench: (typeof steps)[number]['bench'], asked: string): string {
  return Number(asked) > usualRounds[bench] ? String(usualRounds[bench]) : asked
}

type State = 'waiting' | 'running' | 'done' | 'failed' | 'stopped' | 'no time'

interface StepNote {
  readonly bench: string
  readonly state: State
  readonly minutes: number
  readonly load: number
  readonly busyCores: number
}

/** What was to be reached: with its aim, range and rounds, and how busy the machine was before its bench. */
export interface Promised extends Told {
  readonly bench: string
  /** Null: the run has not measured it. */
  readonly machine: Pick<Machine, 'loadBefore' | 'busyBefore'> | null
}

/**
 * Of all benches, of those results that came since a date. The keys of the cell-by-cell bench have its name before
 * them: others have the same.
 */
export function promisesOf(results: string, since: string): Record<string, Promised> {
  const found = new Map(readAll(results).map((one) => [one.bench, one]))
  return Object.fromEntries(
    Object.entries(toldOfNothing()).flatMap(([bench, nothing]) => {
      const one = found.get(bench)
      const isCurrent = one !== undefined && one.date >= since
      const machine = isCurrent ? machineOf(one.machine) : null
      return Object.entries(isCurrent ? { ...nothing, ...one.told } : nothing)
        .filter(([, { aim }]) => aim !== '')
        .map(([key, told]): [string, Promised] => [
          bench === 'snapshot' ? `snapshot.${key}` : key,
          { bench, ...told, machine },
        ])
    }),
  )
}

const machineOf = ({ loadBefore, busyBefore }: Machine) => ({
  loadBefore,
  ...(busyBefore === undefined ? {} : { busyBefore }),
})

let current: ChildProcess | null = null
let isStopping = false
/** Writes what there is. */
let conclude: (() => void) | null = null

/** The way out after a signal: the bench that runs takes itself down, and the page is made of what there is. */
export async function stopAll(): Promise<void> {
  isStopping = true
  if (current !== null) await end(current)
  conclude?.()
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  child.kill('SIGTERM')
  const force = setTimeout(() => child.kill('SIGKILL'), END_MS)
  await ended
  clearTimeout(force)
}

/** Its exit code; null when it was ended, by us or by somebody. The kernel ends it when this process is killed. */
async function runStep(bench: string, words: readonly string[], limitMs: number): Promise<number | null> {
  const program = join(projectRoot, 'dist', 'bench', 'main.js')
  const argv = ['--pdeathsig', 'TERM', process.execPath, '--enable-source-maps', program, bench, ...words]
  const child = spawn('setpriv', argv, { stdio: ['ignore', 'ignore', 'inherit'] })
  current = child
  const limit = Number.isFinite(limitMs) ? setTimeout(() => void end(child), limitMs) : undefined
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', resolve)
  })
  clearTimeout(limit)
  current = null
  return code
}

function commit(): string {
  try {
    const git = (...words: string[]) => execFileSync('git', ['-C', projectRoot, ...words], { encoding: 'utf8' }).trim()
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '-uno') === '' ? '' : ', changed')
  } catch {
    return 'unknown'
  }
}

/** Exit code: 0 all done, 1 something failed or was missed for want of time, 2 wrong usage. */
export async function all(argv: readonly string[]): Promise<number> {
  let options: Options
  try {
    options = readOptions(argv)
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
  if (options.help) {
    process.stdout.write(usage)
    return 0
  }
  const { results, minutes: budget } = options
  mkdirSync(results, { recursive: true })
  const file = join(results, 'all.json')
  const earlier = options.resume && existsSync(file) ? (readJson(file) as RunNote) : null
  const isDone = (bench: string) => earlier?.benches.some((one) => one.bench === bench && one.state === 'done') ?? false
  const [began, started] = [performance.now(), new Date()]
  const untilMs = budget === null ? Number.POSITIVE_INFINITY : began + budget * 60_000 - REPORT_MS
  const since = earlier?.date ?? started.toISOString()
  const notes: StepNote[] = steps.map(
    ({ bench }) =>
      (isDone(bench) ? (earlier?.benches.find((one) => one.bench === bench) as StepNote) : undefined) ?? {
        bench,
        state: 'waiting',
        minutes: 0,
        load: 0,
        busyCores: 0,
      },
  )
  const [head, line] = [commit(), ['scripts/bench', 'all', ...argv].join(' ')]
  const save = () => {
    const note: RunNote = {
      date: since,
      minutes: Number(((performance.now() - began) / 60_000).toFixed(1)),
      budget,
      command: line,
      commit: head,
      whole: notes.every(({ state }) => state === 'done' || state === 'failed'),
      benches: notes,
    }
    writeJson(file, { format: 1, kind: 'all', ...note, promises: promisesOf(results, since) })
  }
  conclude = () => {
    conclude = null
    save()
    if (readAll(results).length > 0) writeReport(results, options.report)
  }
  const say = (said: string) => process.stderr.write(`${said}\n`)
  for (const [index, { bench }] of steps.entries()) {
    if (isStopping || isDone(bench)) continue
    const left = untilMs - performance.now()
    const remaining = steps.slice(index).filter((one) => !isDone(one.bench))
    const share = Number.isFinite(left) ? shareMs(remaining, left) : left
    const before = { load: load(), busyCores: await busyCores() }
    const note = (state: State, minutes = 0) => {
      notes[index] = { bench, state, minutes, ...before }
      save()
    }
    if (share < 1000) {
      note('no time')
      continue
    }
    const words = ['--results', relative(process.cwd(), results)]
    if (options.quick) words.push('--quick')
    if (options.rounds !== undefined) words.push('--rounds', roundsOf(bench, options.rounds))
    if (Number.isFinite(share)) words.push('--minutes', ((share * OWN_SHARE) / 60_000).toFixed(2))
    say(`== ${bench}${Number.isFinite(share) ? `, ${(share / 60_000).toFixed(1)} minutes` : ''}`)
    note('running')
    const from = performance.now()
    const code = await runStep(bench, words, Math.min(share + GRACE_MS, left)).catch((error: Error) => {
      say(`${bench}: ${error.message}`)
      return 1
    })
    if (code === 2) return 2
    note(
      code === 0 ? 'done' : code === null || code > 128 ? 'stopped' : 'failed',
      Number(((performance.now() - from) / 60_000).toFixed(1)),
    )
    // A bench that had to be killed has left its lab to us.
    if (code === null) await sweepAll()
  }
  if (!isStopping) conclude?.()
  return notes.every(({ state }) => state === 'done') ? 0 : 1
}
