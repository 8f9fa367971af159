// One name for every file, whatever names it goes by: links, hard ones too, and directories reached in several ways.
// What is decided about files (plan.ts) is decided by these.

import { realpath, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { FileId } from '../../../src/linux/open-files.js'

export class FileNames {
  readonly #byPath = new Map<string, string>()
  readonly #byId = new Map<FileId, string>()
  readonly #ids = new Map<string, FileId>()
  readonly #sizes = new Map<string, number>()
  readonly #regular = new Set<string>()
  readonly #others = new Map<string, Set<string>>()
  readonly #gone = new Set<string>()

  async of(path: string): Promise<string> {
    const known = this.#byPath.get(path)
    if (known !== undefined) return known
    const name = await this.#resolve(path)
    this.#byPath.set(path, name)
    const others = this.#others.get(name) ?? new Set()
    this.#others.set(name, others.add(path))
    return name
  }

  async all(paths: Iterable<string>): Promise<Set<string>> {
    const found = new Set<string>()
    for (const path of paths) found.add(await this.of(path))
    return found
  }

  /** The names that were asked for and mean this file. */
  asked(name: string): string[] {
    return [...(this.#others.get(name) ?? [])]
  }

  exists(name: string): boolean {
    return this.#ids.has(name)
  }

  /** There is no file of that name now. One that cannot be looked at may be there all the same. */
  isGone(name: string): boolean {
    return this.#gone.has(name)
  }

  /** A device or pipe is none, and may not even be opened. */
  isRegular(name: string): boolean {
    return this.#regular.has(name)
  }

  present(): Set<string> {
    return new Set(this.#ids.keys())
  }

  idOf(name: string): FileId | undefined {
    return this.#ids.get(name)
  }

  /** Bytes that the file takes on its disk. */
  allocated(name: string): number {
    return this.#sizes.get(name) ?? 0
  }

  async #resolve(path: string): Promise<string> {
    try {
      const found = await stat(path, { bigint: true })
      const id = `${found.dev}:${found.ino}`
      const name = this.#byId.get(id) ?? (await realpath(path))
      this.#byId.set(id, name)
      this.#ids.set(name, id)
      if (found.isFile()) this.#regular.add(name)
      this.#sizes.set(name, Number(found.blocks) * 512)
      return name
    } catch (thrown) {
      const name = join(await realpath(dirname(path)).catch(() => dirname(path)), basename(path))
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') this.#gone.add(name)
      return name
    }
  }
}
