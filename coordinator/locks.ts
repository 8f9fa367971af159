// One snapshot, restore or delete per network at a time: the next one waits (bounded, in order) or is refused.

import { SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'

interface Waiting {
  readonly what: string
  readonly grant: () => void
}

interface Held {
  readonly what: string
  readonly queue: Waiting[]
}

const whenEnded = 'Try again when it has ended. `snapshot create` and `snapshot restore` wait for that if given --wait.'
/** More than this many waiting for one network is a runaway script. */
const queueLimit = 16

export class NetworkLocks {
  readonly #held = new Map<string, Held>()
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** What holds the network now, or null. */
  holder(network: string): string | null {
    return this.#held.get(network)?.what ?? null
  }

  /**
   * Resolves with the release function once the network is ours. `waitMs` null: refuse at once when it is not free.
   * Throws SNAPSHOT_BUSY.
   */
  async acquire(network: string, what: string, waitMs: number | null): Promise<() => void> {
    const held = this.#held.get(network)
    if (held === undefined) {
      this.#held.set(network, { what, queue: [] })
      return this.#releaser(network)
    }
    if (waitMs === null) throw busy(network, held.what, whenEnded)
    if (held.queue.length >= queueLimit) throw busy(network, held.what, `${queueLimit} others wait already.`)
    await new Promise<void>((resolve, reject) => {
      const waiting: Waiting = {
        what,
        grant: () => {
          stopTimer()
          resolve()
        },
      }
      const stopTimer = this.#clock.after(waitMs, () => {
        const now = this.#held.get(network)
        now?.queue.splice(now.queue.indexOf(waiting), 1)
        reject(busy(network, now?.what ?? held.what, `It did not end within ${waitMs} ms; try again later.`))
      })
      held.queue.push(waiting)
    })
    return this.#releaser(network)
  }

  #releaser(network: string): () => void {
    let released = false
    return () => {
      if (released) return
      released = true
      const queue = this.#held.get(network)?.queue ?? []
      const next = queue.shift()
      if (next === undefined) {
        this.#held.delete(network)
        return
      }
      this.#held.set(network, { what: next.what, queue })
      next.grant()
    }
  }
}

function busy(network: string, holder: string, action: string): SnapswitchError {
  return new SnapswitchError('SNAPSHOT_BUSY', `network ${network} is busy: ${holder}`, action)
}
