// `scripts/bench vnsnap`: reads the options, runs the parts one after another, writes what came out.

import { compileGear } from '../forwarding/gear.js'
import { Lab } from '../lab/lab.js'
import { acceleratorName, begin, twoCores } from '../run/machine.js'
import { type BenchOptions, endOf, optionsOrExit, readBenchOptions } from '../run/options.js'
import { Run, readReport, writeResults } from '../run/report.js'
import type { Rounds } from '../run/rounds.js'
import type { Row, SubjectNote } from '../run/rows.js'
import { usualRounds } from '../run/usual-rounds.js'
import type { SnapshotSystem } from '../snapshot/session.js'
import { controlsOf, saveAloneSystem } from './controls.js'
import { type CostPlan, measureCost } from './cost.js'
import { measureNetwork, type NetworkPlan, type NetworkSubject } from './network.js'
import { measureRestore } from './restore.js'
import { measureRing, type RingCell, type RingPlan } from './ring.js'
import { PAYLOADS, UDP_PAYLOADS, vnsnapBench } from './rows.js'
import { elsewhere, networkSubjects } from './subjects.js'
import { snapshotSystems } from './systems.js'

const PARTS = ['network', 'snapshot', 'restore', 'ring'] as const
type Part = (typeof PARTS)[number]
/** How far each part may go into the time that is left when it begins. */
const SHARES: Readonly<Record<Part, number>> = { network: 0.27, snapshot: 0.22, restore: 0.2, ring: 1 }

const ids = () => [...new Set([...networkSubjects, ...snapshotSystems, ...controlsOf(() => 0)].map(({ id }) => id))]

const rings = ([2, 4, 8] as const).flatMap((machines) => ([1, 2] as const).map((hosts) => ({ machines, hosts })))
const cellName = ({ machines, hosts }: RingCell) => `${machines}x${hosts}`

export const usage = `Usage: scripts/bench vnsnap [options]

Measures snapswitch beside models of VNsnap and of the UnaCloud snapshot, and beside bridge, OVS and VDE (root needed).

  --rounds N       rounds over all subjects (default 5; with --quick 1)
  --minutes N      as many rounds as fit; shorter trials, rings of snapswitch before those of others, fewer subjects
                   (OVS and VDE are in forwarding)
  --only A,B       only these parts (${PARTS.join(', ')}), subjects (${ids().join(', ')})
                   or rings (machines x hosts: ${rings.map(cellName).join(', ')})
  --quick          short trials: a look of some minutes, not a result
  --json FILE      write the raw rows there as well, compressed when its name ends in .gz
  --results DIR    where vnsnap.{json,md} go (default bench/results; with --quick, --minutes or --only: nowhere); raw/ in it has the raw rows
  --render FILE    no run: make the tables again from a report, or from raw rows, of an earlier run (needs --results)
`

export interface Options extends BenchOptions {
  readonly parts: readonly Part[]
  readonly subjects: readonly string[]
  /** By name; null: all. */
  readonly rings: readonly string[] | null
}

/** Throws with a message for the user. */
export function readOptions(argv: readonly string[]): Options {
  const options = readBenchOptions(argv, { usual: usualRounds.vnsnap, quick: 1, most: 100 })
  const [known, cells] = [ids(), rings.map(cellName)]
  const words = [...PARTS, ...known, ...cells]
  const only = options.only ?? []
  for (const word of only)
    if (!words.includes(word)) throw new Error(`no part, subject or ring '${word}'; there are ${words.join(', ')}`)
  const wanted = only.filter((word) => cells.includes(word))
  const parts = PARTS.filter((part) => only.includes(part) || (part === 'ring' && wanted.length > 0))
  const subjects = only.filter((word) => known.includes(word))
  return {
    ...options,
    parts: parts.length === 0 ? PARTS : parts,
    subjects: subjects.length === 0 ? known : subjects,
    rings: wanted.length === 0 ? null : wanted,
  }
}

/** Its policy changes nothing of a ring's time, and nothing of a restore. */
const SAME = 'snapswitch-drop'
/** A ring that runs on says nothing of whether it could be restored. */
const NO_RING = ['uncoordinated', SAME]
/** So short that it counts as none: a busy loop needs something. */
const BURN_LEAST_SECONDS = 0.2

interface Plans {
  readonly network: NetworkPlan
  readonly snapshot: CostPlan
  readonly snapshotRounds: number
  readonly restores: number
  /** Beside the one that is promised of: snapswitch's, and those of others. */
  readonly rings: readonly RingCell[]
  readonly othersRings: readonly RingCell[]
  readonly promised: RingPlan
  readonly ring: RingPlan
}

const promised: RingCell = { machines: 2, hosts: 2 }

function plansOf({ size, rounds }: Pick<BenchOptions, 'size' | 'rounds'>): Plans {
  const memoryMiB = 128
  const isWhole = size === 'whole'
  const network = (trialMs: number, tcpSeconds: number): NetworkPlan => ({
    trialMs,
    tcpSeconds,
    payloads: isWhole ? PAYLOADS : [8, 1472],
    udpPayloads: isWhole ? UDP_PAYLOADS : [1472],
    ...twoCores(),
  })
  const further = rings.filter(({ machines, hosts }) => machines !== promised.machines || hosts !== promised.hosts)
  const ring = { runSeconds: size === 'quick' ? 3 : 10, memoryMiB }
  return {
    network: isWhole ? network(800, 2) : size === 'brief' ? network(400, 1.5) : network(250, 1),
    snapshot: { snapshots: { whole: 6, brief: 4, quick: 2 }[size], memoryMiB },
    snapshotRounds: Math.ceil(rounds / 2),
    restores: isWhole ? Math.ceil(rounds / 2) : 1,
    rings: size === 'quick' ? [] : further,
    othersRings: isWhole ? further : [],
    promised: { ...ring, pairs: isWhole ? 3 : 2 },
    ring: { ...ring, pairs: isWhole ? 3 : 1 },
  }
}

interface Cast {
  readonly subjects: readonly NetworkSubject[]
  readonly notes: readonly SubjectNote[]
  readonly absent: readonly { readonly id: string; readonly why: string }[]
}

async function castOf({ parts, subjects, size, only }: Options): Promise<Cast> {
  const found: NetworkSubject[] = []
  const notes: SubjectNote[] = []
  const absent: { id: string; why: string }[] = []
  const isLeftOut = (id: string) => size === 'brief' && only === null && elsewhere.includes(id)
  const wanted = networkSubjects.filter(({ id }) => subjects.includes(id) && !isLeftOut(id))
  for (const subject of parts.includes('network') ? wanted : []) {
    const why = (await subject.unavailable?.()) ?? null
    if (why !== null) {
      absent.push({ id: subject.id, why })
      continue
    }
    found.push(subject)
    notes.push({ id: subject.id, title: subject.title, setup: subject.setup, version: await subject.version() })
  }
  for (const { id, title, setup } of [...systemsOf(subjects), ...controlsOf(() => 0)])
    if (subjects.includes(id) && !notes.some((note) => note.id === id))
      notes.push({ id, title, setup, version: 'snapshots only' })
  return { subjects: found, notes, absent }
}

/** Those first that a run with little time must not be without. */
const FIRST = ['snapswitch', 'vnsnap', 'unacloud']

function systemsOf(subjects: readonly string[]): SnapshotSystem[] {
  const wanted = snapshotSystems.filter(({ id }) => subjects.includes(id))
  const first = FIRST.flatMap((id) => wanted.find((system) => system.id === id) ?? [])
  return [...first, ...wanted.filter((system) => !first.includes(system))]
}

/** Exit code: 0 all measured, 1 something failed, 2 wrong usage. Missed aims are said, not failed. */
export async function vnsnap(argv: readonly string[]): Promise<number> {
  const render = (file: string, directory: string) =>
    writeResults(vnsnapBench, readReport(file, vnsnapBench), directory)
  const options = optionsOrExit(usage, () => readOptions(argv), render)
  if (typeof options === 'number') return options
  const untilMs = endOf(options)
  const begun = await begin()
  const accelerator = await acceleratorName()
  const { subjects, notes, absent } = await castOf(options)
  const plans = plansOf(options)
  const run = new Run(vnsnapBench, options, begun, () => ({
    command: ['scripts/bench', 'vnsnap', ...argv].join(' '),
    machine: begun.machine,
    accelerator,
    subjects: notes,
    absent,
  }))
  const part = (name: Part, rounds: number) => {
    const now = performance.now()
    return { part: name, rounds, untilMs: now + (untilMs - now) * (name === options.parts.at(-1) ? 1 : SHARES[name]) }
  }
  const systems = systemsOf(options.subjects)
  const controls = controlsOf(() => snapshotSeconds(run.rounds.rows)).filter(({ id }) => options.subjects.includes(id))
  const savers = controls.filter(({ id }) => id === saveAloneSystem.id)
  for (const name of options.parts) {
    if (name === 'network') await measureNetworks(run.rounds, part(name, options.rounds), subjects, plans.network)
    if (name === 'snapshot')
      await run.rounds.inTurn(part(name, plans.snapshotRounds), [...systems, ...savers], async (system, figures) => {
        Object.assign(figures, await measureCost(system, plans.snapshot, begun.say))
      })
    if (name === 'restore')
      await run.rounds.inTurn(
        part(name, plans.restores),
        systems.filter(({ id }) => id !== SAME),
        async (system, figures) => {
          Object.assign(figures, await measureRestore(system, plans.snapshot.memoryMiB, begun.say))
        },
      )
    if (name === 'ring') {
      const isWanted = ({ cell }: Ring) => options.rings?.includes(cellName(cell)) ?? true
      const wanted = ringsOf(systems, controls, plans).filter(isWanted)
      await run.rounds.inTurn(part(name, 1), wanted, ({ system, cell, plan }, figures) =>
        measureRing(system, cell, plan, figures),
      )
    }
  }
  return run.finish()
}

/** Of the processors, what a snapshot of the promised ring took. */
function snapshotSeconds(rows: readonly Row[]): number {
  const own = rows.find(({ subject, figures }) => subject === 'snapswitch' && figures['machinesCpu.2x2'] !== undefined)
  const { 'machinesCpu.2x2': machines = 0, 'switchesCpu.2x2': switches = 0 } = own?.figures ?? {}
  return Math.max(BURN_LEAST_SECONDS, machines + switches)
}

interface Ring {
  readonly id: string
  readonly title: string
  readonly cost: number
  readonly system: SnapshotSystem
  readonly cell: RingCell
  readonly plan: RingPlan
}

/** The promised ring of all and of the controls; then the other rings, those of snapswitch first. */
function ringsOf(systems: readonly SnapshotSystem[], controls: readonly SnapshotSystem[], plans: Plans): Ring[] {
  const ringOf = (system: SnapshotSystem, cell: RingCell, plan: RingPlan): Ring => ({
    id: system.id,
    title: `${system.title}, ${cell.machines} machines, ${cell.hosts === 1 ? '1 host' : '2 hosts'}`,
    // Machines take turns booting.
    cost: plan.pairs + cell.machines / 8,
    system,
    cell,
    plan,
  })
  const [own, others] = [systems.slice(0, 1), systems.slice(1).filter(({ id }) => !NO_RING.includes(id))]
  const further = (cells: readonly RingCell[], of: readonly SnapshotSystem[]) =>
    cells.flatMap((cell) => of.map((system) => ringOf(system, cell, plans.ring)))
  return [
    ...[...own, ...others, ...controls].map((system) => ringOf(system, promised, plans.promised)),
    ...further(plans.rings, own),
    ...further(plans.othersRings, others),
  ]
}

async function measureNetworks(
  rounds: Rounds,
  part: Parameters<Rounds['inTurn']>[0],
  subjects: readonly NetworkSubject[],
  plan: NetworkPlan,
): Promise<void> {
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    await rounds.inTurn(part, subjects, (subject, figures) => measureNetwork(subject, plan, gear, figures))
  } finally {
    await workshop.destroy()
  }
}
