// Keeps this host's image files in order, one job at a time: does what plan.ts decides, merges first, and says what it
// did. It touches nothing of a machine that a snapshot or restore has under way, and lets go of one when that begins.

import { rm } from 'node:fs/promises'
import { unknownMachine } from '../../../src/api/names.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { directoryOf } from '../../../src/hypervisor/drivers.js'
import { isInUseByQemu } from '../../../src/linux/image-lock.js'
import { openFiles } from '../../../src/linux/open-files.js'
import { notRunning } from '../refusals.js'
import { Beginnings } from './beginnings.js'
import { FrozenImages } from './frozen.js'
import { lostFiles } from './lost.js'
import { explain, filesOf, Merges, underWay } from './merges.js'
import type { FileNames } from './names.js'
import { type Observation, type ObservedHost, type ObserveOptions, observe } from './observe.js'
import { checkOffline } from './offline.js'
import { type Collapse, type Kept, type Plan, plan, shortenings } from './plan.js'
import { emptyMachineDirectories, isInUse, wholeDirectories } from './state-files.js'

/** In the background; a guest's own I/O goes on beside it. */
const SHORTENING_BYTES_PER_SECOND = 64 << 20
const ROUNDS = 1000
const TIDY_MS = 600_000
/** What a tidying did, and what it left. */
export interface Tidied {
  readonly removed: readonly string[]
  readonly merged: readonly { readonly vm: string; readonly disk: string; readonly files: readonly string[] }[]
  readonly freedBytes: number
  /** Files of ours that stay though no snapshot needs them. */
  readonly kept: readonly Kept[]
  /** Merges that were tried and failed. */
  readonly failures: readonly { readonly vm: string; readonly disk: string; readonly error: SnapswitchError }[]
}

export interface TidyOptions {
  /** Merge only disks of these machines; left out: of all. */
  readonly vms?: ReadonlySet<string>
  /** Say what would be done. */
  readonly dryRun?: boolean
  /** Remove what left a machine's chain without our doing, too. */
  readonly strays?: boolean
  readonly bytesPerSecond?: number
}

export class DiskKeeper {
  readonly #host: ObservedHost
  /** Machines that a snapshot or restore has under way. */
  readonly #busy: () => ReadonlySet<string>
  readonly #beginnings: Beginnings
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0
  readonly #frozen: FrozenImages
  readonly #merges: Merges
  #closed = false
  #inBackground = false
  readonly #timer: NodeJS.Timeout

  constructor(host: ObservedHost, busy: () => ReadonlySet<string>) {
    this.#host = host
    this.#busy = busy
    this.#beginnings = new Beginnings(busy)
    this.#frozen = new FrozenImages(host.disks, host.log)
    this.#merges = new Merges(host, this.#frozen)
    // For what had to wait, for a machine was off, say.
    this.#timer = setInterval(() => this.soon(), TIDY_MS).unref()
  }

  /** One after the other; what goes on in the background gives way, and is taken up again. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    if (this.#inBackground) void this.#merges.callOff()
    return this.#inTurn(work)
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work)
    this.#last = done.catch(() => undefined)
    return done
  }

  /**
   * Call when a snapshot or restore of machines has begun: a merge of one of them is called off. Returns when it has
   * ended.
   */
  async letGo(vms: Iterable<string>): Promise<void> {
    this.#beginnings.note(vms)
    await this.#merges.callOff(vms)
  }

  /** Whether a disk of the machine is being merged or shortened. A snapshot calls that off. */
  isMerging(vm: string): boolean {
    return this.#merges.isAt(vm)
  }

  /** Tidies soon, in the background. */
  soon(): void {
    if (this.#waiting > 0 || this.#closed) return
    this.#waiting++
    void this.#inTurn(async () => {
      this.#waiting--
      if (this.#closed) return
      this.#inBackground = true
      const { removed, merged, failures } = await this.tidy()
      for (const { vm, disk, error } of failures) this.#host.log.warn({ err: error, vm, disk }, 'a disk stays layered')
      if (removed.length > 0 || merged.length > 0) this.#host.log.info({ removed, merged }, 'disks tidied')
    })
      .catch((thrown) => this.#host.log.error({ err: thrown }, 'cannot tidy the disks'))
      .finally(() => {
        this.#inBackground = false
      })
  }

  /** Nothing begins any more; what is under way is called off. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#timer)
    void this.#merges.callOff()
    await this.#last.catch(() => undefined)
    this.#frozen.close()
  }

  /** Keeps what finished snapshots name from being written. Call when one has come. */
  async protect(): Promise<void> {
    const { frozen, lent, blind } = await this.look({ learn: false })
    await this.#frozen.protect(frozen, lent, blind === null)
  }

  look(options: Partial<Omit<ObserveOptions, 'isQuiet'>> = {}): Promise<Observation> {
    const isQuiet = this.#beginnings.quietSince()
    return observe(this.#host, { isQuiet, learn: true, keepStrays: true, ...options })
  }

  /** Call within `exclusively`. */
  async tidy(options: TidyOptions = {}): Promise<Tidied> {
    const removed: string[] = []
    const merged: Tidied['merged'][number][] = []
    const failures: Tidied['failures'][number][] = []
    const failed = new Set<string>()
    const shortened = new Set<string>()
    let freedBytes = 0
    let kept: readonly Kept[] = []
    for (let round = 0; round < ROUNDS && !this.#closed; round++) {
      const seen = await this.look({ learn: options.dryRun !== true, keepStrays: options.strays !== true })
      const next = plan(seen.world)
      kept = seen.blind === null ? next.kept : next.removals.map((file) => ({ file, reason: seen.blind! }))
      if (seen.blind !== null) break
      const isMine = ({ vm, disk }: Collapse) => (options.vms?.has(vm) ?? true) && !failed.has(`${vm}/${disk}`)
      if (options.dryRun === true) {
        const files = next.collapses.filter(isMine)
        return {
          removed: next.removals,
          merged: files.map((one) => ({ vm: one.vm, disk: one.disk, files: filesOf(one) })),
          freedBytes: next.removals.reduce((sum, file) => sum + seen.names.allocated(file), 0),
          kept,
          failures,
        }
      }
      const before = removed.length
      freedBytes += await this.#remove(seen, next, removed)
      const collapse = next.collapses.find(isMine)
      if (collapse === undefined) {
        // What could not be removed is no reason to try for ever.
        if (removed.length > before) continue
        const long =
          options.vms === undefined
            ? next.shortenings.find((one) => !shortened.has(`${one.vm}/${one.disk}`))
            : undefined
        if (long === undefined) break
        shortened.add(`${long.vm}/${long.disk}`)
        await this.#merges
          .shorten(seen, long, SHORTENING_BYTES_PER_SECOND)
          .catch((error) => this.#host.log.warn({ err: error, vm: long.vm, disk: long.disk }, 'a chain stays long'))
        continue
      }
      // A snapshot has begun and ended since: it may need what would be merged.
      if (!seen.isQuiet(collapse.vm) && !this.#busy().has(collapse.vm)) continue
      try {
        await this.#merges.merge(seen, collapse, options.bytesPerSecond)
        merged.push({ vm: collapse.vm, disk: collapse.disk, files: filesOf(collapse) })
      } catch (thrown) {
        failed.add(`${collapse.vm}/${collapse.disk}`)
        failures.push({ vm: collapse.vm, disk: collapse.disk, error: await explain(seen, collapse, thrown) })
      }
    }
    if (options.dryRun !== true) await this.#sweep()
    return { removed, merged, freedBytes, kept, failures }
  }

  /**
   * What stands against the deletion of a part, before anything is touched: a machine that is busy or cannot be asked,
   * and images that hold more than the guest's data. Throws that.
   */
  async check(network: string, snapshot: string, vms: ReadonlySet<string>): Promise<void> {
    const seen = await this.look({ without: { network, snapshot } })
    if (seen.blind !== null) throw cannotTell(seen.blind)
    const host = this.#host
    const busy = [...vms].find((vm) => this.#busy().has(vm))
    if (busy !== undefined) throw underWay(busy)
    for (const view of seen.world.machines) {
      if (!vms.has(view.vm) || view.state !== 'unclear' || view.disks.length === 0) continue
      if (await host.machines.isThere(view.vm)) throw cannotTell(view.reason ?? `${view.vm} cannot be asked`)
    }
    for (const { vm, disk, live, depth } of plan(seen.world).collapses) {
      if (!vms.has(vm)) continue
      const chain = seen.chainAsNamed(vm, disk)
      if (!live) {
        await checkOffline(chain.slice(0, depth))
        continue
      }
      const deadline = performance.now() + 10_000
      await host.machines.using(vm, deadline, (control) => control.checkCollapse(disk, chain[depth]!.file, deadline))
    }
  }

  async #remove({ names, world }: Observation, { removals }: Plan, removed: string[]): Promise<number> {
    if (removals.length === 0) return 0
    // Once more, for what was opened since it was looked at.
    const { holders, hidden } = await openFiles(new Set(removals.flatMap((file) => names.idOf(file) ?? [])))
    let freed = 0
    for (const file of removals) {
      if (hidden.length > 0 || (holders.get(names.idOf(file) ?? '') ?? []).length > 0) continue
      if (!world.made.has(file) && !world.fetched.has(file)) continue
      // Its own lock is gone with the pin; another host's QEMU on the same file system may have one.
      await this.#frozen.release(file)
      if (isInUseByQemu(file) !== false) continue
      const asked = names.asked(file)
      // A link of the user's to it is the user's.
      for (const name of asked) if (this.#host.disks.isOurs(name)) await rm(name, { force: true })
      await this.#host.disks.forget(asked)
      removed.push(file)
      freed += names.allocated(file)
      this.#host.log.info({ file }, 'removed an image that nobody needs')
    }
    return freed
  }

  /** Makes the chains of a machine's disks as short as they can be, now. Returns how many images left each. */
  flatten(vm: string): Promise<{ disk: string; before: number; after: number }[]> {
    return this.exclusively(async () => {
      const { spec, isThere } = { spec: this.#host.machines.spec(vm), isThere: await this.#host.machines.isThere(vm) }
      if (spec === undefined) throw unknownMachine(this.#host.name, vm, this.#host.machines.names())
      if (this.#busy().has(vm)) throw underWay(vm)
      if (!isThere) throw notRunning(vm, 'off', null)
      await this.tidy({ vms: new Set([vm]) })
      const seen = await this.look()
      const wanted = shortenings(seen.world, 2).filter((one) => one.vm === vm)
      for (const one of wanted) await this.#merges.shorten(seen, one, undefined)
      await this.tidy({ vms: new Set([vm]) })
      return wanted.map(({ disk, chain, depth }) => ({ disk, before: chain.length, after: chain.length - depth + 1 }))
    })
  }

  /** What is left of restored machines and of records when their images are gone. */
  async #sweep(): Promise<void> {
    const host = this.#host
    const seen = await this.look()
    const { frozen, lent, isQuiet, blind } = seen
    for (const { directory, vm } of [
      ...(await emptyMachineDirectories(host.store)),
      ...(await this.#wholeOnes(seen)),
    ]) {
      const spec = host.machines.spec(vm)
      const isUsed = spec !== undefined && directoryOf(spec) === directory
      if (isUsed || !isQuiet(vm) || (await host.journal.restores()).length > 0) continue
      if (await isInUse(directory)) continue
      await rm(directory, { recursive: true, force: true })
    }
    await this.#frozen.protect(frozen, lent, blind === null)
    await host.disks.forget(await lostFiles(host.disks, seen))
  }

  /**
   * Directories of a driver's own files that no snapshot names, and whose machine is known to be elsewhere, or ended.
   */
  async #wholeOnes({ names, world, blind }: Observation): Promise<{ directory: string; vm: string }[]> {
    if (blind !== null) return []
    const found: { directory: string; vm: string }[] = []
    for (const one of await wholeDirectories(this.#host.store)) {
      const name = await names.of(one.directory)
      const isPinned = [...world.pins.keys()].some((file) => file.startsWith(`${name}/`))
      if (!isPinned && (one.ended || (await this.#isElsewhere(one.vm, names)))) found.push(one)
    }
    return found
  }

  async #isElsewhere(vm: string, names: FileNames): Promise<boolean> {
    const spec = this.#host.machines.spec(vm)
    const own = spec === undefined ? null : directoryOf(spec)
    return spec !== undefined && (own === null || names.exists(await names.of(own)))
  }
}

const cannotTell = (reason: string) =>
  new SnapswitchError(
    'SNAPSHOT_NEEDED',
    `it cannot be told what is needed: ${reason}`,
    'See to that, and delete the snapshot again; nothing was touched.',
  )
