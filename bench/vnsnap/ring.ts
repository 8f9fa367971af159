// The ring part, the studies' own metric: how much longer a ring of machines takes for its hops when a snapshot is
// taken at 40 % of them. 100 multiplications of floats a hop (guest/ring.c), no pause between hops. Runs with and
// without a snapshot take turns in one ring that never ends.

import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../test/lab/command.js'
import type { Lab, LabPlan } from '../../test/lab/lab.js'
import { median } from '../forwarding/statistics.js'
import { TRUNK_MTU } from '../forwarding/subject.js'
import { bootTimeoutMs } from '../snapshot/machines.js'
import { machineAddress, machineName, network } from '../snapshot/plan.js'
import { type SnapshotSystem, type Taker, withTaker } from '../snapshot/session.js'
import { type SaveCpu, SaveCpuMeter } from './save-cpu.js'

export interface RingCell {
  readonly machines: number
  /** Four at most. */
  readonly hosts: number
}

export interface RingPlan {
  /** Of a run without a snapshot. */
  readonly runSeconds: number
  /** Runs without a snapshot, each followed by one with; a single pair is followed by one more without. */
  readonly pairs: number
  readonly memoryMiB: number
}

const SNAPSHOT_AT = 0.4
const WARM_MS = 3000
const LOOK_MS = 20
/** More than any run comes to. */
const ENDLESS = 1_000_000_000

/** Machines take turns between the hosts. `hopDelayUs`: what each waits before it passes the token on. */
export function ringLab({ machines, hosts }: RingCell, memoryMiB: number, hopDelayUs?: number): LabPlan {
  const names = ['a', 'b', 'c', 'd'].slice(0, hosts)
  const ring = Array.from({ length: machines }, (_, index) => machineAddress(index))
  return {
    network,
    hosts: names,
    memoryMiB,
    trunkMtu: TRUNK_MTU,
    machines: ring.map((ip, index) => ({
      name: machineName(index),
      host: names[index % names.length]!,
      job: { ip: `${ip}/24`, node: index, ring, hops: ENDLESS, ...(hopDelayUs === undefined ? {} : { hopDelayUs }) },
    })),
  }
}

/** A report of the first machine: when it came, milliseconds of this process, and the hop it told. */
export interface Mark {
  readonly atMs: number
  readonly hop: number
}

/** When the ring was at `hop`, between the two reports that enclose it; NaN when none do. */
export function timeOfHop(marks: readonly Mark[], hop: number): number {
  for (let index = 1; index < marks.length; index++) {
    const [before, after] = [marks[index - 1]!, marks[index]!]
    if (before.hop > hop || after.hop < hop) continue
    if (after.hop === before.hop) return before.atMs
    return before.atMs + ((hop - before.hop) / (after.hop - before.hop)) * (after.atMs - before.atMs)
  }
  return Number.NaN
}

class Progress {
  readonly #lab: Lab
  #isOver = false
  readonly marks: Mark[] = []

  constructor(lab: Lab) {
    this.#lab = lab
  }

  look(): Mark {
    const hop = this.#lab.machine(machineName(0)).console.state?.ring?.hop ?? 0
    const last = this.marks.at(-1)
    if (last === undefined || hop > last.hop) this.marks.push({ atMs: performance.now(), hop })
    return this.marks.at(-1)!
  }

  async reach(hop: number, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!this.#isOver && this.look().hop < hop) {
      if (performance.now() > deadline) throw new Error(`the ring came to hop ${this.look().hop}, not to ${hop}`)
      await sleep(LOOK_MS)
    }
  }

  /** Nobody waits any more. */
  end(): void {
    this.#isOver = true
  }

  /** How long it took from one hop to another, seconds. */
  between(from: number, to: number): number {
    return (timeOfHop(this.marks, to) - timeOfHop(this.marks, from)) / 1000
  }
}

export interface RingFigures {
  /** Per cent. */
  readonly slowdown: number
  /** Half the range of the runs without a snapshot, per cent of their median. */
  readonly noise: number
  readonly hopsPerSecond: number
  /** Seconds of a processor that a snapshot took: of the machines' QEMUs beyond their vCPUs, and of all else. */
  readonly machinesCpu: number
  readonly switchesCpu: number
}

/** One run: how long it took, seconds, and the processor time meanwhile. */
export interface RingRun extends SaveCpu {
  readonly seconds: number
}

export function ringFigures(hops: number, without: readonly RingRun[], with_: readonly RingRun[]): RingFigures {
  const seconds = without.map((run) => run.seconds)
  const plain = median(seconds)
  const more = (of: (run: RingRun) => number) => median(with_.map(of)) - median(without.map(of))
  return {
    slowdown: (more((run) => run.seconds) / plain) * 100,
    noise: ((Math.max(...seconds) - Math.min(...seconds)) / 2 / plain) * 100,
    hopsPerSecond: hops / plain,
    machinesCpu: more(({ machines }) => machines),
    switchesCpu: more(({ switches }) => switches),
  }
}

async function runRing(progress: Progress, taker: Taker, meter: SaveCpuMeter, plan: RingPlan): Promise<RingFigures> {
  const limitMs = 120_000 + plan.runSeconds * 10_000
  // The first report that counts has just come: hops are compared from report to report.
  const first = progress.look().hop
  await progress.reach(first + 1, limitMs)
  const began = progress.look()
  await sleep(WARM_MS)
  await progress.reach(progress.look().hop + 1, limitMs)
  const warm = progress.look()
  const hops = Math.max(10, Math.round(((warm.hop - began.hop) / (warm.atMs - began.atMs)) * plan.runSeconds * 1000))
  const [without, with_]: [RingRun[], RingRun[]] = [[], []]
  for (let run = 0; run < Math.max(3, plan.pairs * 2); run++) {
    const from = progress.look().hop
    const before = await meter.look()
    let taking: Promise<void> | undefined
    const isWith = run % 2 === 1
    if (isWith) {
      await progress.reach(Math.round(from + hops * SNAPSHOT_AT), limitMs)
      taking = taker.take(run).then(({ error }) => {
        if (error !== null) throw new Error(error)
      })
      taking.catch(() => undefined)
    }
    const reached = progress.reach(from + hops, limitMs)
    reached.catch(() => undefined)
    // A snapshot that fails may leave the ring standing: its error is told, not the ring's.
    await Promise.all([reached, taking])
    const after = await meter.look()
    ;(isWith ? with_ : without).push({
      seconds: progress.between(from, from + hops),
      machines: after.machines - before.machines,
      switches: after.switches - before.switches,
    })
    // Not part of a run: a snapshot is there to be kept.
    if (isWith) await taker.remove(run)
  }
  return ringFigures(hops, without, with_)
}

/** Two at a time: emulated machines take all cores while they boot. */
export async function bootRing(lab: Lab, leastTokens = 3): Promise<void> {
  const names = [...lab.machines.keys()]
  for (let index = 0; index < names.length; index += 2)
    await Promise.all(names.slice(index, index + 2).map((name) => lab.startMachine(name, bootTimeoutMs)))
  await until('a ring that goes round', bootTimeoutMs, () => {
    const states = [...lab.machines.values()].map((machine) => machine.console.state?.ring)
    return states.every((ring) => ring !== undefined && ring.tokens > leastTokens) ? true : undefined
  })
}

export function measureRing(
  system: SnapshotSystem,
  cell: RingCell,
  plan: RingPlan,
  figures: Record<string, number>,
): Promise<void> {
  return withTaker(system, ringLab(cell, plan.memoryMiB), bootRing, async (lab, taker) => {
    const progress = new Progress(lab)
    try {
      const run = await runRing(progress, taker, await SaveCpuMeter.of(lab), plan)
      const broken = [...lab.machines.values()].filter((machine) => machine.console.errors.length > 0)
      if (broken.length > 0) throw new Error(`the ring broke: ${JSON.stringify(broken[0]!.console.errors[0])}`)
      const key = `${cell.machines}x${cell.hosts}`
      for (const [name, value] of Object.entries(run)) figures[`${name}.${key}`] = value
    } finally {
      progress.end()
    }
  })
}
