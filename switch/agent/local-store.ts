// One host's share of the catalogue, on disk. What is beside the snapshots is kept by host-records.ts (epochs, fences, members)
// and journal.ts (cut.json and what comes after it, restores).
//
//   <state>/epochs.json                                  highest epoch per network, written before a cut may begin
//   <state>/fences.json                                  epoch of the last restore per network, likewise
//   <state>/members.json                                 machines and ports that restores brought here or took away
//   <state>/snapshots/<network>/<snapshot>/part.json     written last: a directory without it is an unfinished snapshot
//                                          vms/<vm>/memory.img  definition.json  cut.json  resumed  stuck
//                                          hosts/<host>/channel.pcapng  events.pcapng
//                                          files/<digest>          fetched from other hosts by former versions
//   <state>/images/<digest>                              fetched from other hosts (images.ts)
//   <state>/restores/<network>.json                      a restore under way: what to undo should the daemon be killed
//   <state>/machines/<vm>/e<epoch>/                      overlays, control socket and log of a restored machine

import { createHash } from 'node:crypto'
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type FileReference, LocalPart } from '../../src/api/schemas.js'
import { validator } from '../../src/api/validate.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { Digests } from '../../src/files/digests.js'
import { freeBytes, makeDirectory, storeError, writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'
import { lockDirectory } from '../../src/linux/directory-lock.js'
import { directoryMode, Images } from './images.js'

const fitsPart = validator(LocalPart)

export { filesOf } from '../../src/api/files.js'

export class LocalStore {
  /** Files by their content. */
  readonly images: Images
  private readonly state: string
  private readonly digests = new Digests()

  constructor(state: string) {
    this.state = state
    this.images = new Images(state, this.digests, () => this.parts())
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

  /** Makes the directories of a new snapshot. Throws SNAPSHOT_EXISTS when a finished one is there; remains of an unfinished one go. */
  async create(network: string, snapshot: string, host: string, machines: readonly string[]): Promise<void> {
    if ((await this.readPart(network, snapshot)) !== null) {
      throw new SnapswitchError(
        'SNAPSHOT_EXISTS',
        `${network}/${snapshot} exists on this host already`,
        'Choose another name, or delete that snapshot.',
      )
    }
    const directory = this.directory(network, snapshot)
    try {
      await rm(directory, { recursive: true, force: true })
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

  async reference(path: string): Promise<FileReference> {
    try {
      return { path, bytes: (await stat(path)).size, digest: await this.digests.of(path) }
    } catch (thrown) {
      throw storeError(`cannot read ${path}`, thrown)
    }
  }

  writePart(part: LocalPart): Promise<void> {
    return writeDurable(join(this.directory(part.network, part.snapshot), 'part.json'), JSON.stringify(part, null, 2))
  }

  /** null: no such snapshot, or an unfinished one. Throws STORE_DAMAGED. */
  readPart(network: string, snapshot: string): Promise<LocalPart | null> {
    return readJson(join(this.directory(network, snapshot), 'part.json'), fitsPart)
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

  /** All finished parts of this host. */
  async parts(): Promise<LocalPart[]> {
    const found: LocalPart[] = []
    const root = join(this.state, 'snapshots')
    for (const network of await readdir(root)) {
      for (const snapshot of await readdir(join(root, network))) {
        const part = await this.readPart(network, snapshot).catch(() => null)
        if (part !== null) found.push(part)
      }
    }
    return found
  }

  async remove(network: string, snapshot: string): Promise<void> {
    const directory = this.directory(network, snapshot)
    try {
      // part.json first: from then on the rest is rubbish that the next `create` clears.
      await rm(join(directory, 'part.json'), { force: true })
      await rm(directory, { recursive: true, force: true })
    } catch (thrown) {
      throw storeError(`cannot remove ${directory}`, thrown)
    }
  }

  // --- restored machines ---------------------------------------------------------------------------------------------

  machineDirectory(vm: string, epoch: number): string {
    return join(this.state, 'machines', vm, `e${epoch}`)
  }

  async createMachineDirectory(vm: string, epoch: number): Promise<string> {
    const directory = this.machineDirectory(vm, epoch)
    try {
      await rm(directory, { recursive: true, force: true })
      await makeDirectory(directory, directoryMode)
    } catch (thrown) {
      throw storeError(`cannot make ${directory}`, thrown)
    }
    return directory
  }
}
