// One peer switch on a shared LAN, as a port: what is sent here reaches that switch only, with its color. By the DSCP
// bit where both sides have agreed how it is read, else in a carrier.
//
// The agreement, field by field (src/frame/agreement.ts), and why nothing is ever misread:
//
// - A frame without a carrier is taken for a peer's by its addresses: from a claim of the peer's, to a claim of ours.
//   So the peer must know that we hold its claims before it sends from them (`sources`), and we must know that it holds
//   ours before we read frames to them (`readable`), and it must know that before it sends them (`destinations`). What
//   is sent meanwhile is carried.
// - From when a switch holds a claim it sends no plain frame from a member to it (Uplink.behind), so what
//   comes to a readable address from a claim is colored.
// - An address that two switches claim is granted to the first; the frames of the other one are carried.
// - The bit stands for two colors that follow one another; which two, the reader says (`readsFrom`), and frames of
//   other colors are carried. The reader moves on only when the sender has said for a while that it is past the lower
//   one.
// - All of this is agreed between two ends (src/epoch/peer-channel.ts): another boot, or another uplink within a boot,
//   has agreed on nothing.

import { UNCOUNTED } from '../../../src/epoch/peer-channel.js'
import type { StateExchange } from '../../../src/epoch/state.js'
import { type Agreement, encodeAgreement, MAX_CLAIMS, NONE } from '../../../src/frame/agreement.js'
import { CARRIER_HEADER_LENGTH, CarrierField, CarrierWriter, u16, u32 } from '../../../src/frame/carrier.js'
import { colorBit, flipColorBit } from '../../../src/frame/color-dscp.js'
import { generationOfVid } from '../../../src/frame/color-tag.js'
import {
  ETHERNET_HEADER_LENGTH,
  EtherType,
  innerEtherType,
  isGroup,
  macHigh,
  macLow,
  VLAN_TAG_LENGTH,
} from '../../../src/frame/ethernet.js'
import { Frame, MAX_FRAME_LENGTH, NO_COLOR, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { longestOf } from '../../../src/frame/segments.js'
import type { Output } from '../port-state.js'
import { AddressSet } from './addresses.js'
import type { Claims } from './claims.js'

/** Milliseconds after which no frame of a color that is not sent any more is under way on a LAN. */
const IN_FLIGHT_AT_MOST = 2000
const BOOTS_KEPT = 8
/** Milliseconds without a HELLO in which one was due. */
const SILENT = 1500

export interface PeerOptions {
  readonly bootId: string
  /** Of what is made for the LAN. */
  readonly mtu: number
  /** Of the LAN itself: longer frames do not travel it as they are. */
  readonly lanMtu: number
  /** Both ways: a side that does not use it does not read it either, and says so. */
  readonly usesBit: boolean
  /** Control frames are sealed. */
  readonly keyed: boolean
}

export class UplinkPeer implements Output {
  readonly mac: Uint8Array
  /** Carries members' frames to it: it has heard of us in our present boot. */
  established = false
  /** The boot of it that is believed, 16 hex digits. */
  heard: string | null = null
  /** When it was met, or a HELLO of it was believed. */
  lastSign: number
  nextAnswer = Number.NEGATIVE_INFINITY
  /** Its claims, as last heard. */
  theirs: readonly number[] = []
  /** Of those, the ones that another switch has claimed before. */
  refused: readonly boolean[] = []
  /** Our addresses that it may send to without a carrier. */
  readonly readable = new AddressSet(MAX_CLAIMS)
  readsFrom = NONE
  /** The lowest color that it may still give a frame. */
  lowest = NONE
  /** It may have begun anew: nothing is read or sent by the bit until a HELLO to us says what it is now. */
  doubted = false
  /** Its end that is believed. */
  #end = 0
  /** What ends the doubt is an end with a higher number; 0: any will do. */
  #doubtedEnd = 0
  /** Boots that it has had: old HELLOs of theirs, sent again by somebody, raise no doubt. */
  readonly #former: string[] = []
  readonly #device: Output
  readonly #options: PeerOptions
  readonly #writer: CarrierWriter
  readonly #carrier = new Frame()
  /** Our addresses whose frames it takes for ours. */
  readonly #sources = new AddressSet(MAX_CLAIMS)
  /** Addresses over there to which a frame may go without a carrier. */
  readonly #destinations = new AddressSet(MAX_CLAIMS)
  #theirVersion = 0
  /** Version of our claims that `readable` has. */
  #readVersion = 0
  /** How it reads our bit. */
  writesFrom = NONE
  #lowestSince = 0
  #carriesToUs = false
  #heardHigh = 0
  #heardLow = 0
  #sequence = 0
  #lanMtu: number
  /** A frame that comes in pieces. */
  #assembly: Uint8Array | null = null
  /** Bytes of it that have come, and the number of the next piece. */
  filled = 0
  nextSequence = -1
  /** Pieces that made no frame, because others of it are missing. */
  broken = 0

  constructor(mac: Uint8Array, source: Uint8Array, device: Output, options: PeerOptions, now: number) {
    this.mac = mac
    this.#device = device
    this.#options = options
    this.#writer = new CarrierWriter(options.mtu, options.bootId, mac, source)
    this.#lanMtu = options.lanMtu
    this.lastSign = now
  }

  /** A HELLO to us of its present end was believed. False: it is known. Else nothing agreed holds any more. */
  meets(bootId: string, end: number): boolean {
    if (bootId !== this.heard || end > this.#doubtedEnd) {
      this.doubted = false
      this.#doubtedEnd = 0
    }
    if (bootId === this.heard && end === this.#end) return false
    if (this.heard !== null && this.heard !== bootId) this.#former.push(this.heard)
    if (this.#former.length > BOOTS_KEPT) this.#former.shift()
    this.heard = bootId
    this.#end = end
    this.#heardHigh = Number.parseInt(bootId.slice(0, 8), 16)
    this.#heardLow = Number.parseInt(bootId.slice(8), 16)
    this.established = false
    this.#carriesToUs = false
    this.theirs = []
    this.refused = []
    for (const set of [this.readable, this.#sources, this.#destinations]) set.assign([])
    this.#theirVersion = 0
    this.#readVersion = 0
    this.readsFrom = NONE
    this.writesFrom = NONE
    this.lowest = NONE
    this.nextSequence = -1
    this.filled = 0
    return true
  }

  /**
   * A HELLO to all, which may be anybody's that has the key, or an old one. True: it is of another boot or uplink than
   * what is believed, and then there may be doubt.
   *
   * Numbers grow within a boot and, unless a clock is set back, over boots. With a key, only an old HELLO sent again
   * says a lower one while the boot that is believed goes on talking.
   */
  doubts({ bootId, number }: { readonly bootId: string; readonly number: number }, now: number): boolean {
    const isSameBoot = bootId === this.heard
    const isNewer = number > this.#end
    if (isSameBoot && !isNewer) return false
    if (this.heard === null || this.#former.includes(bootId)) return true
    if (!isNewer && this.#options.keyed && now - this.lastSign < SILENT) return true
    this.doubted = true
    if (isSameBoot) this.#doubtedEnd = Math.max(this.#doubtedEnd, number)
    return true
  }

  /** Takes note of an agreement of its present boot. Says what has changed: the claims, or how frames travel. */
  take(agreement: Agreement, claims: Claims, now: number): { claims: boolean; way: boolean } {
    // Of another boot of ours, or overtaken by a later one: what we have said of that would not hold any more.
    const isOld = ((agreement.version - this.#theirVersion) | 0) < 0 && this.#theirVersion !== 0
    if (agreement.heard !== this.#options.bootId || isOld) return { claims: false, way: false }
    const way = !this.established || this.#carriesToUs !== agreement.carries
    this.established = true
    this.#carriesToUs = agreement.carries
    const newClaims = agreement.version !== this.#theirVersion
    if (newClaims) {
      this.#theirVersion = agreement.version
      this.theirs = agreement.claims
      this.refused = []
      this.#destinations.keep(this.theirs)
    }
    if (agreement.held === claims.version) {
      this.readable.assign(claims.list)
      this.#sources.assign(claims.list.filter((_, at) => !agreement.refused[at]))
      this.#readVersion = claims.version
    }
    if (agreement.read === this.#theirVersion) {
      this.#destinations.assign(this.theirs.filter((_, at) => !this.refused[at]))
    }
    this.writesFrom = agreement.readsFrom
    if (agreement.lowest > this.lowest) {
      this.lowest = agreement.lowest
      this.#lowestSince = now
    }
    this.moveOn(now)
    return { claims: newClaims, way }
  }

  /** Reads the bit as later colors, when it is time; true when it does from now on. */
  moveOn(now: number): boolean {
    if (!this.#options.usesBit) return false
    if (this.lowest === NONE || this.lowest === this.readsFrom) return false
    if (this.readsFrom !== NONE && now - this.#lowestSince < IN_FLIGHT_AT_MOST) return false
    this.readsFrom = this.lowest
    return true
  }

  /** Our claims have changed: what is not among them any more is not sent from without a carrier. */
  claimsChanged(claims: Claims): void {
    this.#sources.keep(claims.list)
  }

  /** It has said that it holds our claims as they are. */
  knows(claims: Claims): boolean {
    return this.#readVersion === claims.version
  }

  /** The LAN has another MTU from now on, and carriers fit another one. */
  resize(mtu: number, lanMtu: number): void {
    this.#writer.resize(mtu)
    this.#lanMtu = lanMtu
  }

  /** What it is to know now. */
  agreement(claims: Claims, lowest: number): Uint8Array {
    return encodeAgreement({
      heard: this.heard!,
      carries: this.established,
      version: claims.version,
      held: this.#theirVersion,
      read: this.#readVersion,
      readsFrom: this.readsFrom,
      lowest,
      refused: this.refused,
      claims: claims.list,
    })
  }

  /** A member's frame, with its color; or, uncolored, one between switches. */
  send(frame: Frame, serviceTci: number): boolean {
    if (frame.color === NO_COLOR) return this.#device.send(frame, -1)
    if (!this.established) return false
    const generation = generationOfVid(serviceTci)
    // What travels without a carrier is counted as of the generation agreed.
    if (generation === UNCOUNTED || !this.mayUseBit(frame)) return this.#carry(frame, generation)
    if ((frame.color & 1) !== 0) flipColorBit(frame)
    return this.#device.send(frame, -1)
  }

  /** Whether a carrier is of the boot that we have heard of: then both count the frames from the same one on. */
  isOfBoot(frame: Frame): boolean {
    const isSame =
      u32(frame, CarrierField.BOOT) === this.#heardHigh && u32(frame, CarrierField.BOOT + 4) === this.#heardLow
    return this.heard !== null && isSame
  }

  /** A carrier has come in. True: `frame` now points at what it carried, or at what is complete with it. */
  unpack(frame: Frame): boolean {
    const whole = u32(frame, CarrierField.WHOLE)
    const offset = u32(frame, CarrierField.OFFSET)
    const sequence = u32(frame, CarrierField.SEQUENCE)
    const wasCut = this.filled > 0 && (offset !== this.filled || sequence !== this.nextSequence)
    if (wasCut) {
      this.broken++
      this.filled = 0
    }
    const piece = Math.min(frame.length - CARRIER_HEADER_LENGTH, whole - offset)
    if (offset !== this.filled || piece <= 0 || whole > VNET_HEADER_LENGTH + MAX_FRAME_LENGTH) {
      this.broken++
      return false
    }
    const { start } = frame
    const color = u32(frame, CarrierField.COLOR)
    const tagTpid = u16(frame, CarrierField.TPID)
    const tagTci = u16(frame, CarrierField.TCI)
    if (piece < whole) {
      this.#assembly ??= new Uint8Array(VNET_HEADER_LENGTH + MAX_FRAME_LENGTH)
      const from = start + CARRIER_HEADER_LENGTH
      this.#assembly.set(frame.bytes.subarray(from, from + piece), offset)
      this.filled = offset + piece
      this.nextSequence = (sequence + 1) >>> 0
      if (this.filled < whole) return false
      frame.bytes = this.#assembly
      frame.address = 0
      frame.vnet = 0
      this.filled = 0
    } else {
      frame.vnet = start + CARRIER_HEADER_LENGTH
    }
    frame.start = frame.vnet + VNET_HEADER_LENGTH
    frame.length = whole - VNET_HEADER_LENGTH
    frame.tagTpid = tagTpid
    frame.tagTci = tagTci
    frame.color = color
    return true
  }

  exchange(state: StateExchange): void {
    this.established = state.value('established', this.established)
    this.heard = state.value('heard', this.heard)
    this.lastSign = state.value('lastSign', this.lastSign)
    this.nextAnswer = state.value('nextAnswer', this.nextAnswer)
    this.theirs = state.value('theirs', this.theirs)
    this.refused = state.value('refused', this.refused)
    state.part('readable', (part) => this.readable.exchange(part))
    state.part('sources', (part) => this.#sources.exchange(part))
    state.part('destinations', (part) => this.#destinations.exchange(part))
    this.readsFrom = state.value('readsFrom', this.readsFrom)
    this.lowest = state.value('lowest', this.lowest)
    this.doubted = state.value('doubted', this.doubted)
    this.#end = state.value('end', this.#end)
    this.#doubtedEnd = state.value('doubtedEnd', this.#doubtedEnd)
    const former = state.value('former', this.#former)
    if (state.isLoading) this.#former.push(...former)
    this.#theirVersion = state.value('theirVersion', this.#theirVersion)
    this.#readVersion = state.value('readVersion', this.#readVersion)
    this.writesFrom = state.value('writesFrom', this.writesFrom)
    this.#lowestSince = state.value('lowestSince', this.#lowestSince)
    this.#carriesToUs = state.value('carriesToUs', this.#carriesToUs)
    this.#heardHigh = state.value('heardHigh', this.#heardHigh)
    this.#heardLow = state.value('heardLow', this.#heardLow)
    this.#sequence = state.value('sequence', this.#sequence)
    this.nextSequence = state.value('nextSequence', this.nextSequence)
    this.broken = state.value('broken', this.broken)
    this.filled = state.value('filled', this.filled)
    const begun = state.value('assembly', this.#assembly?.slice(0, this.filled) ?? null)
    if (!state.isLoading || begun === null) return
    this.#assembly = new Uint8Array(VNET_HEADER_LENGTH + MAX_FRAME_LENGTH)
    this.#assembly.set(begun.subarray(0, this.#assembly.length))
  }

  mayUseBit(frame: Frame): boolean {
    if (!this.#options.usesBit || this.doubted || this.writesFrom === NONE) return false
    if (frame.color !== this.writesFrom && frame.color !== this.writesFrom + 1) return false
    const { bytes, start } = frame
    if (isGroup(bytes, start) || (frame.tagTpid !== 0 && frame.tagTpid !== EtherType.VLAN)) return false
    if (!this.#sources.has(macHigh(bytes, start + 6), macLow(bytes, start + 6))) return false
    if (!this.#destinations.has(macHigh(bytes, start), macLow(bytes, start))) return false
    // A bit that the guest has set is the guest's.
    return colorBit(frame) === 0 && this.#fits(frame)
  }

  /** As it is, on the LAN: a tag is not counted, as in the kernel. */
  #fits(frame: Frame): boolean {
    const most = ETHERNET_HEADER_LENGTH + this.#lanMtu
    if (frame.length <= most) return true
    const tag = frame.tagTpid === 0 && innerEtherType(frame) === EtherType.VLAN ? VLAN_TAG_LENGTH : 0
    return longestOf(frame) - tag <= most
  }

  #carry(frame: Frame, generation: number): boolean {
    const whole = VNET_HEADER_LENGTH + frame.length
    let sent = true
    for (let offset = 0; offset < whole; ) {
      offset += this.#writer.write(frame, offset, this.#sequence, generation, this.#carrier)
      this.#sequence = (this.#sequence + 1) >>> 0
      if (!this.#device.send(this.#carrier, -1)) sent = false
    }
    return sent
  }
}
