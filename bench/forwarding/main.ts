// `scripts/bench forwarding`: reads the options, makes the plan, runs it, writes what came out.

import { writeFileSync } from 'node:fs'
import { allCores, sweep } from '../lab/lab.js'
import { type BenchOptions, optionsOrExit, readBenchOptions } from '../options.js'
import { describeMachine, makeReport, markdown, readReport, type SubjectNote, writeResults } from './report.js'
import { type Plan, runPlan } from './run.js'
import type { Subject } from './subject.js'
import { bridge, bridgeOwnCore } from './subjects/bridge.js'
import { cable } from './subjects/cable.js'
import { ovsUserspace, ovsUserspaceTso } from './subjects/ovs.js'
import { snapswitch, snapswitchBusy, snapswitchFast, snapswitchUncolored } from './subjects/snapswitch.js'
import { vde, vdePlug } from './subjects/vde.js'

export const subjects: readonly Subject[] = [
  snapswitch,
  snapswitchFast,
  snapswitchUncolored,
  snapswitchBusy,
  bridge,
  bridgeOwnCore,
  ovsUserspace,
  ovsUserspaceTso,
  vde,
  vdePlug,
  cable,
]

export const usage = `Usage: scripts/bench forwarding [options]

Measures snapswitch beside the Linux bridge, OVS userspace and vde_switch in network namespaces (root needed).

  --rounds N       rounds over all subjects (default 5)
  --only A,B       only these subjects: ${subjects.map(({ id }) => id).join(', ')}
  --quick          two rounds of short trials: a look, not a result
  --json FILE      write the raw rounds, medians and ratios there as well
  --results DIR    where forwarding.{json,md,svg} go (default bench/results; with --quick or --only: nowhere)
  --render FILE    no run: make table and chart again from what an earlier run wrote with --json (needs --results)
`

/** Exit code: 0 all measured, 1 a subject failed in a round, 2 wrong usage. */
export async function forwarding(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) => writeResults(readReport(file), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const say = (line: string) => process.stderr.write(`${line}\n`)
  await sweep()
  const plan = makePlan(options)
  const machine = describeMachine()
  if (machine.loadBefore > 0.5)
    say(`The machine is not quiet (load ${machine.loadBefore}): figures will be lower and spread wider.`)
  const notes: SubjectNote[] = []
  for (const { id, title, setup, version } of plan.subjects) notes.push({ id, title, setup, version: await version() })
  const started = new Date()
  const rows = await runPlan(plan, say)
  const report = makeReport({ started, machine, plan, notes, rows })
  if (options.json !== null) writeFileSync(options.json, `${JSON.stringify(report, null, 1)}\n`)
  if (options.results !== null) writeResults(report, options.results)
  process.stdout.write(markdown(report))
  return rows.some((row) => row.error !== null) ? 1 : 0
}

interface Options extends BenchOptions {
  readonly chosen: readonly Subject[]
}

export function readOptions(argv: readonly string[]): Options {
  const options = readBenchOptions(argv, { usual: 5, quick: 2, most: 100 })
  return { ...options, chosen: options.only?.map(byId) ?? subjects }
}

function byId(id: string): Subject {
  const subject = subjects.find((candidate) => candidate.id === id)
  if (subject === undefined)
    throw new Error(`no subject '${id}'; there are ${subjects.map((candidate) => candidate.id).join(', ')}`)
  return subject
}

function makePlan(options: Options): Plan {
  const [first, second] = expandList(allCores())
  if (second === undefined) throw new Error('two cores are needed: one for the switch, one for the endpoints')
  const both = `${first},${second}`
  return {
    rounds: options.rounds,
    subjects: options.chosen,
    trialMs: options.quick ? 400 : 800,
    tcpSeconds: options.quick ? 1 : 2,
    oneHost: { switch: String(second), sender: String(first), receiver: String(first) },
    twoHosts: { switch: both, sender: both, receiver: both },
  }
}

/** '0-2,5' -> [0, 1, 2, 5], as in /proc/PID/status. */
export function expandList(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const [low, high] = part.split('-').map(Number)
    return Array.from({ length: (high ?? low!) - low! + 1 }, (_, index) => low! + index)
  })
}
