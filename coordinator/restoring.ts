// A restore as it is asked for: the plan by its order, the sequence, and what hosts are told when it is over.

import type { Logger } from 'pino'
import type { Manifest, RestoreOrder, RestoreReport } from '../src/api/schemas.js'
import { SnapswitchError } from '../src/errors/errors.js'
import { type Network, outsidePorts } from './network.js'
import { runRestore } from './runner.js'
import { planRestore } from './sequence/restore/plan.js'
import type { RunOptions } from './sequence-runner.js'

export const restoreDeadlineMs = 120_000
const leftCallMs = 5_000

/** Throws PLACEMENT_INVALID, and the reason when it was undone. */
export async function restoreSnapshot(
  network: Network,
  manifest: Manifest,
  order: RestoreOrder & { readonly deadlineMs: number },
  options: { readonly run: RunOptions; readonly maxKnownEpoch: number; readonly logger: Logger },
): Promise<RestoreReport> {
  const { run, maxKnownEpoch, logger } = options
  const plan = planRestore(manifest, order.placement ?? {}, network.hosts)
  const input = {
    manifest,
    plan,
    replace: order.replace ?? false,
    endFirst: order.endFirst ?? false,
    maxKnownEpoch,
    deadlineMs: order.deadlineMs,
  }
  const outside = outsidePorts(network)
  const outcome = await runRestore(input, run)
  const { name } = manifest
  if (outcome.kind === 'done') {
    await tellLeft(network, outcome.report.placement, logger)
    const done = { ...outcome.report, cutAtUs: firstCutUs(manifest), outsidePorts: await outside }
    logger.info({ network: network.name, snapshot: name, report: done }, 'snapshot restored')
    return done
  }
  logger.warn({ network: network.name, snapshot: name, error: outcome.error }, 'restore failed')
  throw SnapswitchError.fromReport(outcome.error)
}

/**
 * The other networks of its machines: a restore of one of those could load the same machine on another host meanwhile.
 */
export function othersOf(manifest: Manifest): string[] {
  const ports = manifest.parts.flatMap((part) => part.members.flatMap((member) => member.ports))
  const networks = new Set(ports.flatMap(({ network }) => network ?? []))
  networks.delete(manifest.network)
  return [...networks]
}

/** A host that does not hear of it keeps files that nobody needs. */
async function tellLeft(network: Network, placement: Readonly<Record<string, string>>, logger: Logger): Promise<void> {
  await Promise.all(
    network.hosts.map(async (host) => {
      const vms = Object.keys(placement).filter((vm) => placement[vm] !== host)
      if (vms.length === 0) return
      await network.agents.left(host, { vms }, { timeoutMs: leftCallMs }).catch((error: unknown) => {
        logger.warn({ err: error, host, vms }, 'files of machines that live elsewhere now may stay there')
      })
    }),
  )
}

/** The instant that a restore goes back to: what machines have done since is undone. */
function firstCutUs(manifest: Manifest): number {
  const cuts = manifest.parts.flatMap((part) => part.members.map((member) => member.cutAtUs))
  return cuts.length === 0 ? Date.parse(manifest.createdAt) * 1000 : Math.min(...cuts)
}
