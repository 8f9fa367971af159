// One network's part of the fast path: what the forwarder has decided is noted in the kernel while the network is
// quiet, and void before anything changes that decisions depend on.

import { judge, Verdict } from '../../../src/epoch/delivery.js'
import { colorVid } from '../../../src/frame/color-tag.js'
import { EtherType, innerEtherType, macHigh, macLow } from '../../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../../src/frame/frame.js'
import type { FastPath } from '../../forwarding/fast-path.js'
import type { Forwarder } from '../../forwarding/forwarder.js'
import type { PortState } from '../../forwarding/port-state.js'
import type { Attached } from './attached.js'
import type { SeenVerdict, Verdicts } from './verdicts.js'
import { keyOf, TagChange, tagChange } from './vlan-tag.js'

/** How long a network has been quiet before it is fast: what follows a cut or a change is often the next one. */
const QUIET_MS = 500
/** Addresses of a port that move so often within a second: it stays slow for the rest of it. */
const MOST_VOIDS = 16
/** Verdicts that nobody has used for so many seconds go. */
const UNUSED_SECONDS = 60
/** Below that, addresses could age while they speak. */
const SHORTEST_AGEING = 15

/** What all networks share. */
export interface PathHost {
  readonly verdicts: Verdicts
  /** By port index; holes where ports are not fast for reasons of their own. */
  readonly attached: readonly (Attached | undefined)[]
  /** Nothing is under way by verdicts of former generations when this returns. */
  barrier(): void
  readonly seconds: number
}

export class NetworkPath implements FastPath {
  readonly forwarder: Forwarder
  readonly #host: PathHost
  readonly #ports = new Set<Attached>()
  #fast = false
  /** Why it is slow; null: nothing speaks against it, or it is fast. */
  why: string | null = 'it has just begun'
  #quietSince = Number.POSITIVE_INFINITY

  constructor(forwarder: Forwarder, host: PathHost) {
    this.forwarder = forwarder
    this.#host = host
    forwarder.network.repeatBy(this)
  }

  get isFast(): boolean {
    return this.#fast
  }

  add(port: Attached): void {
    this.#ports.add(port)
  }

  has(port: Attached): boolean {
    return this.#ports.has(port)
  }

  /** Nothing of it is under way when this returns. */
  remove(port: Attached): void {
    port.stop()
    this.#host.barrier()
    port.sync()
    this.#ports.delete(port)
  }

  close(): void {
    this.slow()
    this.forwarder.network.repeatBy(null)
  }

  reached(from: PortState, to: PortState, frame: Frame, vlan: number, came: number): void {
    if (!this.#fast || from === to) return
    const { attached, verdicts, seconds } = this.#host
    const one = attached[from.index]
    const other = attached[to.index]
    if (one === undefined || other === undefined || !one.isFast || !other.isFast) return
    // Somebody else's output stands before the port's.
    if (to.output !== other.output || !this.#ports.has(one) || !this.#ports.has(other)) return
    const change = tagChange(from.rules, to.rules, came, vlan)
    if (change === TagChange.UNKNOWN) return
    const type = innerEtherType(frame)
    if (type === EtherType.VLAN || type === EtherType.SERVICE_VLAN || type === EtherType.CONTROL) return
    if (speaksAgainst(from, seconds) !== null || speaksAgainst(to, seconds) !== null) return
    if (to.isMember && judge(frame.color, to.epoch, to.closed, to.fence) !== Verdict.DELIVER) return
    if ((from.isTrunk && !this.#tags(from, one, frame)) || (to.isTrunk && !this.#tags(to, other, frame))) return
    if (from.isTrunk && to.isTrunk) return
    const { bytes, start } = frame
    const { generation } = one
    const tag = keyOf(came)
    if (!verdicts.isWanted(bytes, start, from.index, tag, (generation + other.generation) | 0)) return
    const { fdb } = this.forwarder
    const isThere =
      fdb.pin(macHigh(bytes, start + 6), macLow(bytes, start + 6), vlan, from.index) &&
      fdb.pin(macHigh(bytes, start), macLow(bytes, start), vlan, to.index)
    if (!isThere) return
    one.named = true
    other.named = true
    const verdict = {
      from: from.index,
      to: to.index,
      ifindex: other.port.ifindex,
      fromGeneration: generation,
      toGeneration: other.generation,
      room: other.room,
      vlan,
      tag,
      colorTag: from.isTrunk ? colorVid(frame.color, one.tags!.accepts) : 0,
      pops: from.isTrunk || change === TagChange.POP,
      push: to.isTrunk ? colorVid(frame.color, other.tags!.sends) : change === TagChange.POP ? 0 : change,
    }
    verdicts.put(bytes, start, verdict, seconds)
  }

  outdated(index: number): void {
    const port = this.#own(index)
    if (port === null || !port.named || !port.isFast) return
    this.#void(port)
  }

  count(index: number): boolean {
    const port = this.#own(index)
    if (port === null) return true
    port.sync()
    return !(port.isFast && port.isRushed)
  }

  postpones(index: number): boolean {
    const port = this.#own(index)
    if (port === null || !port.isFast || port.tags === null) return false
    port.sync()
    return port.postpones()
  }

  pause(index: number): void {
    const port = this.#own(index)
    if (port === null) return
    if (port.isFast && port.tags !== null) {
      port.sync()
      if (port.rushes()) {
        // All that is in the count is through before the HELLO. Others are, too, which are not in it.
        this.#host.barrier()
        return
      }
      if (port.pause(true)) this.#host.barrier()
    }
    port.sync()
  }

  /** What was sent by the daemon has left. */
  go(): void {
    for (const port of this.#ports) if (port.tags !== null) port.pause(false)
  }

  /** The port of this network with that index; null: it has none, or none that could be fast. */
  #own(index: number): Attached | null {
    const port = this.#host.attached[index]
    return port !== undefined && this.#ports.has(port) ? port : null
  }

  #void(port: Attached): void {
    if (++port.voids > MOST_VOIDS) port.stop()
    else port.outdate()
    this.#host.barrier()
    port.sync()
    port.tags = null
    port.pause(false)
  }

  /** Whether a frame's color is the one of a trunk's tags: those that are fast are counted under it. */
  #tags({ channel }: PortState, port: Attached, { color, tagTpid }: Frame): boolean {
    if (channel === null || !channel.established || color === NO_COLOR || tagTpid !== 0) return false
    const { sends, accepts } = channel
    const { tags } = port
    if (tags !== null && tags.color === color && tags.sends === sends && tags.accepts === accepts) return true
    // Verdicts of others are void first, and what went by them is counted.
    if (tags !== null) this.#void(port)
    port.tags = { color, sends, accepts }
    return tags === null
  }

  slow(): void {
    this.#quietSince = Number.POSITIVE_INFINITY
    if (!this.#fast) return
    this.#fast = false
    this.why ??= 'it has just been busy'
    for (const port of this.#ports) port.stop()
    this.#host.barrier()
    for (const port of this.#ports) {
      port.sync()
      port.tags = null
      port.pause(false)
    }
  }

  /**
   * Every 100 ms while frames come, 250 once all is steady, and every second without frames. `settle` puts right what
   * lost frames have left wrong.
   */
  tick(now: number, isNewSecond: boolean, settle: (port: Attached) => void): void {
    this.why = this.#reason()
    if (this.why !== null) {
      this.slow()
      return
    }
    this.#quietSince = Math.min(this.#quietSince, now)
    if (!this.#fast && now - this.#quietSince < QUIET_MS) {
      this.why = 'it has just been busy'
      return
    }
    this.#fast = true
    for (const port of this.#ports) {
      if (port.unsettled || (isNewSecond && port.buckets.behind)) settle(port)
      const state = this.forwarder.byIndex[port.port.index]
      const may = state !== undefined && speaksAgainst(state, this.#host.seconds) === null
      if (!may || port.isFast || port.unsettled || port.missed > 0 || port.voids > MOST_VOIDS || port.guests !== null)
        continue
      if (!port.isDown) port.start()
    }
  }

  /** Whether a verdict of this network is to stay; of one that was used, note is taken. */
  keeps(verdict: SeenVerdict): boolean {
    const { seconds } = this.#host
    const { from, to, vlan } = verdict
    if (!this.isValid(verdict)) return false
    const { fdb } = this.forwarder
    fdb.seenAt(verdict.fromHigh, verdict.fromLow, vlan, from, verdict.seen)
    if (fdb.lookUp(verdict.toHigh, verdict.toLow, vlan, seconds) !== to) return false
    return seconds - verdict.seen < UNUSED_SECONDS
  }

  isValid({ from, to, fromGeneration, toGeneration }: SeenVerdict): boolean {
    const { attached } = this.#host
    return attached[from]?.generation === fromGeneration && attached[to]?.generation === toGeneration
  }

  /** Why a port's frames are not fast; null: they are. */
  whyNot(port: Attached): string | null {
    if (!this.#fast) return this.why
    if (port.isFast) return null
    if (port.isDown) return 'its device is down'
    if (port.guests !== null) return port.guests
    if (port.missed > 0) return 'somebody has taken off its ingress filter'
    if (port.voids > MOST_VOIDS) return 'addresses behind it move all the time'
    const state = this.forwarder.byIndex[port.port.index]
    return (state === undefined ? null : speaksAgainst(state, this.#host.seconds)) ?? 'frames wait in its socket'
  }

  #reason(): string | null {
    const { network, snapshots, ports } = this.forwarder
    const [who] = network.wanting
    if (who !== undefined) return `${who} needs every frame`
    // Later its memory is saved, which may take minutes. What comes late has a tag that no verdict knows.
    if (snapshots.isCutting) return 'a snapshot is being taken'
    if (network.observer !== null) return 'its frames are being looked at'
    if (network.options.fdb.ageing < SHORTEST_AGEING) return 'addresses age within seconds'
    return ports.some(({ isGated }) => isGated) ? 'a gate is closed' : null
  }
}

/** Why what enters and leaves by a port depends on more than addresses; null: it does not. */
export function speaksAgainst(port: PortState, seconds: number): string | null {
  if (port.channel?.established === false) return 'no peer is agreed with'
  if (port.spec.kind === 'uplink') return 'it is an uplink'
  const { rules } = port
  if (rules !== null && (rules.isLocked || !rules.learns)) return 'it is locked, or learns no addresses'
  return port.leaving || port.outsiderUntil > seconds * 1000 ? 'it is becoming another kind of port' : null
}
