// An uplink: a port on an ordinary LAN where peer switches and outside hosts live side by side. There is one port for
// the LAN as the outside world, and one for each peer switch on it (uplink-peer.ts), which is a trunk to all that
// snapshots have to do with: counts, markers, closure.
//
// - To and from outside hosts frames pass as they are, and are no part of a snapshot.
// - A member's broadcast leaves twice: to each peer in a carrier, and after that plain, for the world. What a plain
//   copy reaches is the outside: on the LAN, and on plain ports of other hosts. What a carrier reaches is members. So
//   nobody gets a frame twice, and no outside host sees a color, a tag, or a frame that is not for it.
// - Peers are found by HELLOs to a group address. An outsider is who is no peer's member: not claimed, and not learned
//   from a carrier (which leaves first).
// - Frames without a carrier mean what was agreed with a boot of the sender's. So a switch that starts says so and is
//   quiet: it sends and takes no such frame while its peers may not have heard that; and they, when they have, neither
//   read nor use the bit (`doubted`) until they know one another anew.

import type { PortRules } from '../../../src/api/schemas.js'
import type { StateExchange } from '../../../src/epoch/state.js'
import { NONE, readAgreement } from '../../../src/frame/agreement.js'
import {
  CARRIER_HEADER_LENGTH,
  CARRIER_TYPE,
  CarrierField,
  encodeLocation,
  isBetweenSwitches,
  LOCATION_TYPE,
} from '../../../src/frame/carrier.js'
import { colorBit, epochOfBit, flipColorBit, NO_BIT } from '../../../src/frame/color-dscp.js'
import { CONTROL_GROUP, CONTROL_LENGTH, ControlType } from '../../../src/frame/control.js'
import {
  ETHERNET_HEADER_LENGTH,
  isGroup,
  isLinkLocal,
  isWellFormed,
  macHigh,
  macLow,
  vlanId,
} from '../../../src/frame/ethernet.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { SEALED_LENGTH } from '../../../src/frame/sealed-control.js'
import { segmentsOf } from '../../../src/frame/segments.js'
import { Drop, type DropReason } from '../counters.js'
import type { Egress } from '../egress.js'
import { NO_PORT } from '../fdb.js'
import type { Network } from '../network.js'
import { admitTo, NOT_ADMITTED } from '../port-rules.js'
import { Barrier, floodBarrier, type Output, type PortSpec, PortState, Side } from '../port-state.js'
import { macNumber } from './addresses.js'
import { Claims } from './claims.js'
import { bytesOf } from './control-frames.js'
import { type Neighbor, Neighbors } from './neighbors.js'
import type { Trunks } from './trunks.js'

/** Longest frames for the LAN that carriers and agreements are made for, whatever our own device could send. */
const LAN_MTU = 1500
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

// Methods are `private`, not #private: with these V8 allocates per frame here (test/forwarding/allocation.test.ts).
export class Uplink implements Output {
  /** The LAN as the outside world. */
  readonly port: PortState
  readonly #network: Network
  readonly #egress: Egress
  readonly #trunks: Trunks
  readonly #device: Output
  readonly #claims: Claims
  /** The other switches. */
  readonly neighbors: Neighbors
  refusal: DropReason = 'tx-error'
  readonly #frame = new Frame()
  /** When the peers must have heard that we are new; not known before the first HELLO. */
  #quietUntil = Number.POSITIVE_INFINITY
  /** It neither sends frames as they are nor takes them so. */
  quiet = true
  #nextDiscovery = Number.NEGATIVE_INFINITY
  #nextHello = Number.NEGATIVE_INFINITY
  #nextClaims = Number.NEGATIVE_INFINITY
  #nextLocations = Number.NEGATIVE_INFINITY
  #toldLowest = NONE

  constructor(network: Network, egress: Egress, trunks: Trunks, spec: PortSpec, device: Output) {
    this.#network = network
    this.#egress = egress
    this.#trunks = trunks
    this.#device = device
    const mtu = Math.min(spec.uplink!.mtu, LAN_MTU)
    this.#claims = new Claims(network, mostClaims(mtu))
    this.port = new PortState(spec, this, network)
    this.neighbors = new Neighbors(network, trunks, this.port, device, mtu)
  }

  /** The device has another MTU: from the next frame on, what is made for the LAN fits it. */
  resize(mtu: number): void {
    const lan = Math.min(mtu, LAN_MTU)
    this.#claims.limit = mostClaims(lan)
    this.neighbors.resize(lan)
    // Claims that an agreement has no room for any more go at once.
    this.#nextClaims = Number.NEGATIVE_INFINITY
  }

  /** What is behind the uplink's device has the same rules, whoever it is. */
  setRules(rules: PortRules): void {
    this.neighbors.setRules(rules)
  }

  /**
   * A frame from the LAN. The port that it is to be forwarded from: the outside world's or a peer's. Null: it is dealt
   * with.
   */
  enter(frame: Frame, now: number): PortState | null {
    frame.color = NO_COLOR
    if (isBetweenSwitches(frame)) return this.control(frame, now)
    const { bytes, start } = frame
    const high = macHigh(bytes, start + 6)
    const low = macLow(bytes, start + 6)
    const { claimed, carriedFrom } = this.neighbors
    const index = claimed.get(high, low)
    if (index === NO_PORT) {
      // It may be a peer's, by the bit, to a former boot of ours.
      if (this.quiet) return this.refuse(frame, 'starting', now)
      if (carriedFrom.lookUp(high, low, 0, Math.floor(now / 1000)) === NO_PORT) return this.port
    } else {
      const { peer, port } = this.neighbors.of(index)
      const isToClaim = !isGroup(bytes, start) && peer.readable.has(macHigh(bytes, start), macLow(bytes, start))
      const bit = isToClaim ? colorBit(frame) : NO_BIT
      if (bit !== NO_BIT && peer.readsFrom !== NONE) {
        if (peer.doubted) return this.refuse(frame, 'starting', now)
        frame.color = epochOfBit(bit, peer.readsFrom)
        if (bit === 1) flipColorBit(frame)
        port.channel!.received.add(frame.color, segmentsOf(frame))
        return port
      }
    }
    this.passPlainCopy(frame, now)
    return null
  }

  /**
   * The index of the peer that claims a frame's destination, or NO_PORT. After a restore machines may have moved: what
   * a peer claims counts again when it has told that it is past the fence.
   */
  behind(bytes: Uint8Array, start: number): number {
    const index = this.neighbors.claimed.get(macHigh(bytes, start), macLow(bytes, start))
    if (index === NO_PORT) return NO_PORT
    return this.neighbors.of(index).peer.lowest < this.#network.fence ? NO_PORT : index
  }

  /** A restore has put up a fence, or a port has become another: the peers are to know soon which machines are here. */
  fenced(): void {
    this.#nextClaims = Number.NEGATIVE_INFINITY
  }

  /** To the outside world. */
  send(frame: Frame, _serviceTci: number): boolean {
    // A guest's, or an outsider's behind another port: on the LAN it would be taken for ours.
    const refusal = isBetweenSwitches(frame) ? 'control-forged' : this.quiet ? 'starting' : null
    if (refusal !== null) {
      this.#network.counters[this.port.row + Drop[refusal]]++
      this.refusal = refusal
      return false
    }
    const { bytes, start } = frame
    // The carriers of this frame have left already, to wherever the machine may be.
    if (frame.color !== NO_COLOR && this.neighbors.claimed.has(macHigh(bytes, start), macLow(bytes, start))) return true
    if (this.#device.send(frame, -1)) return true
    this.refusal = this.#device.refusal ?? 'tx-error'
    return false
  }

  tick(now: number): void {
    this.#quietUntil = Math.min(this.#quietUntil, now + QUIET)
    this.quiet = now < this.#quietUntil
    this.neighbors.carriedFrom.sweep(Math.floor(now / 1000), 256)
    if (now >= this.#nextDiscovery) {
      this.#nextDiscovery = now + (this.quiet ? QUIET_INTERVAL_MS : INTERVAL_MS)
      this.discover(now)
    }
    const isDue = now >= this.#nextHello
    if (isDue) {
      this.#nextHello = now + INTERVAL_MS
      this.neighbors.forget(now)
    }
    let isNews = false
    if (now >= this.#nextClaims) {
      this.#nextClaims = now + CLAIMS_INTERVAL_MS
      isNews = this.#claims.refresh(now)
    }
    if (isNews || now >= this.#nextLocations) this.locate(now)
    const lowest = this.lowest()
    if (lowest !== this.#toldLowest) isNews = true
    this.#toldLowest = lowest
    for (const neighbor of this.neighbors.joined()) {
      if (isNews) neighbor.peer.claimsChanged(this.#claims)
      const moved = neighbor.peer.moveOn(now)
      if (isDue || isNews || moved) this.tell(neighbor, now)
    }
  }

  /** The port is being removed: its peers go with it. */
  close(): void {
    this.neighbors.close()
  }

  exchange(state: StateExchange): void {
    this.#quietUntil = state.value('quietUntil', this.#quietUntil)
    this.quiet = state.value('quiet', this.quiet)
    this.#nextDiscovery = state.value('nextDiscovery', this.#nextDiscovery)
    this.#nextHello = state.value('nextHello', this.#nextHello)
    this.#nextClaims = state.value('nextClaims', this.#nextClaims)
    this.#nextLocations = state.value('nextLocations', this.#nextLocations)
    this.#toldLowest = state.value('toldLowest', this.#toldLowest)
    state.part('neighbors', (part) => this.neighbors.exchange(part))
    state.part('claims', (part) => this.#claims.exchange(part))
  }

  /** A HELLO from a peer was believed. */
  private heard(neighbor: Neighbor, now: number): void {
    const { port } = neighbor
    const channel = port.channel!
    neighbor.peer.lastSign = now
    neighbor.peer.doubted = false
    if (!neighbor.joined) this.neighbors.join(neighbor)
    if (neighbor.peer.heard === channel.bootId) return
    neighbor.peer.met(channel.bootId!)
    this.#network.fdb.flushPort(port.index)
    this.neighbors.carriedFrom.flushPort(port.index)
    this.neighbors.grant()
    this.tell(neighbor, now)
  }

  /** An AGREEMENT was believed, as far as its head goes: the rest may be damaged, or not sealed. */
  private agree(neighbor: Neighbor, frame: Frame, bootId: string, now: number): void {
    const { controlKey } = this.#network.options
    const agreement = readAgreement(bytesOf(frame), controlKey === null ? CONTROL_LENGTH : SEALED_LENGTH, controlKey)
    if (agreement === null) {
      this.refuse(frame, 'control-malformed', now)
      return
    }
    if (!neighbor.joined || bootId !== neighbor.peer.heard) return
    const before = neighbor.peer.agreement(this.#claims, this.#toldLowest)
    const former = neighbor.peer.theirs
    const changed = neighbor.peer.take(agreement, this.#claims, now)
    if (changed.claims) {
      this.neighbors.grant()
      this.forget(neighbor, former)
    }
    // Whoever was taken for an outsider up to now may be a member over there.
    if (changed.claims || changed.way) this.#network.fdb.flushPort(this.port.index)
    if (!Buffer.from(before).equals(neighbor.peer.agreement(this.#claims, this.#toldLowest))) this.tell(neighbor, now)
  }

  /** What a peer claims no more may be an outsider's behind it; a member's address is learned again at once. */
  private forget({ port, peer }: Neighbor, former: readonly number[]): void {
    const still = new Set(peer.theirs)
    const gone = new Set(former.filter((mac) => !still.has(mac)))
    if (gone.size === 0) return
    const isGone = (high: number, low: number) => gone.has(macNumber(high, low))
    this.#network.fdb.flushAddresses(port.index, isGone)
    this.neighbors.carriedFrom.flushAddresses(port.index, isGone)
  }

  /** Every peer knows what is claimed here. */
  get claimsAreHeard(): boolean {
    return this.neighbors.joined().every(({ peer }) => peer.knows(this.#claims))
  }

  private control(frame: Frame, now: number): PortState | null {
    const { bytes, start } = frame
    const isToAll = isGroup(bytes, start)
    if (!isToAll && !this.isOurs(bytes, start)) return null
    const known = this.neighbors.find(bytes, start + 6)
    if (bytes[start + CarrierField.TYPE] === CARRIER_TYPE) return this.carrier(known, frame, now)
    if (bytes[start + CarrierField.TYPE] === LOCATION_TYPE) return null
    if (known !== undefined && !isToAll) return this.said(known, frame, now)
    const { options } = this.#network
    const message = this.#trunks.frames.read(this.port, frame, now)
    // Another network may have its switches on the same LAN.
    if (message === null || message.network !== options.network || message.bootId === options.bootId) return null
    if (message.type !== ControlType.HELLO) return null
    const neighbor = known ?? this.neighbors.meet(bytes.slice(start + 6, start + 12), now)
    if (neighbor === null) return this.refuse(frame, 'control-unexpected', now)
    if (!isToAll) return this.said(neighbor, frame, now)
    neighbor.peer.doubt(message.bootId)
    if (neighbor.peer.heard !== message.bootId && now >= neighbor.peer.nextAnswer) {
      // A HELLO to all says that somebody is there; what counts is what we then say to one another.
      neighbor.peer.nextAnswer = now + ANSWER_INTERVAL_MS
      this.#trunks.greet(neighbor.port, now)
    }
    return null
  }

  /** A control frame from a switch that has been met, to us alone. */
  private said(neighbor: Neighbor, frame: Frame, now: number): null {
    const message = this.#trunks.control(neighbor.port, frame, now)
    if (message?.type === ControlType.HELLO) this.heard(neighbor, now)
    else if (message?.type === ControlType.AGREEMENT) this.agree(neighbor, frame, message.bootId, now)
    return null
  }

  private refuse(frame: Frame, reason: DropReason, now: number): null {
    return this.#egress.misread(this.port, frame, reason, now)
  }

  private carrier(from: Neighbor | undefined, frame: Frame, now: number): PortState | null {
    if (from === undefined || frame.length <= CARRIER_HEADER_LENGTH || !from.peer.isOfBoot(frame))
      return this.refuse(frame, 'carrier-unexpected', now)
    const { peer, port } = from
    const generation = frame.bytes[frame.start + CarrierField.GENERATION]
    const isWhole = peer.unpack(frame)
    this.#network.counters[this.port.row + Drop['carrier-broken']] += peer.broken
    peer.broken = 0
    if (!isWhole) return null
    if (!isWellFormed(frame)) return this.refuse(frame, 'malformed', now)
    if (!port.channel!.take(generation, frame.color, segmentsOf(frame)))
      return this.refuse(frame, 'other-generation', now)
    const { bytes, start } = frame
    const high = macHigh(bytes, start + 6)
    const low = macLow(bytes, start + 6)
    if (!isGroup(bytes, start + 6)) this.neighbors.carriedFrom.learn(high, low, 0, port.index, Math.floor(now / 1000))
    return port
  }

  /** What a remote member has sent to the world, seen here: the outside behind our plain ports is part of the world. */
  private passPlainCopy(frame: Frame, now: number): void {
    const { observer } = this.#network
    if (observer === null) {
      this.passToOutside(frame, now)
      return
    }
    observer.came(this.port, frame, now)
    this.passToOutside(frame, now)
    observer.gone()
  }

  private passToOutside(frame: Frame, now: number): void {
    const { fdb, ports, byIndex } = this.#network
    const vlans = this.port.rules?.vlans ?? null
    const vlan = vlans === null ? vlanId(frame) : admitTo(vlans, frame)
    if (vlan === NOT_ADMITTED) {
      this.#egress.refuse(this.port, frame, 'vlan', true)
      return
    }
    const { bytes, start } = frame
    const isolated = this.port.blocked & Barrier.ISOLATED
    if (!isGroup(bytes, start)) {
      const to = fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlan, Math.floor(now / 1000))
      if (to !== NO_PORT) {
        const port = byIndex[to]!
        const isOutside = port.side === Side.PLAIN || now < port.outsiderUntil || port.leaving
        if (isOutside && (isolated & port.mask) === 0) this.#egress.deliver(port, frame, now)
        return
      }
    } else if (isLinkLocal(bytes, start) && this.#network.linkLocalRefusal(bytes, start) !== null) {
      return
    }
    const blocked = isolated | floodBarrier(frame, false)
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      if (port.side === Side.PLAIN && (blocked & port.mask) === 0) this.#egress.deliver(port, frame, now)
    }
  }

  private isOurs(bytes: Uint8Array, start: number): boolean {
    const { mac } = this.port.spec
    for (let i = 0; i < 6; i++) if (bytes[start + i] !== mac[i]) return false
    return true
  }

  /** Says to all switches that we are there. */
  private discover(now: number): void {
    const { epoch } = this.#network
    const words = { type: ControlType.HELLO, destination: CONTROL_GROUP, epoch, count: 0 }
    this.#device.send(this.#trunks.frames.compose(this.port, words, now), -1)
  }

  private lowest(): number {
    let lowest = this.#network.epoch
    for (const port of this.#network.ports) if (port.isMember) lowest = Math.min(lowest, port.epoch)
    return lowest
  }

  /**
   * Before anything is sent to a claim under its own address: what the LAN does not know it floods, to outside hosts as
   * well.
   */
  private locate(now: number): void {
    this.#nextLocations = now + LOCATION_INTERVAL_MS
    for (const mac of this.#claims.list) {
      const body = encodeLocation(mac)
      const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
      bytes.set(body, VNET_HEADER_LENGTH)
      this.#device.send(this.#frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }), -1)
    }
  }

  private tell({ port, peer }: Neighbor, now: number): void {
    const { epoch } = this.#network
    const agreement = peer.agreement(this.#claims, this.#toldLowest)
    const words = { type: ControlType.AGREEMENT, destination: peer.mac, epoch, count: 0, agreement }
    port.output.send(this.#trunks.frames.compose(port, words, now), -1)
  }
}

/** How many claims an agreement has room for, in one frame. */
function mostClaims(mtu: number): number {
  return Math.floor((mtu + ETHERNET_HEADER_LENGTH - AGREEMENT_OVERHEAD) / 6)
}
