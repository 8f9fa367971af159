// What the switches on an uplink's LAN say to one another: HELLOs to all, by which they find each other, agreements on
// what each claims and reads, and where the claims are.

import type { StateExchange } from '../../../src/epoch/state.js'
import { NONE, readAgreement } from '../../../src/frame/agreement.js'
import { encodeLocation } from '../../../src/frame/carrier.js'
import { CONTROL_GROUP, CONTROL_LENGTH, ControlType } from '../../../src/frame/control.js'
import { ETHERNET_HEADER_LENGTH } from '../../../src/frame/ethernet.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { SEALED_LENGTH } from '../../../src/frame/sealed-control.js'
import type { DropReason } from '../counters.js'
import type { Egress } from '../egress.js'
import type { Network } from '../network.js'
import type { Output, PortState } from '../port-state.js'
import { macNumber } from './addresses.js'
import { Claims } from './claims.js'
import { bytesOf } from './control-frames.js'
import type { Neighbor, Neighbors } from './neighbors.js'
import type { Trunks } from './trunks.js'

const INTERVAL_MS = 1000
/** Long against a frame's way over a LAN, there and back. HELLOs are repeated meanwhile, in case some get lost. */
const QUIET = 200
const QUIET_INTERVAL_MS = 20
const CLAIMS_INTERVAL_MS = 500
/** At most one answer per so many milliseconds to a switch that says HELLO to all. */
const ANSWER_INTERVAL_MS = 100
/** Well below the time after which bridges forget an address (300 s). */
const LOCATION_INTERVAL_MS = 60_000
/** What an AGREEMENT needs beside its claims, with a key. */
const AGREEMENT_OVERHEAD = SEALED_LENGTH + 96

export class Conversation {
  readonly #network: Network
  readonly #egress: Egress
  readonly #trunks: Trunks
  readonly #port: PortState
  readonly #neighbors: Neighbors
  readonly #device: Output
  readonly #claims: Claims
  readonly #frame = new Frame()
  /** Of this uplink: what is agreed with peers is agreed between ends, which are numbered behind it. */
  #number: number
  /** When the peers must have heard that we are new; not known before the first HELLO. */
  #quietUntil = Number.POSITIVE_INFINITY
  /** It neither sends frames as they are nor takes them so. */
  quiet = true
  #nextDiscovery = Number.NEGATIVE_INFINITY
  #nextHello = Number.NEGATIVE_INFINITY
  #nextClaims = Number.NEGATIVE_INFINITY
  #nextLocations = Number.NEGATIVE_INFINITY
  #toldLowest = NONE

  /** `port`: the LAN as the outside world; `mtu`: of what is made for the LAN. */
  constructor(
    network: Network,
    egress: Egress,
    trunks: Trunks,
    port: PortState,
    neighbors: Neighbors,
    device: Output,
    mtu: number,
  ) {
    this.#network = network
    this.#egress = egress
    this.#trunks = trunks
    this.#port = port
    this.#neighbors = neighbors
    this.#device = device
    this.#claims = new Claims(network, mostClaims(mtu))
    this.#number = network.ends.next()
  }

  resize(mtu: number): void {
    this.#claims.limit = mostClaims(mtu)
    // Claims that an agreement has no room for any more go at once.
    this.claimSoon()
  }

  /** The peers are to know soon which machines are here. */
  claimSoon(): void {
    this.#nextClaims = Number.NEGATIVE_INFINITY
  }

  tick(now: number): void {
    this.#quietUntil = Math.min(this.#quietUntil, now + QUIET)
    this.quiet = now < this.#quietUntil
    if (now >= this.#nextDiscovery) {
      this.#nextDiscovery = now + (this.quiet ? QUIET_INTERVAL_MS : INTERVAL_MS)
      this.#discover(now)
    }
    const isDue = now >= this.#nextHello
    if (isDue) {
      this.#nextHello = now + INTERVAL_MS
      this.#neighbors.forget(now)
    }
    let isNews = false
    if (now >= this.#nextClaims) {
      this.#nextClaims = now + CLAIMS_INTERVAL_MS
      isNews = this.#claims.refresh(now)
    }
    if (isNews || now >= this.#nextLocations) this.#locate(now)
    const lowest = this.#lowest()
    if (lowest !== this.#toldLowest) isNews = true
    this.#toldLowest = lowest
    for (const neighbor of this.#neighbors.joined()) {
      if (isNews) neighbor.peer.claimsChanged(this.#claims)
      const moved = neighbor.peer.moveOn(now)
      if (isDue || isNews || moved) this.#tell(neighbor, now)
    }
  }

  exchange(state: StateExchange): void {
    this.#number = state.value('number', this.#number)
    this.#quietUntil = state.value('quietUntil', this.#quietUntil)
    this.quiet = state.value('quiet', this.quiet)
    this.#nextDiscovery = state.value('nextDiscovery', this.#nextDiscovery)
    this.#nextHello = state.value('nextHello', this.#nextHello)
    this.#nextClaims = state.value('nextClaims', this.#nextClaims)
    this.#nextLocations = state.value('nextLocations', this.#nextLocations)
    this.#toldLowest = state.value('toldLowest', this.#toldLowest)
    state.part('neighbors', (part) => this.#neighbors.exchange(part))
    state.part('claims', (part) => this.#claims.exchange(part))
  }

  /** A control frame from a switch, to us alone or to all. `known`: it has been met. */
  hear(known: Neighbor | undefined, isToAll: boolean, frame: Frame, now: number): null {
    const { bytes, start } = frame
    if (known !== undefined && !isToAll) return this.#said(known, frame, now)
    const { options } = this.#network
    const message = this.#trunks.frames.read(this.#port, frame, now)
    // Another network may have its switches on the same LAN.
    if (message === null || message.network !== options.network || message.bootId === options.bootId) return null
    if (message.type !== ControlType.HELLO) return null
    const neighbor = known ?? this.#neighbors.meet(bytes.slice(start + 6, start + 12), now)
    if (neighbor === null) return this.#refuse(frame, 'control-unexpected', now)
    if (!isToAll) return this.#said(neighbor, frame, now)
    const isAnother = neighbor.peer.doubts(message, now)
    if (isAnother && now >= neighbor.peer.nextAnswer) {
      // A HELLO to all says that somebody is there; what counts is what we then say to one another.
      neighbor.peer.nextAnswer = now + ANSWER_INTERVAL_MS
      this.#trunks.greet(neighbor.port, now)
    }
    return null
  }

  /** A control frame from a switch that has been met, to us alone. */
  #said(neighbor: Neighbor, frame: Frame, now: number): null {
    const message = this.#trunks.control(neighbor.port, frame, now)
    const { channel } = neighbor.port
    // What a former end of the peer or of ours has said or was told comes late: it is void. With a key, another boot
    // than the channel's is known to talk now: its clock was set back. The channel takes it on when the former one is
    // silent.
    if (message?.type === ControlType.HELLO) {
      if (channel!.isOfPeer(message)) this.#heard(neighbor, now)
      else if (this.#network.options.controlKey !== null && message.bootId !== channel!.bootId)
        neighbor.peer.doubted = true
    } else if (message?.type === ControlType.AGREEMENT && channel!.isBetweenUs(message))
      this.#agree(neighbor, frame, now)
    return null
  }

  /** Every peer knows what is claimed here. */
  get claimsAreHeard(): boolean {
    return this.#neighbors.joined().every(({ peer }) => peer.knows(this.#claims))
  }

  /** A HELLO from a peer was believed. */
  #heard(neighbor: Neighbor, now: number): void {
    const { port } = neighbor
    const channel = port.channel!
    neighbor.peer.lastSign = now
    const isNew = neighbor.peer.meets(channel.bootId!, channel.peerNumber)
    if (!neighbor.joined) this.#neighbors.join(neighbor)
    if (!isNew) return
    this.#network.fdb.flushPort(port.index)
    this.#neighbors.carriedFrom.flushPort(port.index)
    this.#neighbors.grant()
    this.#tell(neighbor, now)
  }

  /** An AGREEMENT was believed, as far as its head goes: the rest may be damaged, or not sealed. */
  #agree(neighbor: Neighbor, frame: Frame, now: number): void {
    const { controlKey } = this.#network.options
    const agreement = readAgreement(bytesOf(frame), controlKey === null ? CONTROL_LENGTH : SEALED_LENGTH, controlKey)
    if (agreement === null) {
      this.#refuse(frame, 'control-malformed', now)
      return
    }
    if (!neighbor.joined) return
    const before = neighbor.peer.agreement(this.#claims, this.#toldLowest)
    const former = neighbor.peer.theirs
    const changed = neighbor.peer.take(agreement, this.#claims, now)
    if (changed.claims) {
      this.#neighbors.grant()
      this.#forget(neighbor, former)
    }
    // Whoever was taken for an outsider up to now may be a member over there.
    if (changed.claims || changed.way) this.#network.fdb.flushPort(this.#port.index)
    if (!Buffer.from(before).equals(neighbor.peer.agreement(this.#claims, this.#toldLowest))) this.#tell(neighbor, now)
  }

  /** What a peer claims no more may be an outsider's behind it; a member's address is learned again at once. */
  #forget({ port, peer }: Neighbor, former: readonly number[]): void {
    const still = new Set(peer.theirs)
    const gone = new Set(former.filter((mac) => !still.has(mac)))
    if (gone.size === 0) return
    const isGone = (high: number, low: number) => gone.has(macNumber(high, low))
    this.#network.fdb.flushAddresses(port.index, isGone)
    this.#neighbors.carriedFrom.flushAddresses(port.index, isGone)
  }

  /** Says to all switches that we are there. */
  #discover(now: number): void {
    const { epoch } = this.#network
    const words = { type: ControlType.HELLO, destination: CONTROL_GROUP, epoch, count: 0, number: this.#number }
    this.#device.send(this.#trunks.frames.compose(this.#port, words, now), -1)
  }

  #lowest(): number {
    let lowest = this.#network.epoch
    for (const port of this.#network.ports) if (port.isMember) lowest = Math.min(lowest, port.epoch)
    return lowest
  }

  /**
   * Before anything is sent to a claim under its own address: what the LAN does not know it floods, to outside hosts as
   * well.
   */
  #locate(now: number): void {
    this.#nextLocations = now + LOCATION_INTERVAL_MS
    for (const mac of this.#claims.list) {
      const body = encodeLocation(mac)
      const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
      bytes.set(body, VNET_HEADER_LENGTH)
      this.#device.send(this.#frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }), -1)
    }
  }

  #tell({ port, peer }: Neighbor, now: number): void {
    const { epoch } = this.#network
    const agreement = peer.agreement(this.#claims, this.#toldLowest)
    const words = { type: ControlType.AGREEMENT, destination: peer.mac, epoch, count: 0, agreement }
    port.output.send(this.#trunks.frames.compose(port, words, now), -1)
  }

  #refuse(frame: Frame, reason: DropReason, now: number): null {
    return this.#egress.misread(this.#port, frame, reason, now)
  }
}

/** How many claims an agreement has room for, in one frame. */
function mostClaims(mtu: number): number {
  return Math.floor((mtu + ETHERNET_HEADER_LENGTH - AGREEMENT_OVERHEAD) / 6)
}
