// How a host's epochs follow its peers' outside of snapshots: after it was away, or when it was left out of a snapshot,
// frames from its peers' later cuts must not be early to it for ever.

import { type GatesHost, passEpoch } from './gates.js'
import type { Host } from './host.js'
import { type PeerNews, PeerNewsdesk } from './peer-news.js'

/** How long frames from an unknown cut wait for its TAKE before this host gives way and moves on. */
const UNKNOWN_EPOCH_MS = 3000

/** What is under way in a network: null, a restore, or the snapshot of an epoch. */
export type UnderWay = (network: string) => { readonly epoch: number | null } | null

type CatchUpHost = GatesHost & Pick<Host, 'epochs'>

export class CatchUp {
  readonly #host: CatchUpHost
  readonly #underWay: UnderWay
  /** How to stop waiting, by network and epoch. */
  readonly #giveWay = new Map<string, () => void>()
  readonly #news: PeerNewsdesk

  constructor(host: CatchUpHost, underWay: UnderWay) {
    this.#host = host
    this.#underWay = underWay
    this.#news = new PeerNewsdesk(host.clock, (news, more) => this.#peerHeard(news, more))
  }

  /** A peer switch was heard of for the first time, or has restarted. */
  heard(news: PeerNews): void {
    this.#news.heard(news)
  }

  /**
   * Frames have come from after a cut that nobody has told us of. If its TAKE stays away we were left out: give way.
   * Each epoch has its own time: a later cut may be one that we are in, and its frames are told of only once.
   */
  early(network: string, epoch: number): void {
    const key = `${network} ${epoch}`
    if (this.#giveWay.has(key)) return
    const stop = this.#host.clock.after(UNKNOWN_EPOCH_MS, () => {
      this.#giveWay.delete(key)
      const cutFor = this.#underWay(network)?.epoch ?? null
      if (cutFor === epoch) return
      // A snapshot of before has not ended here.
      if (cutFor !== null && cutFor < epoch) return this.early(network, epoch)
      this.#host.log.warn({ network, epoch }, 'frames of an unknown epoch; moving on to it')
      this.#advanceSoon(network, epoch)
    })
    this.#giveWay.set(key, stop)
  }

  advance(network: string, epoch: number): Promise<void> {
    return passEpoch(this.#host, network, epoch)
  }

  close(): void {
    for (const stop of this.#giveWay.values()) stop()
    this.#news.close()
  }

  #peerHeard({ network, host, epoch }: PeerNews, more: number): void {
    const others = more === 0 ? {} : { more }
    this.#host.log.info({ network, peer: host, epoch, ...others }, 'peer switch heard')
    // A peer that has made cuts we know nothing of: we were away.
    if (this.#underWay(network) === null && epoch > this.#host.epochs.get(network)) this.#advanceSoon(network, epoch)
  }

  #advanceSoon(network: string, epoch: number): void {
    this.advance(network, epoch).catch((thrown) => this.#host.log.error({ err: thrown }, 'cannot advance'))
  }
}
