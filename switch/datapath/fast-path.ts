// Whether there is to be a fast path, and the kernel's hooks while there is one. What cannot be had is tried again:
// without it everything works all the same.

import { KernelHooks } from './kernel/hooks.js'
import type { Commands, FastPathMode } from './protocol.js'

/** A fast path that could not be had is tried again after so long, and twice that, and so on. */
const AGAIN_MS = 1000
const SELDOM_MS = 60_000

type Call = <K extends 'fastPath' | 'hooked'>(name: K, args: Commands[K]['args']) => Promise<Commands[K]['result']>

export class FastPathControl {
  readonly #call: Call
  readonly #changed: (trouble: string | null) => void
  #mode: FastPathMode = 'off'
  #trouble: string | null = null
  #hooks: KernelHooks | null = null
  #behind: ReadonlySet<number> = new Set()
  #again: NodeJS.Timeout | undefined
  #ended = false

  /** `call`: to the worker. `changed` hears of another `trouble` than before. */
  constructor(call: Call, changed: (trouble: string | null) => void) {
    this.#call = call
    this.#changed = changed
  }

  get mode(): FastPathMode {
    return this.#mode
  }

  /** Why there is no fast path though there is to be one; null: there is, or none is wanted. */
  get trouble(): string | null {
    return this.#trouble
  }

  get hooks(): KernelHooks | null {
    return this.#hooks
  }

  /** See KernelHooks. */
  behind(devices: ReadonlySet<number>): void {
    this.#behind = devices
    this.#hooks?.behind(devices)
  }

  async set(mode: FastPathMode): Promise<void> {
    this.#mode = mode
    if (mode === 'auto') return await this.#open()
    clearTimeout(this.#again)
    this.#trouble = null
    await this.#call('fastPath', { programs: null })
    this.takeBack()
  }

  /** A worker has begun anew. */
  open(): void {
    if (this.#mode === 'auto') void this.#open()
  }

  async #open(afterMs = AGAIN_MS): Promise<void> {
    clearTimeout(this.#again)
    const trouble = await this.#try()
    if (this.#ended || this.#mode === 'off') return
    const before = this.#trouble
    this.#trouble = trouble
    if (trouble !== before) this.#changed(trouble)
    if (trouble === null) return
    this.#again = setTimeout(() => void this.#open(Math.min(2 * afterMs, SELDOM_MS)), afterMs).unref()
  }

  /** Why not; null: it is there. */
  async #try(): Promise<string | null> {
    try {
      this.#hooks ??= new KernelHooks((state) => void this.#call('hooked', state).catch(() => undefined))
      this.#hooks.behind(this.#behind)
      // One that answers late has it all the same, and may be told again.
      await this.#call('fastPath', { programs: this.#hooks.programs })
      return null
    } catch (thrown) {
      return thrown instanceof Error ? thrown.message : String(thrown)
    }
  }

  /** Nothing of it is at the ports any more. */
  takeBack(): void {
    this.#hooks?.takeBack()
    this.close()
  }

  /** It is tried no more. */
  end(): void {
    this.#ended = true
    clearTimeout(this.#again)
  }

  close(): void {
    this.#hooks?.close()
    this.#hooks = null
  }
}
