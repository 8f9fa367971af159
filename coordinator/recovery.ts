// Manifests that are not what they should be: left pending by a coordinator that died, not discarded everywhere, half
// deleted, unreadable. What they become, and what the hosts are told.

import type { Logger } from 'pino'
import type { Manifest } from '../src/api/schemas.js'
import { asSnapswitchError, type SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import type { Agents } from './agents.js'
import type { Networks } from './networks.js'
import { failedManifest } from './sequence/snapshot/rules.js'
import { discardCallMs } from './sequence/snapshot/types.js'
import { type Instant, isoTime, retryDelayMs } from './sequence/table.js'
import type { ManifestStore } from './store/catalogue.js'
import type { Work } from './work.js'

const recoveryAttempts = 5
const recoveryWaitMs = 60_000

interface LeftoverOptions {
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

export interface RecoveryOptions {
  readonly networks: Networks
  readonly catalogue: ManifestStore
  readonly work: Work
  readonly clock: Clock
  readonly logger: Logger
}

/** Puts right what a former coordinator left. */
export class Recovery {
  readonly #options: RecoveryOptions

  constructor(options: RecoveryOptions) {
    this.#options = options
  }

  /**
   * Snapshots that were left unfinished are discarded on all hosts and marked failed. The networks concerned are busy
   * meanwhile. Never rejects: what cannot be done now is tried again before the next snapshot.
   */
  async recover(): Promise<void> {
    try {
      await this.#recover()
    } catch (thrown) {
      this.#options.logger.error({ err: thrown }, 'what a former coordinator left cannot be put right yet')
    }
  }

  async #recover(): Promise<void> {
    const { networks, catalogue, work, logger } = this.#options
    await networks.refresh()
    const found = await catalogue.list()
    for (const { network, name, error } of found) {
      if (error !== null) logger.error({ err: error, network, snapshot: name }, error.message)
    }
    const unfinished = found.flatMap(({ manifest }) => (manifest !== null && isUnfinished(manifest) ? [manifest] : []))
    await Promise.all(
      [...new Set(unfinished.map(({ network }) => network))].map((network) =>
        work
          .exclusively(network, 'putting right what a former coordinator left', recoveryWaitMs, () =>
            this.retry(network, recoveryAttempts),
          )
          .catch((error: unknown) => logger.error({ err: error, network }, 'recovery did not get through')),
      ),
    )
  }

  /** What is unfinished now, in a network that nobody else works in: hosts may be back that could not be told. */
  async retry(network: string, attempts = 1): Promise<void> {
    for (const { manifest } of await this.#options.catalogue.list()) {
      if (manifest?.network === network && isUnfinished(manifest)) await this.#discard(manifest, attempts)
    }
  }

  async #discard(manifest: Manifest, attempts: number): Promise<void> {
    const { networks, catalogue, work, clock } = this.#options
    const network = networks.all().get(manifest.network)
    const logger = this.#options.logger.child({ network: manifest.network, snapshot: manifest.name })
    if (network === undefined) return logger.warn('unfinished snapshot of a network that is no longer configured')
    const { agents, hosts } = network
    const write = (failed: Manifest) => catalogue.write(failed)
    await discardLeftover(manifest, { agents, hosts, attempts, clock, logger, write, stopping: work.signal })
  }
}

export function isUnfinished(manifest: Manifest): boolean {
  return manifest.state === 'pending' || (manifest.undiscarded ?? []).length > 0
}

/** Tells the hosts to discard it, and writes it down as failed, with the hosts that still do not know. */
async function discardLeftover(manifest: Manifest, options: LeftoverOptions): Promise<void> {
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
