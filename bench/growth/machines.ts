// Snapshots of more and more machines on more and more hosts: small guests in a ring, snapswitch alone.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '../../test/lab/lab.js'
import { median } from '../forwarding/statistics.js'
import { processSeconds } from '../lab/cpu.js'
import { downtimeMs, skewMs } from '../snapshot/figures.js'
import type { Round } from '../snapshot/rows.js'
import { withTaker } from '../snapshot/session.js'
import { bootRing, ringLab } from '../vnsnap/ring.js'
import { snapshotSystems } from '../vnsnap/systems.js'

export interface MachinesCell {
  readonly id: string
  readonly title: string
  readonly machines: number
  readonly hosts: number
  readonly cost: number
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
  // Boots and snapshots take turns.
  cost: machines + 2,
})

/** More machines on two hosts, and as many on more hosts. Sixteen take as long as all others: they come last. */
export const machinesCells: readonly MachinesCell[] = [
  ...[2, 4, 8].map((machines) => cell(machines, 2)),
  ...[1, 4, 3].map((hosts) => cell(4, hosts)),
  cell(16, 2),
]

/** A ring that leaves the machine room to breathe. */
const HOP_DELAY_US = 2000
/** Resident memory of processes, bytes (proc(5), VmRSS). */
export function residentBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return sum + Number(kib ?? 0) * 1024
  }, 0)
}

export function measureMachines(
  cell: MachinesCell,
  plan: MachinesPlan,
  figures: Record<string, number>,
): Promise<void> {
  const system = snapshotSystems.find(({ id }) => id === 'snapswitch')!
  const boot = (lab: Lab) => bootRing(lab, 1)
  return withTaker(system, ringLab(cell, plan.memoryMiB, HOP_DELAY_US), boot, async (lab, taker) => {
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
      await taker.remove(round)
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
  })
}
