// Manifests that are not what they should be: left pending by a coordinator that died, not discarded everywhere, half
// deleted, unreadable. What they become, and what the hosts are told.

import type { Logger } from 'pino'
import type { Manifest } from '../src/api/schemas.js'
import { asSnapswitchError, type SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import type { Agents } from './agents.js'
import { failedManifest } from './sequence/snapshot/rules.js'
import { discardCallMs } from './sequence/snapshot/types.js'
import { type Instant, isoTime, retryDelayMs } from './sequence/table.js'

export interface LeftoverOptions {
  readonly agents: Agents
  /** All hosts of the network. */
  readonly hosts: readonly string[]
  /** Per host. */
  readonly attempts: number
  readonly clock: Clock
  readonly logger: Logger
  readonly write: (manifest: Manifest) => Promise<void>
  readonly stopping: AbortSignal
}

export function isUnfinished(manifest: Manifest): boolean {
  return manifest.state === 'pending' || (manifest.undiscarded ?? []).length > 0
}

/** Tells the hosts to discard it, and writes it down as failed, with the hosts that still do not know. */
export async function discardLeftover(manifest: Manifest, options: LeftoverOptions): Promise<void> {
  const { network, name } = manifest
  const hosts = manifest.state === 'pending' ? options.hosts : (manifest.undiscarded ?? [])
  const told = await Promise.all(hosts.map((host) => discardOn(host, manifest, options)))
  const untold = hosts.filter((_, i) => told[i] === false)
  const error = manifest.error ?? {
    code: 'SNAPSHOT_FAILED',
    message: `snapshot ${network}/${name} was not finished: the coordinator ended while it was being taken`,
    action: 'Take it again.',
  }
  const finishedAt = manifest.finishedAt ?? isoTime(options.clock.now())
  await options.write(failedManifest(manifest, finishedAt, error, untold))
  options.logger.info({ undiscarded: untold }, 'unfinished snapshot discarded')
}

async function discardOn(host: string, manifest: Manifest, options: LeftoverOptions): Promise<boolean> {
  const { attempts, clock, stopping, agents, logger } = options
  for (let attempt = 1; attempt <= attempts && !stopping.aborted; attempt++) {
    if (attempt > 1) await new Promise<void>((resolve) => clock.after(retryDelayMs(attempt), resolve))
    try {
      await agents.discard(host, manifest.name, manifest.epoch, { timeoutMs: discardCallMs, signal: stopping })
      return true
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (error.code === 'SNAPSHOT_UNKNOWN') return true
      logger.warn({ err: error, host, attempt }, 'discard did not get through')
    }
  }
  return false
}

/** What the manifest says while the parts are being deleted: a crash then leaves nothing that looks complete. */
export function beingDeleted(manifest: Manifest, now: Instant): Manifest {
  const error = {
    code: 'SNAPSHOT_DISCARDED',
    message: 'its deletion was begun and not finished',
    action: `Finish it: snapswitch snapshot delete ${manifest.network}/${manifest.name}`,
  } as const
  return { ...manifest, state: 'failed', finishedAt: manifest.finishedAt ?? isoTime(now), error }
}

/** How a manifest that cannot be read is listed. */
export function unreadable(network: string, name: string, version: string, error: SnapswitchError | null): Manifest {
  return {
    format: 1,
    network,
    name,
    state: 'failed',
    epoch: 0,
    policy: 'buffer',
    createdAt: '1970-01-01T00:00:00.000Z',
    finishedAt: null,
    version,
    parts: [],
    figures: null,
    error: error?.report() ?? null,
  }
}
