// Keeps the ports in line with the devices under them while the daemon runs: devices go and come back (a VM is shut
// down and started, a cable is pulled), and the ports follow.

import type { Logger } from 'pino'
import { LinkWatch } from '../../src/linux/link.js'
import { tellOf } from '../../src/linux/news.js'
import { onBeat } from '../../src/runtime/beat.js'

/**
 * How often the ports are compared with the devices even without news, for what could not be done at once; so long for
 * each port where they are many, for each takes its time.
 */
const COMPARE_MS = 5000
const COMPARE_EACH_MS = 100
const COMPARE_MOST_MS = 20_000

interface PortNews {
  /** Something has happened that rtnetlink does not tell. */
  readonly hasNews: boolean
  /** Ports. */
  readonly count: number
  /** The filters at a device have changed; null: at any. */
  filtersChanged(index: number | null): void
}

export class PortWatch {
  readonly #watch = new LinkWatch(true)
  readonly #still: () => void
  readonly #reconcile: () => Promise<void>
  readonly #news: PortNews
  readonly #log: Logger
  #busy: Promise<void> | null = null
  #nextCompare = performance.now() + COMPARE_MS

  /**
   * `reconcile` is called when devices, their addresses or their filters have changed, or there are other news; never
   * twice at a time.
   */
  constructor(reconcile: () => Promise<void>, news: PortNews, log: Logger) {
    this.#reconcile = reconcile
    this.#news = news
    this.#log = log
    tellOf(this.#watch.fd)
    this.#still = onBeat(() => this.#look())
  }

  /** No more calls of `reconcile` once this has settled. */
  async close(): Promise<void> {
    this.#still()
    this.#watch.close()
    await this.#busy
  }

  /** A look at a socket, no more, when nothing has changed. True: nothing is under way. */
  #look(): boolean {
    if (this.#busy !== null) return false
    if (!(this.#changed() || this.#news.hasNews || performance.now() >= this.#nextCompare)) return true
    const between = Math.min(COMPARE_MOST_MS, Math.max(COMPARE_MS, this.#news.count * COMPARE_EACH_MS))
    this.#nextCompare = performance.now() + between
    this.#busy = this.#reconcile()
      .catch((thrown) => this.#log.error({ err: thrown }, 'the devices cannot be looked at'))
      .finally(() => {
        this.#busy = null
      })
    return false
  }

  #changed(): boolean {
    try {
      const events = this.#watch.drain()
      for (const event of events) if (event.kind === 'filter') this.#news.filtersChanged(event.index)
      return events.length > 0
    } catch {
      // News were lost: there were more than fit.
      this.#news.filtersChanged(null)
      return true
    }
  }
}
