// What a restored network is worth: how long it takes from no machine at all to a ring that goes round again, two
// machines on two hosts, and whether it does. Machines that were saved one by one come back to connections that have
// moved on.

import { until } from '../../test/lab/command.js'
import { atMost, bootTimeoutMs } from '../snapshot/machines.js'
import { network } from '../snapshot/plan.js'
import { buildLab, leaveLab, type SnapshotSystem, type Taker } from '../snapshot/session.js'
import { ringLab } from './ring.js'

const KEPT = 'kept'
const RESTORED_MS = 30_000

/**
 * `restoreMs` is as fine as the machines' reports, twice a second. `restoredStill`: 1 when the ring has not gone round
 * within half a minute, or broke; `restoreMs` is missing then.
 */
export async function measureRestore(
  system: SnapshotSystem,
  memoryMiB: number,
  say: (line: string) => void,
): Promise<Record<string, number>> {
  const built = buildLab(system.plan(ringLab({ machines: 2, hosts: 2 }, memoryMiB)))
  let taker: Taker | undefined
  try {
    const lab = await built
    const open = await system.start(lab, network)
    await Promise.all([...lab.machines.keys()].map((name) => lab.startMachine(name, bootTimeoutMs)))
    const goesRound = (limitMs: number) => {
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
    await goesRound(bootTimeoutMs)
    taker = await open()
    await taker.keep(KEPT)
    await goesRound(RESTORED_MS)
    await lab.killMachines()
    lab.restartConsoles()
    const began = performance.now()
    await taker.restore(KEPT)
    return await goesRound(RESTORED_MS).then(
      () => ({ restoreMs: performance.now() - began, restoredStill: 0 }),
      (error: Error) => {
        say(`  ${system.id}: ${error.message}`)
        return { restoredStill: 1 }
      },
    )
  } finally {
    await taker?.close().catch(() => undefined)
    await leaveLab(built)
  }
}
