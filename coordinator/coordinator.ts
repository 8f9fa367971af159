// What the coordinator can be asked for: create, restore, delete, list, status; and what it puts right when it starts.

import type { Logger } from 'pino'
import { checkedName, unknownNetwork } from '../src/api/names.js'
import type {
  AuditReport,
  CoordinatorStatus,
  CreateRequest,
  DeleteReport,
  FlattenReport,
  Manifest,
  Progress,
  PruneOrder,
  PruneReport,
  RestoreOrder,
  RestoreReport,
  SnapshotFrames,
  VerifyReport,
  VerifyRequest,
} from '../src/api/schemas.js'
import { SnapswitchError } from '../src/errors/errors.js'
import { type Clock, systemClock } from '../src/runtime/clock.js'
import { deleteSnapshot } from './deletion.js'
import { auditSnapshot } from './evidence.js'
import { flattenSnapshot } from './flattening.js'
import { framesOf } from './frames.js'
import { quickHealth, verifySnapshot } from './health.js'
import { NetworkLocks } from './locks.js'
import { forgetFailed, nextName, refuseTaken } from './naming.js'
import { hostStatus, type Network, outsidePorts } from './network.js'
import type { Networks } from './networks.js'
import { prune } from './pruning.js'
import { discardLeftover, isUnfinished, unreadable } from './recovery.js'
import { runRestore, runSnapshot } from './runner.js'
import { planRestore } from './sequence/restore/plan.js'
import type { OnProgress, RunOptions } from './sequence-runner.js'
import type { ManifestStore } from './store/catalogue.js'
import { verifyImages } from './verification.js'

export const createDeadlineMs = 60_000
export const restoreDeadlineMs = 120_000
const recoveryAttempts = 5
const leftCallMs = 5_000

export interface CoordinatorOptions {
  readonly networks: Networks
  /** Whether every snapshot's images are loaded once. */
  readonly verify?: boolean
  /** It runs inside `snapswitch switch`, and makes way for one that is started by itself. */
  readonly embedded?: boolean
  readonly catalogue: ManifestStore
  readonly logger: Logger
  readonly version: string
  readonly clock?: Clock
}

export type ReportProgress = (progress: Progress) => void

export class Coordinator {
  readonly #networks: Networks
  readonly #embedded: boolean
  readonly #catalogue: ManifestStore
  readonly #logger: Logger
  readonly #version: string
  readonly #clock: Clock
  readonly #verify: boolean
  readonly #locks: NetworkLocks
  readonly #stopping = new AbortController()
  readonly #running = new Set<Promise<unknown>>()

  constructor(options: CoordinatorOptions) {
    this.#catalogue = options.catalogue
    this.#logger = options.logger
    this.#version = options.version
    this.#clock = options.clock ?? systemClock
    this.#locks = new NetworkLocks(this.#clock)
    this.#verify = options.verify ?? false
    this.#networks = options.networks
    this.#embedded = options.embedded ?? false
  }

  /**
   * Snapshots that a former coordinator left unfinished are discarded on all hosts and marked failed. The networks
   * concerned are busy meanwhile. Never rejects: what cannot be done now is tried again before the next snapshot.
   */
  async recover(): Promise<void> {
    await this.#networks.refresh()
    const found = await this.#catalogue.list()
    for (const { network, name, error } of found) {
      if (error !== null) this.#logger.error({ err: error, network, snapshot: name }, error.message)
    }
    const unfinished = found.flatMap(({ manifest }) => (manifest !== null && isUnfinished(manifest) ? [manifest] : []))
    const networks = new Set(unfinished.map((m) => m.network))
    await Promise.all(
      [...networks].map((network) =>
        this.#exclusively(network, 'putting right what a former coordinator left', 60_000, async () => {
          for (const manifest of unfinished) {
            if (manifest.network === network) await this.#discardLeftover(manifest, recoveryAttempts)
          }
        }).catch((error: unknown) => this.#logger.error({ err: error, network }, 'recovery did not get through')),
      ),
    )
  }

  /** Takes a snapshot. Throws with the reason when it could not be taken; then all machines run on. */
  async create(request: CreateRequest, report: ReportProgress): Promise<Manifest> {
    const network = await this.#network(request.network)
    if (request.name !== undefined) checkedName('snapshot', request.name)
    const deadlineMs = request.deadlineMs ?? createDeadlineMs
    const startedAt = this.#clock.now().ms
    const waitMs = request.wait === true ? deadlineMs : null
    const what = request.name === undefined ? 'a snapshot' : `snapshot ${request.name}`
    return this.#exclusively(network.name, what, waitMs, async () => {
      const name = request.name ?? (await nextName(this.#catalogue, network.name))
      await refuseTaken(this.#catalogue, network.name, name)
      await this.#retryDiscards(network.name)
      const input = {
        network: network.name,
        name,
        policy: request.policy ?? 'buffer',
        record: request.record ?? false,
        version: this.#version,
        hosts: network.hosts,
        maxKnownEpoch: await this.#catalogue.maxEpoch(network.name),
        waitedMs: this.#clock.now().ms - startedAt,
        deadlineMs: Math.max(1, Math.round(deadlineMs - (this.#clock.now().ms - startedAt))),
      } as const
      const outcome = await runSnapshot(input, {
        ...this.#runOptions(network, report),
        store: (manifest) => this.#catalogue.write(manifest),
      })
      if (outcome.kind === 'complete') {
        this.#logger.info(
          { network: network.name, snapshot: name, figures: outcome.manifest.figures },
          'snapshot complete',
        )
        await forgetFailed(this.#catalogue, outcome.manifest, this.#logger)
        return (request.verify ?? this.#verify)
          ? this.#verifyImages(network, outcome.manifest, report)
          : outcome.manifest
      }
      this.#logger.warn({ network: network.name, snapshot: name, error: outcome.error }, 'snapshot failed')
      throw SnapswitchError.fromReport(outcome.error)
    })
  }

  async #verifyImages(network: Network, manifest: Manifest, report: ReportProgress): Promise<Manifest> {
    const verified = await verifyImages(network, manifest, this.#runOptions(network, report))
    await this.#catalogue.write(verified)
    return verified
  }

  /** Restores a snapshot. Throws with the reason when it was undone. */
  async restore(
    networkName: string,
    name: string,
    order: RestoreOrder,
    report: ReportProgress,
  ): Promise<RestoreReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    const what = `restore of ${network.name}/${name}`
    return this.#exclusively(network.name, what, null, async () => {
      const manifest = await this.#catalogue.read(network.name, name)
      return this.#exclusivelyAll(othersOf(manifest), what, () => this.#restore(network, manifest, order, report))
    })
  }

  async #restore(network: Network, manifest: Manifest, order: RestoreOrder, report: ReportProgress) {
    const plan = planRestore(manifest, order.placement ?? {}, network.hosts)
    const input = {
      manifest,
      plan,
      replace: order.replace ?? false,
      endFirst: order.endFirst ?? false,
      maxKnownEpoch: await this.#catalogue.maxEpoch(network.name),
      deadlineMs: order.deadlineMs ?? restoreDeadlineMs,
    }
    const outside = outsidePorts(network)
    const outcome = await runRestore(input, this.#runOptions(network, report))
    const { name } = manifest
    if (outcome.kind === 'done') {
      await this.#tellLeft(network, outcome.report.placement)
      const done = { ...outcome.report, cutAtUs: firstCutUs(manifest), outsidePorts: await outside }
      this.#logger.info({ network: network.name, snapshot: name, report: done }, 'snapshot restored')
      return done
    }
    this.#logger.warn({ network: network.name, snapshot: name, error: outcome.error }, 'restore failed')
    throw SnapswitchError.fromReport(outcome.error)
  }

  /** A host that does not hear of it keeps files that nobody needs. */
  async #tellLeft(network: Network, placement: Readonly<Record<string, string>>): Promise<void> {
    await Promise.all(
      network.hosts.map(async (host) => {
        const vms = Object.keys(placement).filter((vm) => placement[vm] !== host)
        if (vms.length === 0) return
        await network.agents.left(host, { vms }, { timeoutMs: leftCallMs }).catch((error: unknown) => {
          this.#logger.warn({ err: error, host, vms }, 'files of machines that live elsewhere now may stay there')
        })
      }),
    )
  }

  /** Checks a snapshot that was recorded. Nothing else may be done in the network meanwhile. */
  async audit(networkName: string, name: string): Promise<AuditReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    return this.#exclusively(network.name, `audit of ${name}`, null, async () => {
      const manifest = await this.#catalogue.read(network.name, name)
      const report = await auditSnapshot(manifest, { agents: network.agents, signal: this.#stopping.signal })
      this.#logger.info({ network: network.name, snapshot: name, verdict: report.verdict }, 'snapshot audited')
      return report
    })
  }

  /** The frames that a snapshot found on their way. Changes nothing, and waits for nobody. */
  async frames(networkName: string, name: string): Promise<SnapshotFrames> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    const manifest = await this.#catalogue.read(network.name, name)
    return framesOf(manifest, { agents: network.agents, signal: this.#stopping.signal })
  }

  async delete(networkName: string, name: string): Promise<DeleteReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    return this.#exclusively(network.name, `delete of ${name}`, null, async () => {
      const options = { catalogue: this.#catalogue, clock: this.#clock, logger: this.#logger }
      const report = await deleteSnapshot(network, name, options)
      this.#logger.info({ network: network.name, snapshot: name }, 'snapshot deleted')
      return report
    })
  }

  /** Copies each disk's chain of images into one. Nothing else may be done in the network meanwhile. */
  async flatten(networkName: string, name: string): Promise<FlattenReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    return this.#exclusively(network.name, `flattening of ${name}`, null, async () => {
      const manifest = await this.#catalogue.read(network.name, name)
      const options = { signal: this.#stopping.signal, write: (changed: Manifest) => this.#catalogue.write(changed) }
      const report = await flattenSnapshot(network, manifest, options)
      this.#logger.info({ network: network.name, snapshot: name, report }, 'snapshot flattened')
      return report
    })
  }

  /** Looks at every file of a snapshot. Changes nothing, and holds nothing up. */
  async verify(networkName: string, name: string, { quick }: VerifyRequest): Promise<VerifyReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    const manifest = await this.#catalogue.read(network.name, name)
    const options = { network, quick: quick === true, signal: this.#stopping.signal }
    const report = await verifySnapshot(manifest, options)
    this.#logger.info({ network: network.name, snapshot: name, health: report.health.verdict }, 'snapshot verified')
    return report
  }

  /** `manifests` with the health of their files: the hosts are asked, for a few seconds at most. */
  async withHealth(manifests: readonly Manifest[]): Promise<Manifest[]> {
    const health = await quickHealth(manifests, await this.#known())
    return manifests.map((manifest) => ({ ...manifest, health: health.get(manifest) ?? null }))
  }

  /** Removes what failed snapshots have left, and what nobody needs on the hosts. */
  async prune(order: PruneOrder): Promise<PruneReport> {
    const networks = order.network === undefined ? await this.#allNetworks() : [await this.#network(order.network)]
    const manifests = (await this.#catalogue.list()).flatMap(({ manifest }) => manifest ?? [])
    return prune(networks, order, { manifests, finish: (network, name) => this.delete(network.name, name) })
  }

  /** Oldest first. A manifest that cannot be read appears as a failed one that says so. */
  async list(): Promise<Manifest[]> {
    const found = await this.#catalogue.list()
    return found.map(
      ({ network, name, manifest, error }) => manifest ?? unreadable(network, name, this.#version, error),
    )
  }

  async show(network: string, name: string): Promise<Manifest> {
    await this.#network(network)
    return this.#catalogue.read(network, name)
  }

  /** Asks every host; one that does not answer is shown as unreachable, within 3 s. */
  async status(): Promise<CoordinatorStatus> {
    const networks = await Promise.all(
      (await this.#allNetworks()).map(async (network) => ({
        name: network.name,
        busy: this.#locks.holder(network.name),
        hosts: await Promise.all(network.hosts.map((host) => hostStatus(network, host))),
      })),
    )
    return { version: this.#version, pid: process.pid, embedded: this.#embedded, networks }
  }

  /** Calls off what is under way, waits for it to be undone (bounded), and lets go of the hosts. */
  async stop(graceMs = 60_000): Promise<void> {
    const reason = new SnapswitchError(
      'SNAPSHOT_DISCARDED',
      'the coordinator is being stopped',
      'Start it and try again.',
    )
    this.#stopping.abort(reason)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, graceMs)
    })
    await Promise.race([Promise.allSettled([...this.#running]), late])
    clearTimeout(timer)
    await this.#networks.close()
  }

  async #known(): Promise<ReadonlyMap<string, Network>> {
    await this.#networks.refresh()
    return this.#networks.all()
  }

  async #allNetworks(): Promise<Network[]> {
    return [...(await this.#known()).values()]
  }

  async #network(name: string): Promise<Network> {
    const all = await this.#known()
    const network = all.get(name)
    if (network !== undefined) return network
    throw unknownNetwork('the coordinator', name, [...all.keys()])
  }

  /** Whether it makes way for another one now: nothing may be under way. Throws SNAPSHOT_BUSY, REQUEST_INVALID. */
  checkStepAside(): void {
    if (!this.#embedded) {
      throw new SnapswitchError(
        'REQUEST_INVALID',
        'this coordinator was started by itself, and makes way for none',
        'Stop it first.',
      )
    }
    if (this.#running.size > 0) {
      const message = 'the coordinator inside `snapswitch switch` has work under way'
      throw new SnapswitchError('SNAPSHOT_BUSY', message, 'Try again when it has ended.')
    }
  }

  async #exclusively<T>(network: string, what: string, waitMs: number | null, act: () => Promise<T>): Promise<T> {
    if (this.#stopping.signal.aborted) throw this.#stopping.signal.reason
    const release = await this.#locks.acquire(network, what, waitMs)
    const running = act().finally(release)
    this.#running.add(running)
    try {
      return await running
    } finally {
      this.#running.delete(running)
    }
  }

  /** None of them may be busy: whoever waited while holding one could be waited for. */
  #exclusivelyAll<T>(networks: readonly string[], what: string, act: () => Promise<T>): Promise<T> {
    const [first, ...others] = networks
    if (first === undefined) return act()
    return this.#exclusively(first, what, null, () => this.#exclusivelyAll(others, what, act))
  }

  #runOptions(network: Network, report: ReportProgress): RunOptions {
    const onProgress: OnProgress = (progress) => {
      this.#logger.debug({ network: network.name, ...progress }, progress.text)
      report({ type: 'step', ...progress })
    }
    return { agents: network.agents, clock: this.#clock, onProgress, signal: this.#stopping.signal }
  }

  /** One more try for hosts that could not be told to discard something; they may be back. */
  async #retryDiscards(network: string): Promise<void> {
    for (const { manifest } of await this.#catalogue.list()) {
      if (manifest?.network === network && isUnfinished(manifest)) await this.#discardLeftover(manifest, 1)
    }
  }

  async #discardLeftover(manifest: Manifest, attempts: number): Promise<void> {
    const network = this.#networks.all().get(manifest.network)
    const log = this.#logger.child({ network: manifest.network, snapshot: manifest.name })
    if (network === undefined) return log.warn('unfinished snapshot of a network that is no longer configured')
    const { agents, hosts } = network
    await discardLeftover(manifest, {
      agents,
      hosts,
      attempts,
      clock: this.#clock,
      logger: log,
      write: (failed) => this.#catalogue.write(failed),
      stopping: this.#stopping.signal,
    })
  }
}

/** The instant that a restore goes back to: what machines have done since is undone. */
function firstCutUs(manifest: Manifest): number {
  const cuts = manifest.parts.flatMap((part) => part.members.map((member) => member.cutAtUs))
  return cuts.length === 0 ? Date.parse(manifest.createdAt) * 1000 : Math.min(...cuts)
}

/**
 * The other networks of its machines: a restore of one of those could load the same machine on another host meanwhile.
 */
function othersOf(manifest: Manifest): string[] {
  const ports = manifest.parts.flatMap((part) => part.members.flatMap((member) => member.ports))
  const networks = new Set(ports.flatMap(({ network }) => network ?? []))
  networks.delete(manifest.network)
  return [...networks]
}
