// Merging and shortening chains of images, one at a time: with QEMU where the machine runs, by ourselves where it is
// off. What is under way is called off when a snapshot or restore of its machine begins.

import { statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { asSnapswitchError, SnapswitchError } from '../../../src/errors/errors.js'
import type { FrozenImages } from './frozen.js'
import type { Observation, ObservedHost } from './observe.js'
import { mergeOffline } from './offline.js'
import type { Collapse, Shortening } from './plan.js'

/** Merging takes as long as copying does; this is a disk at its slowest. */
const BYTES_PER_SECOND = 1 << 20
const LEAST_MS = 60_000
const ROOM_TO_SHORTEN = 1.2

export class Merges {
  readonly #host: ObservedHost
  readonly #frozen: FrozenImages
  #current: { readonly vm: string; readonly abort: AbortController; readonly ended: Promise<unknown> } | null = null

  constructor(host: ObservedHost, frozen: FrozenImages) {
    this.#host = host
    this.#frozen = frozen
  }

  /** Calls off what is under way: whatever it is, or if it is one of those machines'. Returns when it has ended. */
  async callOff(vms?: Iterable<string>): Promise<void> {
    const current = this.#current
    if (current === null || (vms !== undefined && ![...vms].includes(current.vm))) return
    current.abort.abort(underWay(current.vm))
    await current.ended.catch(() => undefined)
  }

  /** Whether it works on a disk of the machine. */
  isAt(vm: string): boolean {
    return this.#current?.vm === vm
  }

  /** As fast as it goes, unless told. */
  async merge(seen: Observation, collapse: Collapse, bytesPerSecond: number | undefined): Promise<void> {
    const { vm, disk, depth, live } = collapse
    const chain = seen.chainAsNamed(vm, disk)
    const bytes = filesOf(collapse).reduce((sum, file) => sum + seen.names.allocated(file), 0)
    const pace = Math.min(BYTES_PER_SECOND, bytesPerSecond ?? BYTES_PER_SECOND)
    const deadline = performance.now() + LEAST_MS + (bytes / pace) * 1000
    for (const { file } of collapse.chain.slice(0, depth + 1)) await this.#frozen.release(file)
    // From here to where it is known to be under way nothing else gets its turn.
    if (!seen.isQuiet(vm)) throw underWay(vm)
    const abort = new AbortController()
    const work = live
      ? this.#mergeLive(vm, disk, chain, depth, deadline, abort.signal, bytesPerSecond)
      : this.#mergeOff(vm, disk, seen, depth, deadline)
    await this.#during(vm, abort, work)
  }

  async shorten(seen: Observation, one: Shortening, bytesPerSecond: number | undefined): Promise<void> {
    const { vm, disk, depth } = one
    const { machines, disks, log } = this.#host
    const chain = seen.chainAsNamed(vm, disk)
    const between = one.chain.slice(1, depth).map(({ file }) => file)
    const bytes = between.reduce((sum, file) => sum + seen.names.allocated(file), 0)
    const directory = dirname(one.chain[0]!.file)
    const { bavail, bsize } = await statfs(directory)
    if (bavail * bsize < bytes * ROOM_TO_SHORTEN) throw noRoom(vm, disk, directory, bytes, bavail * bsize)
    const deadline = performance.now() + LEAST_MS + (bytes / BYTES_PER_SECOND) * 1000
    const abort = new AbortController()
    const options = { signal: abort.signal, ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }) }
    const base = chain[depth]!.file
    log.info({ vm, disk, base, images: chain.length }, 'shortening a chain of images')
    if (!seen.isQuiet(vm)) throw underWay(vm)
    const work = machines.using(vm, deadline, (control) => control.shorten(disk, base, deadline, options))
    await this.#during(vm, abort, work)
    await disks.replaceDisk(vm, disk, [chain[0]!, ...chain.slice(depth)])
  }

  async #mergeLive(
    vm: string,
    disk: string,
    chain: ReturnType<Observation['chainAsNamed']>,
    depth: number,
    deadline: number,
    signal: AbortSignal,
    bytesPerSecond: number | undefined,
  ): Promise<void> {
    const { disks, machines, log } = this.#host
    const base = chain[depth]!.file
    await disks.noteMerge(vm, disk, base)
    log.info({ vm, disk, base, images: depth }, 'merging images that no snapshot needs')
    const options = { signal, ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }) }
    try {
      await machines.using(vm, deadline, (control) => control.collapse(disk, base, deadline, options))
    } catch (thrown) {
      await disks.endMerge(vm, disk)
      throw thrown
    }
    await disks.replaceDisk(vm, disk, chain.slice(depth))
  }

  async #mergeOff(vm: string, disk: string, seen: Observation, depth: number, deadline: number): Promise<void> {
    const { disks, log } = this.#host
    const chain = seen.chainAsNamed(vm, disk)
    for (let at = 0; at < depth; at++) {
      log.info({ vm, disk, base: chain[at + 1]!.file }, 'merging an image that no snapshot needs, with the machine off')
      await mergeOffline(chain[at]!, chain[at + 1]!, seen.names, deadline)
      await disks.replaceDisk(vm, disk, chain.slice(at + 1))
    }
  }

  async #during(vm: string, abort: AbortController, work: Promise<unknown>): Promise<void> {
    this.#current = { vm, abort, ended: work }
    try {
      await work
    } finally {
      this.#current = null
    }
  }
}

/** The files that leave the chain. */
export const filesOf = ({ chain, depth }: Collapse) => chain.slice(0, depth).map(({ file }) => file)

export const underWay = (vm: string) =>
  new SnapswitchError(
    'SNAPSHOT_BUSY',
    `a snapshot or restore of ${vm} is under way`,
    'Wait until it has ended, then try again.',
  )

const noRoom = (vm: string, disk: string, directory: string, bytes: number, free: number) =>
  new SnapswitchError(
    'STORE_FULL',
    `shortening the chain of ${vm}’s disk ${disk} takes up to ${bytes} bytes in ${directory}, where ${free} are free`,
    'Free some space there, or delete snapshots.',
  )

/** A full disk is named, with what is missing. */
export async function explain(seen: Observation, collapse: Collapse, thrown: unknown): Promise<SnapswitchError> {
  const error = asSnapswitchError(thrown)
  if (error.code !== 'STORE_FULL') return error
  const base = seen.chainAsNamed(collapse.vm, collapse.disk)[collapse.depth]!.file
  const bytes = filesOf(collapse).reduce((sum, file) => sum + seen.names.allocated(file), 0)
  const { bavail, bsize } = await statfs(dirname(base)).catch(() => ({ bavail: 0, bsize: 0 }))
  return new SnapswitchError(
    'STORE_FULL',
    `the file system of ${dirname(base)} is full: merging ${collapse.vm}’s disk ${collapse.disk} into ${base} takes up to ${bytes} bytes there, and ${bavail * bsize} are free`,
    'Free some space there, then delete the snapshot again.',
    error,
  )
}
