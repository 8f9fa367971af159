// `scripts/bench forwarding`: reads the options, makes the plan, runs it, writes what came out.

import { parseArgs } from 'node:util'
import { Lab } from '../lab/lab.js'
import { acceleratorName, begin, twoCores } from '../run/machine.js'
import { type BenchOptions, endOf, optionsOrExit, readBenchOptions } from '../run/options.js'
import { Run, readReport, writeResults } from '../run/report.js'
import type { SubjectNote } from '../run/rows.js'
import { usualRounds } from '../run/usual-rounds.js'
import { forwardingBench } from './figures.js'
import { compileGear } from './gear.js'
import { guestsSubjects, measureGuests } from './guests.js'
import { paired } from './paired.js'
import { measure, type Plan } from './run.js'
import { WARM_UP_MS } from './session.js'
import type { Subject } from './subject.js'
import { bridge, bridgeOwnCore } from './subjects/bridge.js'
import { cable } from './subjects/cable.js'
import { ovsUserspace, ovsUserspaceTso } from './subjects/ovs.js'
import { snapswitchBusy, snapswitchFast, snapswitchUncolored, snapswitchUserspace } from './subjects/snapswitch.js'
import { vde, vdePlug } from './subjects/vde.js'

/** Those first that a run with little time must not be without. */
export const subjects: readonly Subject[] = [
  snapswitchFast,
  bridge,
  snapswitchUserspace,
  ovsUserspaceTso,
  vde,
  ovsUserspace,
  vdePlug,
  snapswitchBusy,
  snapswitchUncolored,
  bridgeOwnCore,
  cable,
]

/** Context that a run with little time leaves out. */
const context: readonly Subject[] = [bridgeOwnCore, cable]

const GUESTS = 'guests'
const PAIR: readonly Subject[] = [bridge, snapswitchFast]

export const usage = `Usage: scripts/bench forwarding [options]

Measures snapswitch beside the Linux bridge, OVS userspace and vde_switch in network namespaces (root needed).

  --rounds N       rounds over all subjects (default 5)
  --minutes N      as many rounds as fit; shorter trials, no 512-byte frames, no rates without loss,
                   neither ${context.map(({ id }) => id).join(' nor ')}
  --only A,B       only these subjects: ${subjects.map(({ id }) => id).join(', ')};
                   ${GUESTS}: the part between two virtual machines
  --quick          two rounds of short trials: a look, not a result
  --json FILE      write the raw rounds, medians and ratios there as well, compressed when its name ends in .gz
  --results DIR    where forwarding.{json,md} go (default bench/results; with --quick, --minutes or --only: nowhere)
  --paired N       N rounds of nothing but 60-byte frames, all subjects there at once, by turns, with real-time
                   priority: ratios that hold beside other work (default subjects: ${PAIR.map(({ id }) => id).join(', ')})
  --render FILE    no run: make the tables again from what an earlier run wrote (needs --results)
`

interface Options extends BenchOptions {
  readonly chosen: readonly Subject[]
  readonly hasGuests: boolean
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  const options = readBenchOptions(argv, { usual: usualRounds.forwarding, quick: 2, most: 100 })
  const all = options.size === 'brief' ? subjects.filter((subject) => !context.includes(subject)) : subjects
  const chosen = options.only?.filter((id) => id !== GUESTS).map(byId) ?? all
  return { ...options, chosen, hasGuests: options.only?.includes(GUESTS) ?? true }
}

function byId(id: string): Subject {
  const subject = subjects.find((candidate) => candidate.id === id)
  if (subject === undefined)
    throw new Error(`no subject '${id}'; there are ${subjects.map((candidate) => candidate.id).join(', ')}`)
  return subject
}

function planOf({ size }: Pick<BenchOptions, 'size'>): Plan {
  return {
    trialMs: size === 'whole' ? 800 : size === 'brief' ? 500 : 300,
    warmUpMs: size === 'whole' ? WARM_UP_MS : 1000,
    tcpSeconds: size === 'whole' ? 2 : size === 'brief' ? 1.5 : 1,
    sizes: size === 'whole' ? [60, 512, 1514] : [60, 1514],
    hasLossless: size === 'whole',
    ...twoCores(),
  }
}

/** Of the time, for the part between namespaces. */
const SHARE = 0.8

/** `argv`: rounds, and `--only` with subjects. */
async function inPairs(argv: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...argv], options: { paired: { type: 'string' }, only: { type: 'string' } } })
  const rounds = Number(values.paired)
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) throw new Error('--paired takes 1 to 1000 rounds')
  const chosen = values.only?.split(',').map(byId) ?? PAIR
  const workshop = new Lab()
  try {
    await paired(chosen, rounds, await compileGear(workshop.scratch))
  } finally {
    await workshop.destroy()
  }
  return 0
}

/** Exit code: 0 all measured, 1 a subject failed in a round, 2 wrong usage. */
export async function forwarding(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) =>
    writeResults(forwardingBench, readReport(file, forwardingBench), directory)
  if (argv.includes('--paired')) return await inPairs(argv)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const untilMs = endOf(options)
  const begun = await begin()
  const plan = planOf(options)
  const notes: SubjectNote[] = []
  for (const { id, title, setup, version } of options.chosen) notes.push({ id, title, setup, version: await version() })
  const accelerator = options.hasGuests ? await acceleratorName() : ''
  const run = new Run(forwardingBench, options, begun, () => ({
    command: ['scripts/bench', 'forwarding', ...argv].join(' '),
    machine: begun.machine,
    accelerator,
    subjects: notes,
    absent: [],
  }))
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    const now = performance.now()
    const part = { part: 'network', rounds: options.rounds, untilMs: now + (untilMs - now) * SHARE }
    await run.rounds.inTurn(part, options.chosen, (subject, figures) => measure(subject, plan, gear, figures))
  } finally {
    await workshop.destroy()
  }
  if (options.hasGuests) {
    const rounds = options.size === 'whole' ? 3 : options.size === 'brief' ? 2 : 1
    const guests = { memoryMiB: 96, milliseconds: options.size === 'whole' ? 4000 : 2000 }
    const part = { part: GUESTS, rounds: Math.min(rounds, options.rounds), untilMs }
    await run.rounds.inTurn(part, guestsSubjects, (subject, figures) => measureGuests(subject, guests, figures))
  }
  return run.finish()
}
