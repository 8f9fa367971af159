// Digests of files, computed once for as long as a file does not change: large images are asked for again and again.

import { type BigIntStats, stat } from 'node:fs'
import { promisify } from 'node:util'
import { aborted } from '../runtime/aborted.js'
import { fileTimeMs } from '../runtime/clock.js'
import { digestFile } from './durable.js'

const statOf = promisify(stat) as (path: string, options: { bigint: true }) => Promise<BigIntStats>

/** How many are remembered; the oldest are forgotten. */
const LIMIT = 20_000
/**
 * A file that was changed within this time before it was read may change again without a new time stamp: the kernel's
 * clock for these ticks every few milliseconds only, and that of a file server may tick more coarsely.
 */
const SETTLED_NS = 2_000_000_000n

interface Computation {
  readonly work: Promise<string>
  readonly abort: AbortController
  /** How many wait for it. */
  waiting: number
}

export class Digests {
  readonly #known = new Map<string, string>()
  /** Being computed: two who ask at once read the file once. */
  readonly #running = new Map<string, Computation>()

  /**
   * sha256, hex. Throws STORE_IO, file system errors, and the signal's reason; the file is read on while somebody else
   * waits for it.
   */
  async of(path: string, signal?: AbortSignal): Promise<string> {
    signal?.throwIfAborted()
    const before = await statOf(path, { bigint: true })
    const key = keyOf(before)
    const found = this.#known.get(key)
    if (found !== undefined) return found
    const one = this.#running.get(key) ?? this.#begin(path, before, key)
    one.waiting++
    try {
      return await (signal === undefined ? one.work : Promise.race([one.work, aborted(signal)]))
    } finally {
      one.waiting--
      if (one.waiting === 0) {
        if (this.#running.get(key) === one) this.#running.delete(key)
        one.abort.abort()
      }
    }
  }

  #begin(path: string, before: BigIntStats, key: string): Computation {
    const abort = new AbortController()
    const work = this.#compute(path, before, key, abort.signal)
    work.catch(() => {})
    const one = { work, abort, waiting: 0 }
    this.#running.set(key, one)
    return one
  }

  /** The same, read now: what a disk has lost shows in no time stamp. */
  async read(path: string): Promise<string> {
    const before = await statOf(path, { bigint: true })
    return this.#compute(path, before, keyOf(before))
  }

  async #compute(path: string, before: BigIntStats, key: string, signal?: AbortSignal): Promise<string> {
    const readAtNs = BigInt(fileTimeMs()) * 1_000_000n
    const digest = await digestFile(path, signal)
    const after = await statOf(path, { bigint: true })
    const settled = readAtNs - before.mtimeNs > SETTLED_NS && readAtNs - before.ctimeNs > SETTLED_NS
    if (before.isFile() && settled && keyOf(after) === key) {
      if (this.#known.size >= LIMIT) this.#known.delete(this.#known.keys().next().value as string)
      this.#known.set(key, digest)
    }
    return digest
  }
}

function keyOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return [dev, ino, size, mtimeNs, ctimeNs].join(' ')
}
