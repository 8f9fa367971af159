// Keeps looking at the TAPs that it was given: at once when the kernel tells of a change or a holder ends, soon while a
// machine is coming, now and then while somebody cannot be driven.

import type { Logger } from 'pino'
import { isSameMachine } from '../../src/hypervisor/drivers.js'
import { type LinkEvent, LinkWatch } from '../../src/linux/link.js'
import { tellOf } from '../../src/linux/news.js'
import { ProcessEnds } from '../../src/linux/process-ends.js'
import { onBeat } from '../../src/runtime/beat.js'
import type { Discovered, DiscoveryNews, Identifier, MachineWatch, TapDevice } from './discovery.js'

/** All devices of one look. */
const IDENTIFY_MS = 5000
/** From one look to the next at what is not settled: it grows from the first to the last. */
const AGAIN_MS = [100, 200, 400, 800, 1600, 3200, 5000] as const

interface Watched {
  tap: TapDevice
  found: Discovered
  /** Looks since the last change. */
  looks: number
  /** When to look next, of `performance.now()`'s clock; null: not before there is news. */
  dueMs: number | null
  /** Whether it had a carrier, which a TAP has while somebody holds it, when the kernel last told. */
  hadCarrier: boolean | null
  seen: boolean
}

/** A beat is never so far away. */
const SOON_MS = 1000

/** What it listens to; tests have others. */
export interface Signals {
  readonly links: Pick<LinkWatch, 'drain' | 'close'>
  readonly ends: Pick<ProcessEnds, 'add' | 'keepOnly' | 'drain' | 'close'>
}

export class MachineResolver implements MachineWatch {
  readonly #identifier: Identifier
  readonly #log: Logger
  readonly #signals: Signals
  readonly #watched = new Map<number, Watched>()
  readonly #listeners = new Set<(news: DiscoveryNews) => void | Promise<void>>()
  readonly #still: () => void
  #busy: Promise<void> | null = null
  #closed = false

  constructor(identifier: Identifier, log: Logger, signals?: Signals) {
    this.#identifier = identifier
    this.#log = log
    this.#signals = signals ?? listen()
    this.#still = onBeat(() => this.#look())
  }

  watch(tap: TapDevice): void {
    const known = this.#watched.get(tap.ifindex)
    if (known !== undefined) {
      known.tap = tap
      return
    }
    this.#watched.set(tap.ifindex, { tap, found: { kind: 'none' }, looks: 0, dueMs: 0, hadCarrier: null, seen: false })
  }

  unwatch(ifindex: TapDevice['ifindex']): void {
    this.#watched.delete(ifindex)
    this.#forgetHolders()
  }

  of(ifindex: TapDevice['ifindex']): Discovered {
    return this.#watched.get(ifindex)?.found ?? { kind: 'none' }
  }

  /** Whether `of` tells what was seen. */
  isLookedAt(ifindex: TapDevice['ifindex']): boolean {
    return this.#watched.get(ifindex)?.seen ?? false
  }

  onNews(listener: (news: DiscoveryNews) => void | Promise<void>): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Looks at everything that is due now, and at `all` watched devices when asked; returns when listeners are told. */
  async settle(all = false): Promise<void> {
    await this.#busy
    if (all) for (const one of this.#watched.values()) one.dueMs = 0
    this.#look()
    await this.#busy
  }

  /** No more news once this has settled. */
  async close(): Promise<void> {
    this.#closed = true
    this.#still()
    await this.#busy
    this.#signals.links.close()
    this.#signals.ends.close()
  }

  /** A look at two descriptors, no more, when nothing has changed. True: nothing is due soon. */
  #look(): boolean {
    if (this.#closed) return true
    if (this.#busy !== null) return false
    this.#hearLinks()
    for (const pid of this.#signals.ends.drain()) {
      for (const { found, ...one } of this.#watched.values())
        if (holderOf(found)?.pid === pid) this.#dueNow(one.tap.ifindex)
    }
    const now = performance.now()
    const due = [...this.#watched.values()].filter(({ dueMs }) => dueMs !== null && dueMs <= now)
    if (due.length === 0)
      return ![...this.#watched.values()].some(({ dueMs }) => dueMs !== null && dueMs < now + SOON_MS)
    this.#busy = this.#identify(due)
      .catch((thrown) => {
        this.#log.error({ err: thrown }, 'the holders of TAPs cannot be looked at')
        // No news would make it look again.
        for (const one of due) one.dueMs ??= performance.now() + AGAIN_MS.at(-1)!
      })
      .finally(() => {
        this.#busy = null
      })
    return false
  }

  #hearLinks(): void {
    let events: readonly LinkEvent[]
    try {
      events = this.#signals.links.drain()
    } catch {
      // News were lost: there were more than fit.
      for (const ifindex of this.#watched.keys()) this.#dueNow(ifindex)
      return
    }
    for (const event of events) {
      if (!('link' in event)) continue
      const { index: ifindex, name, lowerUp, up } = event.link
      const one = this.#watched.get(ifindex)
      if (one === undefined) continue
      one.tap = { name, ifindex }
      const hasCarrier = event.kind === 'changed' && lowerUp
      // A device that is down shows no carrier, whoever holds it.
      if (hasCarrier !== one.hadCarrier || !up || one.found.kind === 'none') this.#dueNow(ifindex)
      one.hadCarrier = hasCarrier
    }
  }

  #dueNow(ifindex: number): void {
    const one = this.#watched.get(ifindex)
    if (one !== undefined) Object.assign(one, { dueMs: 0, looks: 0 })
  }

  async #identify(due: readonly Watched[]): Promise<void> {
    // What is told from now on asks for another look.
    for (const one of due) one.dueMs = null
    const taps = due.map(({ tap }) => tap)
    const found = await this.#identifier.identify(taps, performance.now() + IDENTIFY_MS)
    for (const one of due) {
      const { ifindex } = one.tap
      if (this.#watched.get(ifindex) !== one) continue
      const before = one.found
      const now = found.get(ifindex) ?? { kind: 'none' }
      const holder = holderOf(now)
      // It may throw. Then what was found is still to be told.
      const isWatched = holder === null || this.#signals.ends.add(holder.pid)
      one.found = now
      one.seen = true
      const changed = !isSame(before, now)
      one.looks = changed ? 0 : one.looks + 1
      const again = AGAIN_MS[Math.min(one.looks, AGAIN_MS.length - 1)]!
      if (one.dueMs === null && (now.kind === 'pending' || now.kind === 'undrivable'))
        one.dueMs = performance.now() + again
      if (!isWatched) one.dueMs = 0
      if (changed) await this.#tell({ tap: one.tap, found: now, before })
    }
    this.#forgetHolders()
  }

  #forgetHolders(): void {
    const held = new Set([...this.#watched.values()].map(({ found }) => holderOf(found)?.pid))
    this.#signals.ends.keepOnly(held)
  }

  async #tell(news: DiscoveryNews): Promise<void> {
    const { tap, found, before } = news
    const names = { device: tap.name, ...('name' in found ? { machine: found.name } : {}) }
    if (found.kind === 'undrivable') this.#log.warn({ ...names, err: found.problem }, 'a machine cannot be driven')
    else this.#log.info({ ...names, found: found.kind, was: before.kind }, 'what holds a TAP has changed')
    for (const listener of this.#listeners) {
      try {
        await listener(news)
      } catch (thrown) {
        this.#log.error({ err: thrown, ...names }, 'a change of a machine could not be followed')
      }
    }
  }
}

function listen(): Signals {
  const signals = { links: new LinkWatch(), ends: new ProcessEnds() }
  tellOf(signals.links.fd)
  tellOf(signals.ends.fd)
  return signals
}

const holderOf = (found: Discovered) => (found.kind === 'none' ? null : found.holder)

/** Nothing that anybody acts upon differs. */
function isSame(one: Discovered, other: Discovered): boolean {
  if (one.kind !== other.kind || holderOf(one)?.pid !== holderOf(other)?.pid) return false
  if (holderOf(one)?.startTicks !== holderOf(other)?.startTicks) return false
  if (one.kind === 'machine' && other.kind === 'machine')
    return one.name === other.name && isSameMachine(one.spec, other.spec)
  if (one.kind === 'undrivable' && other.kind === 'undrivable') return one.problem.message === other.problem.message
  return true
}
