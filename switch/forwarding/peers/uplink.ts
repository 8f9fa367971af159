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
import { NONE } from '../../../src/frame/agreement.js'
import {
  CARRIER_HEADER_LENGTH,
  CARRIER_TYPE,
  CarrierField,
  isBetweenSwitches,
  LOCATION_TYPE,
  wouldBeBetweenSwitches,
} from '../../../src/frame/carrier.js'
import { colorBit, epochOfBit, flipColorBit, NO_BIT } from '../../../src/frame/color-dscp.js'
import { isGroup, isWellFormed, macHigh, macLow } from '../../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../../src/frame/frame.js'
import { segmentsOf } from '../../../src/frame/segments.js'
import { Drop, type DropReason } from '../counters.js'
import type { Egress } from '../egress.js'
import { NO_PORT } from '../fdb.js'
import type { Network } from '../network.js'
import { type Output, type PortSpec, PortState } from '../port-state.js'
import { Conversation } from './conversation.js'
import { MADE_MTU, type Neighbor, Neighbors } from './neighbors.js'
import { PlainCopies } from './plain-copies.js'
import type { Trunks } from './trunks.js'

// Methods are `private`, not #private: with these V8 allocates per frame here (test/forwarding/allocation.test.ts).
export class Uplink implements Output {
  /** The LAN as the outside world. */
  readonly port: PortState
  readonly #network: Network
  readonly #egress: Egress
  readonly #device: Output
  readonly conversation: Conversation
  readonly #plainCopies: PlainCopies
  /** The other switches. */
  readonly neighbors: Neighbors
  refusal: DropReason = 'tx-error'
  constructor(network: Network, egress: Egress, trunks: Trunks, spec: PortSpec, device: Output) {
    this.#network = network
    this.#egress = egress
    this.#device = device
    const { mtu } = spec.uplink!
    this.port = new PortState(spec, this, network)
    this.neighbors = new Neighbors(network, trunks, this.port, device, mtu)
    this.conversation = new Conversation(
      network,
      egress,
      trunks,
      this.port,
      this.neighbors,
      device,
      Math.min(mtu, MADE_MTU),
    )
    this.#plainCopies = new PlainCopies(network, egress, this.port)
  }

  /** The device has another MTU: from the next frame on, all that is sent to peers fits it. */
  resize(mtu: number): void {
    this.neighbors.resize(mtu)
    this.conversation.resize(Math.min(mtu, MADE_MTU))
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
    if (isBetweenSwitches(frame)) return this.fromSwitch(frame, now)
    const { bytes, start } = frame
    const high = macHigh(bytes, start + 6)
    const low = macLow(bytes, start + 6)
    const { claimed, carriedFrom } = this.neighbors
    const index = claimed.get(high, low)
    if (index === NO_PORT) {
      // It may be a peer's, by the bit, to a former boot of ours.
      if (this.conversation.quiet) return this.refuse(frame, 'starting', now)
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
    this.#plainCopies.pass(frame, now)
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
    this.conversation.claimSoon()
  }

  /** To the outside world. */
  send(frame: Frame, _serviceTci: number): boolean {
    // A guest's, or an outsider's behind another port: on the LAN it would be taken for ours.
    const refusal = wouldBeBetweenSwitches(frame) ? 'control-forged' : this.conversation.quiet ? 'starting' : null
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
    this.neighbors.carriedFrom.sweep(Math.floor(now / 1000), 256)
    this.conversation.tick(now)
  }

  /** The port is being removed: its peers go with it. */
  close(): void {
    this.neighbors.close()
  }

  exchange(state: StateExchange): void {
    this.conversation.exchange(state)
  }

  /** Every peer knows what is claimed here. */
  get claimsAreHeard(): boolean {
    return this.conversation.claimsAreHeard
  }

  private fromSwitch(frame: Frame, now: number): PortState | null {
    const { bytes, start } = frame
    const isToAll = isGroup(bytes, start)
    if (!isToAll && !this.isOurs(bytes, start)) return null
    const known = this.neighbors.find(bytes, start + 6)
    const type = bytes[start + CarrierField.TYPE]
    if (type === CARRIER_TYPE) return this.carrier(known, frame, now)
    return type === LOCATION_TYPE ? null : this.conversation.hear(known, isToAll, frame, now)
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

  private isOurs(bytes: Uint8Array, start: number): boolean {
    const { mac } = this.port.spec
    for (let i = 0; i < 6; i++) if (bytes[start + i] !== mac[i]) return false
    return true
  }
}
