// The catalogue on disk: <store>/<network>/<snapshot>/manifest.json. A manifest is written to a temporary file,
// fsynced, renamed into place, and the directories fsynced: a reader sees the old one or the new one whole, also after
// a power cut.

import { open, readdir, rm, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { checkedName, isName } from '../../src/api/names.js'
import { Manifest } from '../../src/api/schemas.js'
import { describeFinding, validator } from '../../src/api/validate.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { makeDirectory, storeError, syncFile, writeDurable } from '../../src/files/durable.js'
import { readPlain } from '../../src/files/plain.js'

const fitsManifest = validator(Manifest)
const manifestLimit = 16 * 1024 * 1024

export interface Listed {
  readonly network: string
  readonly name: string
  /** Null when the manifest cannot be read; then `error` says why. */
  readonly manifest: Manifest | null
  readonly error: SnapswitchError | null
}

/** What the coordinator needs of it. */
export type ManifestStore = Pick<Catalogue, 'list' | 'read' | 'write' | 'remove' | 'maxEpoch'>

export class Catalogue {
  readonly #root: string
  /** Writes go one after the other: two writers of one manifest would race for its temporary file. */
  #writing: Promise<unknown> = Promise.resolve()

  constructor(root: string) {
    this.#root = root
  }

  /** Makes the store's directory and sees that it can be written. Throws STORE_IO. */
  async open(): Promise<void> {
    try {
      await makeDirectory(this.#root, 0o700)
      const probe = join(this.#root, `.probe.${process.pid}`)
      await (await open(probe, 'w')).close()
      await unlink(probe)
    } catch (error) {
      throw storeError(`cannot use the store ${this.#root}`, error)
    }
  }

  /** Durable when it resolves. Throws STORE_FULL, STORE_IO, NAME_INVALID. */
  async write(manifest: Manifest): Promise<void> {
    const directory = this.#directory(manifest.network, manifest.name)
    const written = this.#writing.then(() => writeManifest(directory, manifest))
    this.#writing = written.catch(() => {})
    await written
  }

  /** Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED, STORE_IO, NAME_INVALID. */
  async read(network: string, name: string): Promise<Manifest> {
    const manifest = await readManifest(join(this.#directory(network, name), 'manifest.json'))
    if (manifest === null) {
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `network ${network} has no snapshot ${name}`,
        'See `snapswitch snapshot list`.',
      )
    }
    if (manifest.network !== network || manifest.name !== name) {
      throw damaged(
        join(this.#directory(network, name), 'manifest.json'),
        `it is of ${manifest.network}/${manifest.name}`,
      )
    }
    return manifest
  }

  /** All snapshots, oldest first; a damaged manifest is listed with its error and hides no other. */
  async list(): Promise<Listed[]> {
    const found: Listed[] = []
    for (const network of await directoriesIn(this.#root)) {
      for (const name of await directoriesIn(join(this.#root, network))) {
        try {
          found.push({ network, name, manifest: await this.read(network, name), error: null })
        } catch (error) {
          // A directory without a manifest is what a crash before the first rename leaves.
          if (!(error instanceof SnapswitchError)) throw error
          if (error.code !== 'SNAPSHOT_UNKNOWN') found.push({ network, name, manifest: null, error })
        }
      }
    }
    const created = (entry: Listed) => entry.manifest?.createdAt ?? ''
    return found.sort((a, b) => (created(a) < created(b) ? -1 : created(a) > created(b) ? 1 : 0))
  }

  /** Highest epoch in the manifests of a network; 0 when there are none. */
  async maxEpoch(network: string): Promise<number> {
    const all = await this.list()
    return Math.max(0, ...all.filter((l) => l.network === network).map((l) => l.manifest?.epoch ?? 0))
  }

  /** The manifest goes first, so that no half-deleted snapshot can be read. */
  async remove(network: string, name: string): Promise<void> {
    const directory = this.#directory(network, name)
    const removed = this.#writing.then(async () => {
      try {
        await unlink(join(directory, 'manifest.json'))
        await syncFile(directory)
        await rm(directory, { recursive: true, force: true })
        await syncFile(dirname(directory))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw storeError(`cannot remove ${directory}`, error)
      }
    })
    this.#writing = removed.catch(() => {})
    await removed
  }

  #directory(network: string, name: string): string {
    return join(this.#root, checkedName('network', network), checkedName('snapshot', name))
  }
}

async function writeManifest(directory: string, manifest: Manifest): Promise<void> {
  await writeDurable(join(directory, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  try {
    // The directories themselves may be new.
    await syncFile(dirname(directory))
    await syncFile(dirname(dirname(directory)))
  } catch (error) {
    throw storeError(`cannot write ${directory}`, error)
  }
}

async function readManifest(file: string): Promise<Manifest | null> {
  let text: string
  try {
    text = (await readPlain(file, manifestLimit)).toString('utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw storeError(`cannot read ${file}`, error)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw damaged(file, `it is no JSON (${(error as Error).message})`, error)
  }
  if (fitsManifest(value)) return value
  throw damaged(file, fitsManifest.findings().slice(0, 3).map(describeFinding).join('; '))
}

async function directoriesIn(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true })
    return entries
      .filter((e) => e.isDirectory() && isName(e.name))
      .map((e) => e.name)
      .sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw storeError(`cannot list ${directory}`, error)
  }
}

function damaged(file: string, why: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'STORE_DAMAGED',
    `${file} is damaged: ${why}`,
    'Put the file back from a backup, or delete the snapshot.',
    cause,
  )
}
