// One host's share of the catalogue, on disk. What is beside the snapshots is kept by host-records.ts (epochs, fences,
// members), journal.ts (cut.json and what comes after it, restores) and disks/records.ts (disks.json).
//
// docs/reference/files.md lists what there is. Of a snapshot part.json is written last: a directory without it is
// unfinished, but with `complete`, which is written later and removed before. Beside them lies files/<digest>, which
// former versions have fetched from other hosts.

import { createHash } from 'node:crypto'
import { open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type FileReference, LocalPart } from '../../src/api/schemas.js'
import { validator } from '../../src/api/validate.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { Digests } from '../../src/files/digests.js'
import { freeBytes, makeDirectory, storeError, syncFile, writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'
import { readPlain } from '../../src/files/plain.js'
import { lockDirectory } from '../../src/linux/directory-lock.js'
import { directoryMode, Images } from './images.js'

const fitsPart = validator(LocalPart)
/** What part.json is called once the snapshot is being deleted. */
const removing = 'part.removing.json'
/** Beside a part.json that was written: one that is missing then is lost, and what it names is no rubbish. */
export const completeMark = 'complete'
/** In `files` of a snapshot that is deleted: they stay for as long as somebody uses them. */
export const leftBehind = 'left-behind'

export class LocalStore {
  /** Files by their content. */
  readonly images: Images
  readonly state: string
  readonly #digests = new Digests()

  constructor(state: string) {
    this.state = state
    this.images = new Images(state, this.#digests, () => this.parts())
  }

  /** Throws DEVICE_BUSY when another daemon's records are there, STORE_IO. */
  async open(): Promise<void> {
    try {
      await makeDirectory(join(this.state, 'snapshots'), directoryMode)
      await makeDirectory(join(this.state, 'machines'), directoryMode)
      lockDirectory(this.state)
    } catch (thrown) {
      throw storeError(`cannot use the state directory ${this.state}`, thrown)
    }
  }

  freeBytes(): Promise<number> {
    return freeBytes(this.state)
  }

  // --- snapshots -----------------------------------------------------------------------------------------------------

  directory(network: string, snapshot: string): string {
    return join(this.state, 'snapshots', network, snapshot)
  }

  /**
   * Makes the directories of a new snapshot. Throws SNAPSHOT_EXISTS when a finished one is there; remains of an
   * unfinished one go.
   */
  async create(network: string, snapshot: string, host: string, machines: readonly string[]): Promise<void> {
    if ((await this.readPart(network, snapshot)) !== null) {
      throw new SnapswitchError(
        'SNAPSHOT_EXISTS',
        `${network}/${snapshot} exists on this host already`,
        'Choose another name. `snapswitch snapshot list` says what has this one.',
      )
    }
    const directory = this.directory(network, snapshot)
    try {
      // What restores have fetched stays: machines may stand on it.
      await clear(directory, (path) => path.startsWith(join(directory, 'files')))
      await makeDirectory(join(directory, 'hosts', host), directoryMode)
      for (const vm of machines) await makeDirectory(join(directory, 'vms', vm), directoryMode)
    } catch (thrown) {
      throw storeError(`cannot make ${directory}`, thrown)
    }
  }

  machineImages(network: string, snapshot: string, vm: string): string {
    return join(this.directory(network, snapshot), 'vms', vm)
  }

  async writeFile(
    network: string,
    snapshot: string,
    name: string,
    content: Uint8Array | string,
  ): Promise<FileReference> {
    const path = join(this.directory(network, snapshot), name)
    await writeDurable(path, content)
    const bytes = Buffer.from(content as Uint8Array)
    return { path, bytes: bytes.length, digest: createHash('sha256').update(bytes).digest('hex') }
  }

  /** The same for a long one; between two pieces others have their turn. Throws STORE_FULL, STORE_IO. */
  async writePieces(
    network: string,
    snapshot: string,
    name: string,
    pieces: Iterable<Uint8Array>,
  ): Promise<FileReference> {
    const path = join(this.directory(network, snapshot), name)
    const hash = createHash('sha256')
    let bytes = 0
    try {
      // Nobody else's file is written to.
      await rm(path, { force: true })
      const file = await open(path, 'wx', 0o600)
      try {
        for (const piece of pieces) {
          hash.update(piece)
          bytes += piece.length
          await file.writeFile(piece)
        }
        await file.sync()
      } finally {
        await file.close()
      }
      await syncFile(join(path, '..'))
    } catch (thrown) {
      throw storeError(`cannot write ${path}`, thrown)
    }
    return { path, bytes, digest: hash.digest('hex') }
  }

  /** One that `images` has found, of at most `limit` bytes. */
  readFile(path: string, limit: number): Promise<Uint8Array> {
    return readPlain(path, limit)
  }

  async reference(path: string, signal?: AbortSignal): Promise<FileReference> {
    try {
      return { path, bytes: (await stat(path)).size, digest: await this.#digests.of(path, signal) }
    } catch (thrown) {
      throw storeError(`cannot read ${path}`, thrown)
    }
  }

  async writePart(part: LocalPart): Promise<void> {
    const directory = this.directory(part.network, part.snapshot)
    await writeDurable(join(directory, 'part.json'), JSON.stringify(part, null, 2))
    await writeDurable(join(directory, completeMark), '')
  }

  /** Call at a start: a daemon that was killed, or a former version, has written parts and no marks. */
  async markParts(): Promise<void> {
    for (const { network, snapshot } of await this.snapshots()) {
      const names = await namesIn(this.directory(network, snapshot))
      if (names.includes('part.json') && !names.includes(completeMark))
        await writeDurable(join(this.directory(network, snapshot), completeMark), '')
    }
  }

  /** null: no such snapshot, an unfinished one, or one that is being deleted. Throws STORE_DAMAGED. */
  async readPart(network: string, snapshot: string): Promise<LocalPart | null> {
    const directory = this.directory(network, snapshot)
    const path = join(directory, 'part.json')
    const part = await readJson(path, fitsPart)
    if (part !== null) return part
    // What removes a part takes the mark away first, or has given the part its other name.
    const names = await namesIn(directory)
    if (!names.includes(completeMark) || names.includes(removing)) return null
    throw new SnapswitchError(
      'STORE_DAMAGED',
      `${path} is missing, and the snapshot was complete`,
      'Bring it back from a backup, or delete the snapshot.',
    )
  }

  /** A finished part, with all that was written down of it as it was. Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED. */
  async partAsWritten(network: string, snapshot: string): Promise<LocalPart> {
    const part = await this.readPart(network, snapshot)
    if (part === null) {
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `no finished part of ${network}/${snapshot} here`,
        'Ask a host that the manifest names.',
      )
    }
    for (const { vm, definition } of part.members) {
      const path = join(this.directory(network, snapshot), 'vms', vm, 'definition.json')
      const found = await readJson(path, (value): value is unknown => isDeepStrictEqual(value, definition))
      if (found === null)
        throw new SnapswitchError('STORE_DAMAGED', `${path} is missing`, 'Bring it back from a backup.')
    }
    return part
  }

  /** All finished parts of this host that can be read. */
  async parts(): Promise<LocalPart[]> {
    return (await this.allParts()).parts
  }

  /** The finished parts of this host, and the paths of those that cannot be read: what they need is not known. */
  async allParts(): Promise<{ parts: LocalPart[]; damaged: string[] }> {
    const parts: LocalPart[] = []
    const damaged: string[] = []
    for (const { network, snapshot } of await this.snapshots()) {
      try {
        const part = await this.readPart(network, snapshot)
        if (part !== null) parts.push(part)
      } catch {
        damaged.push(join(this.directory(network, snapshot), 'part.json'))
      }
    }
    return { parts, damaged }
  }

  /** Of all snapshots that have a directory here, whatever is in it. */
  async snapshots(): Promise<{ network: string; snapshot: string }[]> {
    const root = join(this.state, 'snapshots')
    const networks = await directoriesIn(root)
    const found = await Promise.all(
      networks.map(async (network) =>
        (await directoriesIn(join(root, network))).map((snapshot) => ({ network, snapshot })),
      ),
    )
    return found.flat()
  }

  /**
   * From here on the snapshot is one that is being deleted, also for the next daemon: it cannot be restored, and
   * protects no file. All that only it needs may go.
   */
  async beginRemoval(network: string, snapshot: string): Promise<void> {
    const directory = this.directory(network, snapshot)
    try {
      if ((await this.readPart(network, snapshot)) !== null)
        await rename(join(directory, 'part.json'), join(directory, removing))
      await syncFile(directory)
      await clear(directory, (path) => path === join(directory, removing) || path.startsWith(join(directory, 'files')))
    } catch (thrown) {
      throw storeError(`cannot begin to remove ${directory}`, thrown)
    }
  }

  /** What is being deleted and not gone yet. */
  async removals(): Promise<LocalPart[]> {
    const found = await Promise.all(
      (await this.snapshots()).map(({ network, snapshot }) => this.removal(network, snapshot).catch(() => null)),
    )
    return found.filter((part) => part !== null)
  }

  /** The part that is being deleted; null when none of that name is. */
  removal(network: string, snapshot: string): Promise<LocalPart | null> {
    return readJson(join(this.directory(network, snapshot), removing), fitsPart)
  }

  /**
   * Removes all of a snapshot but copies for restores that `keep` names; those are marked as nobody's but theirs who
   * use them. Without `keep` all copies stay: machines may stand on them.
   */
  async remove(network: string, snapshot: string, keep: ReadonlySet<string> | null = null): Promise<void> {
    const directory = this.directory(network, snapshot)
    try {
      // The mark and part.json first: from then on the rest is rubbish that the next `create` clears.
      await rm(join(directory, completeMark), { force: true })
      await rm(join(directory, 'part.json'), { force: true })
      const kept = await clear(directory, (path) => keep?.has(path) ?? path.startsWith(join(directory, 'files')))
      if (kept && keep !== null) await writeDurable(join(directory, 'files', leftBehind), '')
      if (!kept) await rm(directory, { recursive: true, force: true })
    } catch (thrown) {
      throw storeError(`cannot remove ${directory}`, thrown)
    }
  }

  // --- restored machines ---------------------------------------------------------------------------------------------

  machineDirectory(vm: string, epoch: number): string {
    return join(this.state, 'machines', vm, `e${epoch}`)
  }

  /** One that is not there: what a restore that was undone could not end may be at work in another. */
  async freeMachineDirectory(vm: string, epoch: number): Promise<string> {
    const first = this.machineDirectory(vm, epoch)
    for (let nth = 2, directory = first; ; directory = `${first}-${nth++}`) {
      const names = await namesIn(directory)
      if (names.length === 0) return directory
    }
  }

  async removeMachineDirectory(directory: string): Promise<void> {
    await rm(directory, { recursive: true, force: true })
  }

  async makeMachineDirectory(directory: string): Promise<void> {
    try {
      await rm(directory, { recursive: true, force: true })
      await makeDirectory(directory, directoryMode)
    } catch (thrown) {
      throw storeError(`cannot make ${directory}`, thrown)
    }
  }
}

/** One that cannot be read is no empty one: what it holds would be taken for what nobody needs. Throws STORE_IO. */
async function directoriesIn(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  } catch (thrown) {
    throw storeError(`cannot read ${directory}`, thrown)
  }
}

/** None when there is no such directory. */
export const namesIn = (directory: string): Promise<string[]> => readdir(directory).catch(() => [])

/** Removes what is below a directory but files that are to stay; true when some did. */
async function clear(directory: string, stays: (path: string) => boolean): Promise<boolean> {
  let kept = false
  for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
    const path = join(directory, entry.name)
    if (stays(path)) kept = true
    else if (entry.isDirectory() && (await clear(path, stays))) kept = true
    else await rm(path, { recursive: true, force: true })
  }
  return kept
}
