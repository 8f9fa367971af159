// What the daemon does with image files besides snapshots and restores: says where machines' disks are, tidies, removes
// parts, tries images.

import type { MachineDisks, Pruned, PruneRequest, Rehearsal, Removal, SwitchStatus } from '../../../src/api/schemas.js'
import type { Deadline } from '../../../src/hypervisor/hypervisor.js'
import type { DaemonHost } from '../host.js'
import { clearRehearsal, rehearse } from '../rehearsal.js'
import { finishRemovals, removePart } from '../removal.js'
import { DiskKeeper } from './keeper.js'
import { prune } from './prune.js'
import { whereDisksAre } from './where.js'

const DISKS_MS = 8000
/** A status must come soon; and one that is asked for often asks nobody. */
const STATUS_MS = 1500
const STATUS_AGE_MS = 5000

export class DiskService {
  readonly keeper: DiskKeeper
  readonly #host: DaemonHost
  readonly #busy: () => ReadonlySet<string>
  #rehearsing: Promise<unknown> = Promise.resolve()
  /** What machines have said of their disks. */
  readonly #asked = new Map<string, { at: number; problems: MachineDisks['problems'] }>()

  /** `busy`: machines that a snapshot or restore has under way. */
  constructor(host: DaemonHost, busy: () => ReadonlySet<string>) {
    this.#host = host
    this.#busy = busy
    this.keeper = new DiskKeeper(host, busy)
  }

  /**
   * At a start, before anything is undone: marks finished snapshots as such, and ends what a killed daemon has left of
   * a throw-away machine. Never rejects.
   */
  async clear(): Promise<void> {
    const { store, log } = this.#host
    await store.markParts().catch((thrown) => log.error({ err: thrown }, 'cannot mark the finished snapshots'))
    await clearRehearsal(this.#host).catch((thrown) => log.error({ err: thrown }, 'cannot end a throw-away machine'))
  }

  /** Finishes deletions that were begun. */
  finish(): Promise<void> {
    return finishRemovals(this.#host, this.keeper)
  }

  letGo(vms: Iterable<string>): Promise<void> {
    return this.keeper.letGo(vms)
  }

  isMerging(vm: string): boolean {
    return this.keeper.isMerging(vm)
  }

  soon(): void {
    this.keeper.soon()
  }

  /** `epoch`: a part that has another one stays; null: whatever has the name goes. */
  remove(network: string, snapshot: string, epoch: number | null): Promise<Removal> {
    return removePart(this.#host, this.keeper, network, snapshot, epoch)
  }

  close(): Promise<void> {
    return this.keeper.close()
  }

  /** Where a machine's disks are now. */
  disksOf(vm: string): Promise<MachineDisks> {
    return whereDisksAre(this.#host, vm, !this.#busy().has(vm), performance.now() + DISKS_MS)
  }

  /**
   * The same in short. A machine that is known to have been snapshot is asked now and then whether it runs on the right
   * image.
   */
  async diskStatus(vm: string): Promise<Pick<SwitchStatus['machines'][number], 'disks' | 'problems'>> {
    const chains = Object.entries(this.#host.disks.chains(vm) ?? {})
    if (chains.length === 0) return {}
    const before = this.#asked.get(vm)
    const isFresh = before !== undefined && performance.now() - before.at < STATUS_AGE_MS
    if (!isFresh && !this.#busy().has(vm)) {
      const deadline = performance.now() + STATUS_MS
      const problems = await whereDisksAre(this.#host, vm, true, deadline).then(
        (answer) => answer.problems,
        () => before?.problems ?? [],
      )
      this.#asked.set(vm, { at: performance.now(), problems })
    }
    const problems = this.#asked.get(vm)?.problems ?? []
    const disks = chains.flatMap(([name, chain]) => (chain[0] === undefined ? [] : [{ name, file: chain[0].file }]))
    return { disks, ...(problems.length === 0 ? {} : { problems }) }
  }

  /** Whether the images of a finished part load. One at a time: there is one place for a throw-away machine. */
  rehearse(network: string, snapshot: string, deadline: Deadline): Promise<Rehearsal> {
    const work = this.#rehearsing.then(() => rehearse(this.#host, this.keeper, network, snapshot, deadline))
    this.#rehearsing = work.catch(() => undefined)
    return work
  }

  /** Removes and merges what nobody needs on this host, and finishes deletions that were begun. */
  async prune(request: PruneRequest): Promise<Pruned> {
    if (request.dryRun !== true) await finishRemovals(this.#host, this.keeper)
    return prune(this.#host, this.keeper, request)
  }
}
