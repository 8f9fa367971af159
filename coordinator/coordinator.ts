// What the coordinator can be asked for: create, restore, delete, list, status and the rest.

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
import { unnamed } from './copies.js'
import { deleteSnapshot } from './deletion.js'
import { auditSnapshot } from './evidence.js'
import { flattenSnapshot } from './flattening.js'
import { framesOf } from './frames.js'
import { askHosts, healthFrom, quickHealth, verifySnapshot } from './health.js'
import { forgetFailed, nextName, readIfThere, refuseTaken } from './naming.js'
import { hostStatus, type Network } from './network.js'
import type { Networks } from './networks.js'
import { prune } from './pruning.js'
import { Recovery, unreadable } from './recovery.js'
import { othersOf, restoreDeadlineMs, restoreSnapshot } from './restoring.js'
import { runSnapshot } from './runner.js'
import type { OnProgress, RunOptions } from './sequence-runner.js'
import type { ManifestStore } from './store/catalogue.js'
import { lost, readManifest, withoutManifest } from './strays.js'
import { verifyImages } from './verification.js'
import { Work } from './work.js'

export const createDeadlineMs = 60_000

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
  readonly #work: Work
  readonly #recovery: Recovery

  constructor(options: CoordinatorOptions) {
    this.#catalogue = options.catalogue
    this.#logger = options.logger
    this.#version = options.version
    this.#clock = options.clock ?? systemClock
    this.#work = new Work(this.#clock)
    this.#verify = options.verify ?? false
    this.#networks = options.networks
    this.#embedded = options.embedded ?? false
    const { networks, catalogue, logger } = options
    this.#recovery = new Recovery({ networks, catalogue, logger, work: this.#work, clock: this.#clock })
  }

  /** Puts right what a former coordinator left. Never rejects. */
  recover(): Promise<void> {
    return this.#recovery.recover()
  }

  /** Takes a snapshot. Throws with the reason when it could not be taken; then all machines run on. */
  async create(request: CreateRequest, report: ReportProgress): Promise<Manifest> {
    if (request.name !== undefined) checkedName('snapshot', request.name)
    const deadlineMs = request.deadlineMs ?? createDeadlineMs
    const startedAt = this.#clock.now().ms
    const waitMs = request.wait === true ? deadlineMs : null
    const what = request.name === undefined ? 'a snapshot' : `snapshot ${request.name}`
    return this.#exclusively(request.network, what, waitMs, async (network) => {
      const name = request.name ?? (await nextName(this.#catalogue, network, deadlineMs))
      await refuseTaken(this.#catalogue, network.name, name)
      await this.#recovery.retry(network.name)
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
    asked: RestoreOrder,
    report: ReportProgress,
  ): Promise<RestoreReport> {
    checkedName('snapshot', name)
    const what = `restore of ${networkName}/${name}`
    const { wait, deadlineMs = restoreDeadlineMs } = asked
    const startedAt = this.#clock.now().ms
    return this.#exclusively(networkName, what, wait === true ? deadlineMs : null, async (network) => {
      const waitedMs = wait === true ? this.#clock.now().ms - startedAt : 0
      const order = { ...asked, deadlineMs: Math.max(1, Math.round(deadlineMs - waitedMs)) }
      const manifest = await readManifest(this.#catalogue, network, name)
      return this.#work.exclusivelyAll(othersOf(manifest), what, async () => {
        const maxKnownEpoch = await this.#catalogue.maxEpoch(network.name)
        const run = this.#runOptions(network, report)
        return restoreSnapshot(network, manifest, order, { run, maxKnownEpoch, logger: this.#logger })
      })
    })
  }

  /** Checks a snapshot that was recorded. Nothing else may be done in the network meanwhile. */
  async audit(networkName: string, name: string): Promise<AuditReport> {
    checkedName('snapshot', name)
    return this.#exclusively(networkName, `audit of ${name}`, null, async (network) => {
      const manifest = await readManifest(this.#catalogue, network, name)
      const report = await auditSnapshot(manifest, { agents: network.agents, signal: this.#work.signal })
      this.#logger.info({ network: network.name, snapshot: name, verdict: report.verdict }, 'snapshot audited')
      return report
    })
  }

  /** The frames that a snapshot found on their way. Changes nothing, and waits for nobody. */
  async frames(networkName: string, name: string): Promise<SnapshotFrames> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    const manifest = await readManifest(this.#catalogue, network, name)
    return framesOf(manifest, { agents: network.agents, signal: this.#work.signal })
  }

  async delete(networkName: string, name: string): Promise<DeleteReport> {
    checkedName('snapshot', name)
    return this.#exclusively(networkName, `delete of ${name}`, null, (network) => this.#delete(network, name))
  }

  async #delete(network: Network, name: string): Promise<DeleteReport> {
    const { signal } = this.#work
    const options = { catalogue: this.#catalogue, clock: this.#clock, logger: this.#logger, signal }
    const report = await deleteSnapshot(network, name, options)
    this.#logger.info({ network: network.name, snapshot: name }, 'snapshot deleted')
    return report
  }

  /** Copies each disk's chain of images into one. Nothing else may be done in the network meanwhile. */
  async flatten(networkName: string, name: string): Promise<FlattenReport> {
    checkedName('snapshot', name)
    return this.#exclusively(networkName, `flattening of ${name}`, null, async (network) => {
      const manifest = await readManifest(this.#catalogue, network, name)
      const { signal } = this.#work
      const options = { catalogue: this.#catalogue, clock: this.#clock, logger: this.#logger, signal }
      const report = await flattenSnapshot(network, manifest, options)
      this.#logger.info({ network: network.name, snapshot: name, report }, 'snapshot flattened')
      return report
    })
  }

  /** Looks at every file of a snapshot. Changes nothing, and holds nothing up. */
  async verify(networkName: string, name: string, { quick }: VerifyRequest): Promise<VerifyReport> {
    const network = await this.#network(networkName)
    checkedName('snapshot', name)
    const manifest = await readManifest(this.#catalogue, network, name)
    const options = { network, quick: quick === true, signal: this.#work.signal }
    const report = await verifySnapshot(manifest, options)
    this.#logger.info({ network: network.name, snapshot: name, health: report.health.verdict }, 'snapshot verified')
    return report
  }

  /** With the health of its files: the hosts are asked, for a few seconds at most. */
  async withHealth(manifest: Manifest): Promise<Manifest> {
    const health = await quickHealth([manifest], await this.#known())
    return { ...manifest, health: health.get(manifest) ?? null }
  }

  /** All of them with their health, and those of which the hosts have parts and this coordinator no manifest. */
  async listWithHealth(): Promise<Manifest[]> {
    const before = await this.list()
    const answers = await askHosts(await this.#allNetworks())
    const health = healthFrom(before, answers)
    // One that has been finished meanwhile has a manifest by now.
    const strays = withoutManifest([...before, ...(await this.list())], answers)
    return [
      ...strays.map((stray) => unreadable(stray.network, stray.name, this.#version, lost(stray))),
      ...before.map((manifest) => ({ ...manifest, health: health.get(manifest) ?? null })),
    ]
  }

  /** Removes what failed snapshots have left, and what nobody needs on the hosts. */
  async prune(order: PruneOrder): Promise<PruneReport> {
    const networks = order.network === undefined ? await this.#allNetworks() : [await this.#network(order.network)]
    const manifests = (await this.#catalogue.list()).flatMap(({ manifest }) => manifest ?? [])
    return prune(networks, order, {
      manifests,
      finish: (network, name) => this.#finish(network.name, name),
      unnamed: async (digests) => unnamed(digests, await this.#catalogue.list()),
      clock: this.#clock,
      signal: this.#work.signal,
    })
  }

  /** Removes what is left of a failed snapshot. False: it is gone, or has been taken again. */
  #finish(networkName: string, name: string): Promise<boolean> {
    return this.#exclusively(networkName, `delete of ${name}`, null, async (network) => {
      const now = await readIfThere(this.#catalogue, network.name, name)
      if (now?.state !== 'failed') return false
      await this.#delete(network, name)
      return true
    })
  }

  /** Oldest first. A manifest that cannot be read appears as a failed one that says so. */
  async list(): Promise<Manifest[]> {
    const found = await this.#catalogue.list()
    return found.map(
      ({ network, name, manifest, error }) => manifest ?? unreadable(network, name, this.#version, error),
    )
  }

  async show(network: string, name: string): Promise<Manifest> {
    return readManifest(this.#catalogue, await this.#network(network), name)
  }

  /** Asks every host; one that does not answer is shown as unreachable, within 3 s. */
  async status(): Promise<CoordinatorStatus> {
    const networks = await Promise.all(
      (await this.#allNetworks()).map(async (network) => ({
        name: network.name,
        busy: this.#work.in(network.name),
        hosts: await Promise.all(network.hosts.map((host) => hostStatus(network, host))),
      })),
    )
    return { version: this.#version, pid: process.pid, embedded: this.#embedded, networks }
  }

  /** Calls off what is under way, waits for it to be undone (bounded), and lets go of the hosts. */
  async stop(graceMs = 60_000): Promise<void> {
    await this.#work.stop(graceMs)
    await this.#networks.close()
  }

  /** `act` gets the network as it is when it begins. Throws NETWORK_UNKNOWN, SNAPSHOT_BUSY. */
  async #exclusively<T>(
    name: string,
    what: string,
    waitMs: number | null,
    act: (network: Network) => Promise<T>,
  ): Promise<T> {
    const before = await this.#network(name)
    return this.#work.exclusively(name, what, waitMs, async () =>
      act(waitMs === null ? before : await this.#network(name)),
    )
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
    if (!this.#work.isIdle) {
      const message = 'the coordinator inside `snapswitch switch` has work under way'
      throw new SnapswitchError('SNAPSHOT_BUSY', message, 'Try again when it has ended.')
    }
  }

  #runOptions(network: Network, report: ReportProgress): RunOptions {
    const onProgress: OnProgress = (progress) => {
      this.#logger.debug({ network: network.name, ...progress }, progress.text)
      report({ type: 'step', ...progress })
    }
    return { agents: network.agents, clock: this.#clock, onProgress, signal: this.#work.signal }
  }
}
