// Files of snapshots by their content. What was fetched from other hosts lies in one place, <state>/images/<digest>,
// and <digest>.g<group> for machines of further groups; other files lie where this host's parts say. One content may
// lie under several paths, and a path of another host means nothing here until the content has been looked at.

import { createHash } from 'node:crypto'
import { chmodSync, chownSync, constants, createWriteStream, type ReadStream, statSync } from 'node:fs'
import { chmod, chown, copyFile, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { contentOf, filesOf } from '../../src/api/files.js'
import type { FileReference, LocalPart } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Digests } from '../../src/files/digests.js'
import { makeDirectory, storeError, syncFile } from '../../src/files/durable.js'
import { openPlain } from '../../src/files/plain.js'
import { isRoot } from '../../src/hypervisor/shared/as-user.js'

/** Files are the daemon's alone; QEMU under a user of its own passes through to those that libvirt makes over to it. */
export const directoryMode = 0o711

/** How well a file is looked at: by its size, by its digest, or by its digest though it was computed before. */
export type Look = 'size' | 'digest' | 'content'

/** The date of copies that nothing keeps but those who use them. */
export const released = new Date(0)

/** A copy's name: its content, and the group that it was made for when another had the first one. */
const copyName = /^([0-9a-f]{64})(\.g\d+)?$/
const groupCanRead = 0o040

/** How many files are remembered to have been found. */
const FOUND_LIMIT = 10_000

export class Images {
  readonly #state: string
  readonly #digests: Digests
  readonly #parts: () => Promise<LocalPart[]>
  /** Where a content was found last. */
  readonly #found = new Map<string, string>()
  /** Copies that are being made for a group: two machines of one share it. */
  readonly #copying = new Map<string, Promise<string>>()

  constructor(state: string, digests: Digests, parts: () => Promise<LocalPart[]>) {
    this.#state = state
    this.#digests = digests
    this.#parts = parts
  }

  /** Where files that were fetched lie. */
  get directory(): string {
    return join(this.#state, 'images')
  }

  /** Looks for several files: what this host has of paths is read once. The answer is `find` for one of them. */
  async finder(how: Look = 'digest'): Promise<(file: FileReference) => Promise<string | null>> {
    const named = new Map<string, Set<string>>()
    for (const part of await this.#parts()) {
      for (const file of filesOf(part)) {
        const paths = named.get(contentOf(file)) ?? new Set()
        named.set(contentOf(file), paths.add(file.path))
      }
    }
    const fetched = await this.#fetchedBefore()
    return (file) => this.#look(file, named.get(contentOf(file)) ?? new Set(), fetched, how)
  }

  /** Where a file lies on this host with the right content; null when it does not. */
  async find(file: FileReference): Promise<string | null> {
    return (await this.finder())(file)
  }

  async #look(
    file: FileReference,
    named: ReadonlySet<string>,
    fetched: readonly string[],
    how: Look,
  ): Promise<string | null> {
    // Its own path first, where this host's parts name it: that is the file itself, and no copy.
    const own = named.has(file.path) ? [file.path] : []
    const places = new Set([
      ...own,
      join(this.directory, file.digest),
      ...named,
      ...fetched.map((directory) => join(directory, file.digest)),
      file.path,
    ])
    for (const path of places) {
      if (!(await this.#holds(path, file, how))) continue
      if (how === 'size') return path
      if (this.#found.size >= FOUND_LIMIT) this.#found.delete(this.#found.keys().next().value as string)
      this.#found.set(contentOf(file), path)
      return path
    }
    if (how !== 'size') this.#found.delete(contentOf(file))
    return null
  }

  async #holds(path: string, file: FileReference, how: Look): Promise<boolean> {
    const here = await stat(path).catch(() => null)
    if (here === null || !here.isFile() || here.size !== file.bytes) return false
    if (how === 'size') return true
    // One that cannot be read, or goes meanwhile, is as good as none.
    const digest = how === 'content' ? this.#digests.read(path) : this.#digests.of(path)
    return (await digest.catch(() => null)) === file.digest
  }

  /** Former versions kept what they had fetched with each snapshot. */
  async #fetchedBefore(): Promise<string[]> {
    const root = join(this.#state, 'snapshots')
    const directories: string[] = []
    for (const network of await readdir(root).catch(() => [])) {
      for (const snapshot of await readdir(join(root, network)).catch(() => [])) {
        const directory = join(root, network, snapshot, 'files')
        if ((await stat(directory).catch(() => null)) !== null) directories.push(directory)
      }
    }
    return directories
  }

  /**
   * Opens a file that this host has said it has, or that its part of the snapshot names. The content is not looked at
   * again: whoever takes it does. Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED.
   */
  async openFile(network: string, snapshot: string, digest: string): Promise<{ stream: ReadStream; bytes: number }> {
    const path = await this.#whereIs(network, snapshot, digest)
    try {
      const handle = await openPlain(path, 'image')
      const { size } = await handle.stat()
      return { stream: handle.createReadStream({ highWaterMark: 1 << 20 }), bytes: size }
    } catch (thrown) {
      throw storeError(`cannot read ${path}`, thrown)
    }
  }

  async #whereIs(network: string, snapshot: string, digest: string): Promise<string> {
    for (const [content, path] of this.#found) if (content.startsWith(`${digest}:`)) return path
    const parts = (await this.#parts()).filter((part) => part.network === network && part.snapshot === snapshot)
    const file = parts.flatMap(filesOf).find((one) => one.digest === digest)
    if (file === undefined) {
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `no file ${digest} in ${network}/${snapshot} here`,
        'Ask the host that the manifest names.',
      )
    }
    const path = await this.find(file)
    if (path !== null) return path
    throw new SnapswitchError(
      'STORE_DAMAGED',
      `${file.path} is missing or was changed since the snapshot`,
      'Bring the file back, or use another snapshot.',
    )
  }

  /** Whether a copy of this content is here, and nobody has said that no snapshot has it. */
  async keeps(digest: string): Promise<boolean> {
    const here = await stat(join(this.directory, digest)).catch(() => null)
    return here !== null && here.mtimeMs !== released.getTime()
  }

  /**
   * No snapshot has these contents any more, or this host's own part keeps them: nothing else does from now on. A copy
   * is dated to say so; one that is fetched anew is new.
   */
  async release(digests: readonly string[]): Promise<void> {
    const gone = new Set(digests)
    for (const name of await readdir(this.directory).catch(() => [])) {
      const digest = copyName.exec(name)?.[1]
      if (digest === undefined || !gone.has(digest)) continue
      await utimes(join(this.directory, name), released, released).catch(() => undefined)
    }
  }

  /**
   * Where a group can read a file. A copy is let be read by the first group that wants it; another gets one of its own
   * beside it. Other files stay as they are. Not everybody may read a copy: the process list tells all users what it is
   * called. Throws STORE_FULL, STORE_IO.
   */
  async share(path: string, gid: number): Promise<string> {
    // A daemon that is not root's starts all machines as itself.
    if (dirname(path) !== this.directory || !isRoot()) return path
    try {
      // Nothing comes between the look and the change: machines are loaded beside each other.
      const { gid: group, mode } = statSync(path)
      const isTaken = (mode & groupCanRead) !== 0
      if (isTaken && group !== gid) return await this.#copyOnce(path, gid)
      if (!isTaken) {
        chownSync(path, 0, gid)
        chmodSync(path, 0o640)
      }
      return path
    } catch (thrown) {
      throw storeError(`cannot let group ${gid} read ${path}`, thrown)
    }
  }

  #copyOnce(path: string, gid: number): Promise<string> {
    const [, digest = basename(path)] = copyName.exec(basename(path)) ?? []
    const copy = join(this.directory, `${digest}.g${gid}`)
    const made = this.#copying.get(copy) ?? this.#copyFor(path, copy, digest, gid)
    this.#copying.set(copy, made)
    return made.finally(() => this.#copying.delete(copy))
  }

  /** It is kept as long as the one that it was made from: until no snapshot has the content. */
  async #copyFor(path: string, copy: string, digest: string, gid: number): Promise<string> {
    if ((await this.#digests.of(copy).catch(() => null)) === digest) return copy
    const temporary = `${copy}.${process.hrtime.bigint()}.new`
    try {
      await copyFile(path, temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
      await chown(temporary, 0, gid)
      await chmod(temporary, 0o640)
      await syncFile(temporary)
      await rename(temporary, copy)
      await syncFile(this.directory)
      return copy
    } finally {
      await rm(temporary, { force: true })
    }
  }

  /** Keeps an uploaded file when its content is what its name says. */
  async receive(digest: string, content: Readable): Promise<void> {
    const { directory } = this
    const temporary = join(directory, `${digest}.${process.hrtime.bigint()}.new`)
    const hash = createHash('sha256')
    const hashing = new Transform({
      transform(chunk: Uint8Array, _encoding, done) {
        hash.update(chunk)
        done(null, chunk)
      },
    })
    try {
      await makeDirectory(directory, directoryMode)
      await pipeline(content, hashing, createWriteStream(temporary, { flags: 'wx', mode: 0o600 }))
      if (hash.digest('hex') !== digest) {
        throw new SnapswitchError(
          'STORE_DAMAGED',
          `what was sent is not the file ${digest}`,
          'The file is damaged on its host, or was cut off: try again, or use another snapshot.',
        )
      }
      const handle = await open(temporary, 'r')
      await handle.sync().finally(() => handle.close())
      await rename(temporary, join(directory, digest))
      await syncFile(directory)
    } catch (thrown) {
      await rm(temporary, { force: true }).catch(() => undefined)
      throw storeError(`cannot keep ${digest}`, thrown)
    }
  }
}
