// Snapshots of more and more machines on more and more hosts: small guests in a ring, snapswitch alone.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../test/lab/command.js'
import type { Lab, LabPlan } from '../../test/lab/lab.js'
import { median } from '../forwarding/statistics.js'
import { TRUNK_MTU } from '../forwarding/subject.js'
import { processSeconds } from '../lab/cpu.js'
import { downtimeMs, skewMs } from '../snapshot/figures.js'
import { bootTimeoutMs } from '../snapshot/machines.js'
import { machineAddress, machineName, network } from '../snapshot/plan.js'
import type { Round } from '../snapshot/rows.js'
import { buildLab, leaveLab, type Taker } from '../snapshot/session.js'
import { snapshotSystems } from '../vnsnap/systems.js'

export interface MachinesCell {
  readonly id: string
  readonly title: string
  readonly machines: number
  readonly hosts: number
}

export interface MachinesPlan {
  readonly snapshots: number
  readonly memoryMiB: number
  readonly idleMs: number
}

const cell = (machines: number, hosts: number): MachinesCell => ({
  id: `${machines}m${hosts}h`,
  title: `${machines} machines, ${hosts} ${hosts === 1 ? 'host' : 'hosts'}`,
  machines,
  hosts,
})

/** More machines on two hosts, and as many on more hosts. Sixteen take as long as all others: they come last. */
export const machinesCells: readonly MachinesCell[] = [
  ...[2, 4, 8].map((machines) => cell(machines, 2)),
  ...[1, 4, 3].map((hosts) => cell(4, hosts)),
  cell(16, 2),
]

/** A ring that leaves the machine room to breathe. */
const HOP_DELAY_US = 2000
const ENDLESS = 1_000_000_000

function labPlan({ machines, hosts }: MachinesCell, memoryMiB: number): LabPlan {
  const names = ['a', 'b', 'c', 'd'].slice(0, hosts)
  const ring = Array.from({ length: machines }, (_, index) => machineAddress(index))
  return {
    network,
    hosts: names,
    memoryMiB,
    trunkMtu: TRUNK_MTU,
    machines: ring.map((ip, index) => ({
      name: machineName(index),
      host: names[index % hosts]!,
      job: { ip: `${ip}/24`, node: index, ring, hops: ENDLESS, hopDelayUs: HOP_DELAY_US },
    })),
  }
}

/** Resident memory of processes, bytes (proc(5), VmRSS). */
export function residentBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return sum + Number(kib ?? 0) * 1024
  }, 0)
}

async function boot(lab: Lab): Promise<void> {
  const names = [...lab.machines.keys()]
  // Two at a time: emulated machines take all cores while they boot.
  for (let index = 0; index < names.length; index += 2)
    await Promise.all(names.slice(index, index + 2).map((name) => lab.startMachine(name, bootTimeoutMs)))
  await until('a ring that goes round', bootTimeoutMs, () => {
    const states = [...lab.machines.values()].map((machine) => machine.console.state?.ring)
    return states.every((ring) => ring !== undefined && ring.tokens > 1) ? true : undefined
  })
}

export async function measureMachines(
  cell: MachinesCell,
  plan: MachinesPlan,
  figures: Record<string, number>,
): Promise<void> {
  const system = snapshotSystems.find(({ id }) => id === 'snapswitch')!
  const built = buildLab(labPlan(cell, plan.memoryMiB))
  let taker: Taker | undefined
  try {
    const lab = await built
    const open = await system.start(lab, network)
    await boot(lab)
    taker = await open()
    const pids = [...lab.daemons.values()].map(({ id }) => id.pid)
    const idleFrom = processSeconds(pids)
    await sleep(plan.idleMs)
    const idle = (processSeconds(pids) - idleFrom) / (plan.idleMs / 1000)
    const rounds: Pick<Round, 'members' | 'globalMs'>[] = []
    let busy = 0
    for (let round = 1; round <= plan.snapshots; round++) {
      const before = processSeconds(pids)
      const taken = await taker.take(round)
      if (taken.error !== null) throw new Error(`snapshot ${round}: ${taken.error}`)
      busy += processSeconds(pids) - before
      rounds.push(taken)
    }
    const downtimes = rounds.flatMap(({ members }) => members.map(downtimeMs))
    const skews = rounds.map((round) => skewMs(round as Round))
    Object.assign(figures, {
      'machines.downtime.p50': median(downtimes),
      'machines.downtime.max': Math.max(...downtimes),
      'machines.skew.p50': median(skews),
      'machines.skew.max': Math.max(...skews),
      'machines.globalMs': median(rounds.map(({ globalMs }) => globalMs)),
      'machines.rss': residentBytes(pids) / 1e6,
      'machines.cpu': busy / plan.snapshots,
      'machines.cpuIdle': idle * 100,
    })
  } finally {
    await taker?.close().catch(() => undefined)
    await leaveLab(built)
  }
}
