// `scripts/bench vnsnap`: reads the options, runs the parts one after another, writes what came out.

import { loadavg } from 'node:os'
import { guestImage } from '../../test/lab/image.js'
import { compileGear } from '../forwarding/gear.js'
import { expandList } from '../forwarding/main.js'
import { describeMachine, type SubjectNote } from '../forwarding/report.js'
import { allCores, Lab } from '../lab/lab.js'
import { type BenchOptions, optionsOrExit, readBenchOptions } from '../options.js'
import { sweepAll } from '../snapshot/main.js'
import { type CostPlan, measureCost } from './cost.js'
import { measureNetwork, type NetworkPlan, type NetworkSubject } from './network.js'
import { finish, makeReport, readReport, writeResults } from './report.js'
import { measureRing, type RingPlan } from './ring.js'
import { inTurn } from './rounds.js'
import type { Part, Row } from './rows.js'
import { networkSubjects } from './subjects.js'
import { snapshotSystems } from './systems.js'

const PARTS: readonly Part[] = ['network', 'snapshot', 'ring']

const ids = () => [...new Set([...networkSubjects, ...snapshotSystems].map(({ id }) => id))]

export const usage = `Usage: scripts/bench vnsnap [options]

Measures snapswitch beside models of VNsnap and of the UnaCloud snapshot, and beside bridge, OVS and VDE (root needed).

  --rounds N       rounds over all subjects (default 5; with --quick 1)
  --only A,B       only these parts (${PARTS.join(', ')}) or subjects (${ids().join(', ')})
  --quick          short trials: a look of some minutes, not a result
  --json FILE      write the raw rows there as well, compressed when its name ends in .gz
  --results DIR    where vnsnap.{json,md} go (default bench/results; with --quick or --only: nowhere); raw/ in it has the raw rows
  --render FILE    no run: make the tables again from a report, or from raw rows, of an earlier run (needs --results)
`

export interface Options extends BenchOptions {
  readonly parts: readonly Part[]
  readonly subjects: readonly string[]
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  const options = readBenchOptions(argv, { usual: 5, quick: 1, most: 100 })
  const known = ids()
  const only = options.only ?? []
  for (const word of only)
    if (!known.includes(word) && !(PARTS as readonly string[]).includes(word))
      throw new Error(`no part or subject '${word}'; there are ${[...PARTS, ...known].join(', ')}`)
  const parts = PARTS.filter((part) => only.includes(part))
  const subjects = only.filter((word) => known.includes(word))
  return { ...options, parts: parts.length === 0 ? PARTS : parts, subjects: subjects.length === 0 ? known : subjects }
}

const quickRing: RingPlan = { cells: [{ machines: 2, hosts: 2 }], runSeconds: 3, pairs: 2, memoryMiB: 128 }
const fullRing: RingPlan = {
  cells: ([2, 4, 8] as const).flatMap((machines) => ([1, 2] as const).map((hosts) => ({ machines, hosts }))),
  runSeconds: 10,
  pairs: 3,
  memoryMiB: 128,
}

/** Exit code: 0 all measured, 1 something failed, 2 wrong usage. Missed aims are said, not failed. */
export async function vnsnap(argv: readonly string[]): Promise<number> {
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
  const notes: SubjectNote[] = []
  const absent: { id: string; why: string }[] = []
  if (options.parts.includes('network')) {
    const subjects: NetworkSubject[] = []
    for (const subject of networkSubjects.filter(({ id }) => options.subjects.includes(id))) {
      const why = (await subject.unavailable?.()) ?? null
      if (why !== null) {
        absent.push({ id: subject.id, why })
        continue
      }
      subjects.push(subject)
      notes.push({ id: subject.id, title: subject.title, setup: subject.setup, version: await subject.version() })
    }
    rows.push(...(await networkRows(subjects, options, say)))
  }
  const systems = snapshotSystems.filter(({ id }) => options.subjects.includes(id))
  if (options.parts.includes('snapshot')) {
    const plan: CostPlan = { snapshots: options.quick ? 2 : 6, memoryMiB: 128 }
    const rounds = Math.ceil(options.rounds / 2)
    rows.push(...(await inTurn('snapshot', rounds, systems, (system) => measureCost(system, plan, say), say)))
  }
  if (options.parts.includes('ring')) {
    const plan = options.quick ? quickRing : fullRing
    // A ring that runs on says nothing of whether it could be restored.
    const ringSystems = systems.filter(({ id }) => id !== 'uncoordinated')
    rows.push(...(await inTurn('ring', 1, ringSystems, (system) => measureRing(system, plan), say)))
  }
  for (const { id, title, setup } of systems)
    if (!notes.some((note) => note.id === id)) notes.push({ id, title, setup, version: 'snapshots only' })
  const report = makeReport(
    {
      kind: 'vnsnap',
      date: started.toISOString(),
      minutes: Number(((Date.now() - started.getTime()) / 60_000).toFixed(1)),
      command: ['scripts/bench', 'vnsnap', ...argv].join(' '),
      quick: options.quick,
      rounds: options.rounds,
      machine,
      loadAfter: Number(loadavg()[0]!.toFixed(2)),
      accelerator: accelerator === 'kvm' ? 'KVM' : 'TCG (emulated)',
      subjects: notes,
      absent,
    },
    rows,
  )
  return finish(report, rows, options)
}

async function networkRows(
  subjects: readonly NetworkSubject[],
  options: Options,
  say: (line: string) => void,
): Promise<Row[]> {
  const [first, second] = expandList(allCores())
  if (second === undefined) throw new Error('two cores are needed: one for the switch, one for the endpoints')
  const both = `${first},${second}`
  const plan: NetworkPlan = {
    trialMs: options.quick ? 250 : 800,
    tcpSeconds: options.quick ? 1 : 2,
    oneHost: { switch: String(second), sender: String(first), receiver: String(first) },
    twoHosts: { switch: both, sender: both, receiver: both },
  }
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    return await inTurn('network', options.rounds, subjects, (subject) => measureNetwork(subject, plan, gear), say)
  } finally {
    await workshop.destroy()
  }
}
