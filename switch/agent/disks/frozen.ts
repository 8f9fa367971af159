// Frozen images, which finished snapshots name, are kept from being written: by a lock that QEMU heeds, and by their
// mode as far as that binds anybody. And a machine that runs on one all the same is noticed.

import type { Logger } from 'pino'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { openPlain, UnfitFile } from '../../../src/files/plain.js'
import type { Disk } from '../../../src/hypervisor/hypervisor.js'
import { ImageLock } from '../../../src/linux/image-lock.js'
import type { Host } from '../host.js'
import { giveBack, isOneFile, take, takenFrom } from './image-mode.js'
import { FileNames } from './names.js'
import type { DiskRecords } from './records.js'

export class FrozenImages {
  readonly #records: DiskRecords
  readonly #log: Logger
  readonly #locks = new Map<string, ImageLock>()
  /** Told once each. */
  readonly #complained = new Set<string>()

  constructor(records: DiskRecords, log: Logger) {
    this.#records = records
    this.#log = log
  }

  /**
   * From here on these are frozen; `lent` ones are locked only. Others are let go of. When `all` is false there may be
   * more of them: those that were frozen stay so. What cannot be protected is logged.
   */
  async protect(files: ReadonlySet<string>, lent: ReadonlySet<string>, all: boolean): Promise<void> {
    for (const [file, lock] of this.#locks)
      if ((all && !files.has(file) && !lent.has(file)) || !lock.isCurrent) await this.release(file)
    const former = [...this.#records.modes.keys()].filter((file) => !files.has(file))
    if (all) for (const file of former) await this.release(file)
    const frozen = all ? files : new Set([...files, ...former])
    for (const file of new Set([...frozen, ...lent])) {
      try {
        await this.#freeze(file, frozen.has(file))
      } catch (thrown) {
        this.#complain(file, thrown, 'a frozen image cannot be protected')
      }
    }
  }

  /** Before it is merged into, and when no snapshot names it any more. */
  async release(file: string): Promise<void> {
    const lock = this.#locks.get(file)
    const was = this.#records.modes.get(file)
    try {
      // The file that is locked, whatever goes by its name now.
      const isBack = lock !== undefined && was !== undefined && giveBack(lock.fd, was, file)
      this.#unlock(file)
      if (was === undefined) return
      if (!isBack) await this.#giveBackByName(file, was)
    } catch (thrown) {
      this.#unlock(file)
      // Tried again, unless no such file is there.
      if (!isGone(thrown))
        return this.#complain(file, thrown, 'an image that is frozen no more cannot get its mode back')
    }
    await this.#records.noteMode(file, null)
  }

  async #giveBackByName(file: string, was: Parameters<typeof giveBack>[1]): Promise<void> {
    const handle = await openPlain(file)
    try {
      giveBack(handle.fd, was, file)
    } finally {
      await handle.close()
    }
  }

  #unlock(file: string): void {
    this.#locks.get(file)?.release()
    this.#locks.delete(file)
  }

  /** Lets go of all; the files stay read-only for the next daemon. */
  close(): void {
    for (const lock of this.#locks.values()) lock.release()
    this.#locks.clear()
  }

  async #freeze(file: string, readOnly: boolean): Promise<void> {
    const lock = this.#locks.get(file) ?? ImageLock.take(file)
    if (lock === null)
      return this.#complain(file, null, 'a frozen image is being written to: its snapshots are damaged')
    if (!this.#locks.has(file)) this.#complained.delete(file)
    this.#locks.set(file, lock)
    const taken = readOnly ? takenFrom(lock.fd) : null
    if (taken === null) return
    const known = this.#records.modes.get(file)
    if (known === undefined || typeof known === 'number' || !isOneFile(known, taken))
      await this.#records.noteMode(file, taken)
    // It may have been let go of meanwhile.
    if (this.#locks.get(file) === lock) take(lock.fd)
  }

  #complain(file: string, thrown: unknown, text: string): void {
    if (this.#complained.has(file)) return
    this.#complained.add(file)
    if (thrown !== null && (thrown as NodeJS.ErrnoException).code === 'ENOENT') return
    this.#log.warn({ err: thrown ?? undefined, file }, text)
  }
}

/** Nothing that could have been frozen goes by that name. */
const isGone = (thrown: unknown) =>
  thrown instanceof UnfitFile || ['ENOENT', 'ENOTDIR', 'ELOOP'].includes((thrown as NodeJS.ErrnoException).code ?? '')

/** A disk of a machine that is on a frozen image. */
export interface OnFrozen {
  readonly disk: string
  readonly file: string
  /** network/name. */
  readonly snapshot: string
  /** The image that the machine should be on; null when that is not known. */
  readonly right: string | null
}

export async function onFrozen(
  host: Pick<Host, 'store' | 'disks'>,
  vm: string,
  disks: readonly Pick<Disk, 'name' | 'layers'>[],
): Promise<OnFrozen[]> {
  const names = new FileNames()
  const frozen = new Map<string, string>()
  for (const part of await host.store.parts()) {
    for (const { layers } of part.members.flatMap((member) => member.disks))
      for (const { file } of layers) frozen.set(await names.of(file.path), `${part.network}/${part.snapshot}`)
  }
  const found: OnFrozen[] = []
  for (const { name, layers } of disks) {
    const active = layers[0]?.file
    const snapshot = active === undefined ? undefined : frozen.get(await names.of(active))
    if (active === undefined || snapshot === undefined) continue
    const known = host.disks.chains(vm)?.[name]?.[0]?.file ?? null
    const right = known === null || (await names.of(known)) === (await names.of(active)) ? null : known
    found.push({ disk: name, file: active, snapshot, right })
  }
  return found
}

export function diskFrozen(vm: string, { disk, file, snapshot, right }: OnFrozen): SnapswitchError {
  const where = right === null ? 'an overlay that snapswitch put on it' : right
  return new SnapswitchError(
    'DISK_FROZEN',
    `machine ${vm} runs on ${file} (disk ${disk}), which snapshot ${snapshot} has frozen: what it writes there damages the snapshot, and what it wrote after the snapshot is in ${where}`,
    `Shut ${vm} down and start it on the image that \`snapswitch disk path ${vm} ${disk}\` prints, or delete the snapshot.`,
  )
}
