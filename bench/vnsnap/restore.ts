// What a restored network is worth: how long it takes from no machine at all to a ring that goes round again, two
// machines on two hosts, and whether it does. Machines that were saved one by one come back to connections that have
// moved on.

import { until } from '../../test/lab/command.js'
import type { Lab } from '../../test/lab/lab.js'
import { atMost } from '../snapshot/machines.js'
import { type SnapshotSystem, withTaker } from '../snapshot/session.js'
import { bootRing, ringLab } from './ring.js'

const KEPT = 'kept'
const RESTORED_MS = 30_000

/**
 * `restoreMs` is as fine as the machines' reports, twice a second. `restoredStill`: 1 when the ring has not gone round
 * within half a minute, or broke; `restoreMs` is missing then.
 */
export function measureRestore(
  system: SnapshotSystem,
  memoryMiB: number,
  say: (line: string) => void,
): Promise<Record<string, number>> {
  const plan = ringLab({ machines: 2, hosts: 2 }, memoryMiB)
  return withTaker(system, plan, bootRing, async (lab, taker) => {
    await taker.keep(KEPT)
    await goesRound(lab, RESTORED_MS)
    await lab.killMachines()
    lab.restartConsoles()
    const began = performance.now()
    await taker.restore(KEPT)
    return goesRound(lab, RESTORED_MS).then(
      () => ({ restoreMs: performance.now() - began, restoredStill: 0 }),
      (error: Error) => {
        say(`  ${system.id}: ${error.message}`)
        return { restoredStill: 1 }
      },
    )
  })
}

function goesRound(lab: Lab, limitMs: number): Promise<true> {
  const first = new Map<string, number>()
  const deadline = performance.now() + atMost(limitMs)
  return until('a ring that goes round', limitMs, () => {
    if (performance.now() > deadline) throw new Error('the ring stands still')
    const went = [...lab.machines].map(([name, machine]) => {
      const broken = machine.console.errors[0]
      if (broken !== undefined) throw new Error(`restored, and broken: ${JSON.stringify(broken)}`)
      const tokens = machine.console.state?.ring?.tokens
      if (tokens === undefined) return false
      if (!first.has(name)) first.set(name, tokens)
      return tokens > first.get(name)!
    })
    return went.every(Boolean) ? true : undefined
  })
}
