// The snapshot part: what some snapshots in a row cost two machines on two hosts, with bulk TCP and UDP between them.

import { median } from '../forwarding/statistics.js'
import { downtimeMs, goodRounds, skewMs, summarize } from '../snapshot/figures.js'
import { type Cell, hosts } from '../snapshot/plan.js'
import type { MemberStamps, Row as SnapshotRow } from '../snapshot/rows.js'
import { runCell, type SnapshotSystem } from '../snapshot/session.js'

export interface CostPlan {
  readonly snapshots: number
  readonly memoryMiB: number
}

export async function measureCost(
  system: SnapshotSystem,
  plan: CostPlan,
  say: (line: string) => void,
): Promise<Record<string, number>> {
  const cell: Cell = {
    id: `${system.id} ${hosts.length}x${plan.memoryMiB}`,
    machines: 2,
    memoryMiB: plan.memoryMiB,
    policy: system.policy,
    load: 'guests',
    driver: 'qemu',
    rounds: plan.snapshots,
  }
  const row = await runCell(cell, say, system)
  if (row.error !== null) throw new Error(row.error)
  return costOf(row)
}

const touchedAtUs = ({ gatedAtUs, savingAtUs }: MemberStamps) =>
  Math.min(...[gatedAtUs, savingAtUs].filter(Number.isFinite))

/** Throws where a snapshot failed: figures of those that did not would flatter. */
export function costOf(row: SnapshotRow): Record<string, number> {
  const failed = row.rounds.find(({ error }) => error !== null)
  if (failed !== undefined) throw new Error(`snapshot ${failed.round}: ${failed.error}`)
  const rounds = goodRounds(row)
  const members = rounds.flatMap((round) => round.members)
  const { bulk, counted } = summarize(row)
  const downtimes = members.map(downtimeMs)
  const skews = rounds.map(skewMs)
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  return {
    // As whoever gave the command sees it, until all images are whole; the same for all systems.
    globalMs: median(rounds.map(({ askedAtUs, answeredAtUs }) => (answeredAtUs - askedAtUs) / 1000)),
    // From the first touch of a machine until its image is whole.
    localMs: median(members.map((member) => (member.sealedAtUs - touchedAtUs(member)) / 1000)),
    'downtime.p50': median(downtimes),
    'downtime.max': Math.max(...downtimes),
    'skew.p50': median(skews),
    'skew.max': Math.max(...skews),
    early: sum(members.map(({ early }) => early)),
    udpLost: counted.udpLost,
    udpDoubled: counted.udpDoubled,
    faults: counted.faults,
    ...(bulk === null
      ? {}
      : {
          tcpGap: Math.max(bulk.longestGapMs.cut, bulk.longestGapMs.writing),
          tcpGapControl: bulk.longestGapMs.quiet,
          retransmits: bulk.retransmits.cut + bulk.retransmits.writing,
          timeouts: bulk.timeouts,
        }),
  }
}
