// Passes on that peer switches were heard of for the first time: without a `controlKey` anybody on a trunk's link can
// make up a new one with every frame, and each would be a line in the log and perhaps an epoch on disk. So there is a
// budget a minute; what goes beyond it is passed on together, at the minute's end.

import type { Clock } from '../../src/runtime/clock.js'

export interface PeerNews {
  readonly network: string
  readonly host: string
  /** The highest that the peer knows of. */
  readonly epoch: number
}

const BUDGET = 64
const INTERVAL_MS = 60_000

interface Minute {
  told: number
  /** Beyond the budget: how many, and the last of them with the highest epoch of all. */
  more: number
  last: PeerNews | null
}

export class PeerNewsdesk {
  readonly #tell: (news: PeerNews, more: number) => void
  readonly #minutes = new Map<string, Minute>()
  readonly #timers = new Map<string, () => void>()
  readonly #clock: Clock

  /** `more`: how many others the news stands for. */
  constructor(clock: Clock, tell: (news: PeerNews, more: number) => void) {
    this.#clock = clock
    this.#tell = tell
  }

  heard(news: PeerNews): void {
    const { network } = news
    let minute = this.#minutes.get(network)
    if (minute === undefined) {
      minute = { told: 0, more: 0, last: null }
      this.#minutes.set(network, minute)
      const timer = this.#clock.after(INTERVAL_MS, () => this.#minuteIsOver(network))
      this.#timers.set(network, timer)
    }
    if (minute.told < BUDGET) {
      minute.told++
      this.#tell(news, 0)
      return
    }
    minute.more++
    minute.last = { ...news, epoch: Math.max(news.epoch, minute.last?.epoch ?? 0) }
  }

  close(): void {
    for (const stop of this.#timers.values()) stop()
  }

  #minuteIsOver(network: string): void {
    const { last, more } = this.#minutes.get(network)!
    this.#minutes.delete(network)
    this.#timers.delete(network)
    if (last !== null) this.#tell(last, more - 1)
  }
}
