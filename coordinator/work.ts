// What is under way in the networks: one thing at a time in each. All of it is called off when the coordinator stops.

import { SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import { NetworkLocks } from './locks.js'

export class Work {
  readonly #locks: NetworkLocks
  readonly #stopping = new AbortController()
  readonly #running = new Set<Promise<unknown>>()

  constructor(clock: Clock) {
    this.#locks = new NetworkLocks(clock)
  }

  /** Aborted, with a SnapswitchError for a reason, when the coordinator stops. */
  get signal(): AbortSignal {
    return this.#stopping.signal
  }

  get isIdle(): boolean {
    return this.#running.size === 0
  }

  /** What is under way in a network; null: nothing. */
  in(network: string): string | null {
    return this.#locks.holder(network)
  }

  /** `waitMs` null: not unless the network is free. Throws SNAPSHOT_BUSY. */
  async exclusively<T>(network: string, what: string, waitMs: number | null, act: () => Promise<T>): Promise<T> {
    if (this.signal.aborted) throw this.signal.reason
    const release = await this.#locks.acquire(network, what, waitMs)
    const running = act().finally(release)
    this.#running.add(running)
    try {
      return await running
    } finally {
      this.#running.delete(running)
    }
  }

  /** None of them may be busy: whoever waited while holding one could be waited for. */
  exclusivelyAll<T>(networks: readonly string[], what: string, act: () => Promise<T>): Promise<T> {
    const [first, ...others] = networks
    if (first === undefined) return act()
    return this.exclusively(first, what, null, () => this.exclusivelyAll(others, what, act))
  }

  /** Calls off what is under way, and waits for it to be undone, this long at most. */
  async stop(graceMs: number): Promise<void> {
    const message = 'the coordinator is being stopped'
    this.#stopping.abort(new SnapswitchError('SNAPSHOT_DISCARDED', message, 'Start it and try again.'))
    let timer: NodeJS.Timeout | undefined
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, graceMs)
    })
    await Promise.race([Promise.allSettled([...this.#running]), late])
    clearTimeout(timer)
  }
}
