// Carriers: how a frame travels over a shared LAN from one switch to another when it must not be seen as it is. The
// frame, whole, with its virtio-net header, is the payload of frames addressed to the peer switch; in several pieces
// when it is longer than the LAN's frames. All integers big-endian.
//
//   0 destination 6 | source 6 | 88B5                  14 magic "SNSW" | version 1 | type 1 | generation 1 | zero 1
//  22 the sender's boot id 8                           30 color 4 | sequence 4 | bytes of the whole 4 | offset 4
//  46 the tag kept beside the frame: TPID 2 | TCI 2    50 a piece of: virtio-net header 10, frame
//
// `sequence` counts the pieces sent to one peer. The first twenty bytes are those of a control frame (control.ts).

import { CONTROL_GROUP, CONTROL_MAGIC } from './control.js'
import { ETHERNET_HEADER_LENGTH, EtherType, innerEtherType, VLAN_TAG_LENGTH } from './ethernet.js'
import { type Frame, VNET_HEADER_LENGTH } from './frame.js'

export const CARRIER_TYPE = 5
/**
 * Nothing but a source address: a member's, so that the LAN's switches know where it is though the frames that it sends
 * travel under its switch's address. Switches of ours drop it, outside hosts do not know its EtherType.
 */
export const LOCATION_TYPE = 6
const LOCATION_LENGTH = 60
export const CARRIER_VERSION = 3
export const CARRIER_HEADER_LENGTH = 50
/** What a carrier adds to the network layer of the LAN: its header without the Ethernet header that any frame has. */
export const CARRIER_OVERHEAD = CARRIER_HEADER_LENGTH - ETHERNET_HEADER_LENGTH

/** A LAN with an MTU below 68 could not carry IPv4 (RFC 791). */
const LEAST_ROOM = 68 - CARRIER_OVERHEAD

/** Offsets of the fields. */
export const CarrierField = {
  VERSION: 18,
  TYPE: 19,
  GENERATION: 20,
  BOOT: 22,
  COLOR: 30,
  SEQUENCE: 34,
  WHOLE: 38,
  OFFSET: 42,
  TPID: 46,
  TCI: 48,
} as const

/**
 * Whether the frame is one of ours, carrier or control: an 0x88B5 with our magic, without a tag, or with one of
 * priority alone. Some NICs and switches put that around whatever has none (IEEE 802.1Q, VID 0).
 */
export function isBetweenSwitches(frame: Frame): boolean {
  return (
    (frame.tagTpid === 0 || (frame.tagTpid === EtherType.VLAN && (frame.tagTci & 0xfff) === 0)) &&
    frame.length >= 20 &&
    innerEtherType(frame) === EtherType.CONTROL &&
    u32(frame, 14) === CONTROL_MAGIC
  )
}

/** Whether it would be one of ours without its tags, which a LAN may take off: those of its native VLAN, say. */
export function wouldBeBetweenSwitches(frame: Frame): boolean {
  let at = 12
  let type = innerEtherType(frame)
  while ((type === EtherType.VLAN || type === EtherType.SERVICE_VLAN) && frame.length >= at + 6) {
    at += VLAN_TAG_LENGTH
    type = u16(frame, at)
  }
  return type === EtherType.CONTROL && frame.length >= at + 8 && u32(frame, at + 2) === CONTROL_MAGIC
}

/** A 32-bit field of a carrier, without an allocation. */
export function u32(frame: Frame, field: number): number {
  const { bytes } = frame
  const at = frame.start + field
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0
}

export function u16(frame: Frame, field: number): number {
  const at = frame.start + field
  return (frame.bytes[at] << 8) | frame.bytes[at + 1]
}

/** A frame that tells the LAN where `mac`, a number of 48 bits, is; to the group that all our switches listen to. */
export function encodeLocation(mac: number): Uint8Array {
  const bytes = new Uint8Array(LOCATION_LENGTH)
  const view = new DataView(bytes.buffer)
  bytes.set(CONTROL_GROUP)
  view.setUint16(6, Math.floor(mac / 2 ** 32))
  view.setUint32(8, mac % 2 ** 32)
  view.setUint16(12, EtherType.CONTROL)
  view.setUint32(14, CONTROL_MAGIC)
  view.setUint8(CarrierField.VERSION, CARRIER_VERSION)
  view.setUint8(CarrierField.TYPE, LOCATION_TYPE)
  return bytes
}

/**
 * Writes carriers to one peer, one after the other into the same memory: each must be sent before the next is asked
 * for.
 */
export class CarrierWriter {
  readonly #head: Uint8Array
  #bytes: Uint8Array
  #view: DataView

  /** `mtu`: the LAN's. `bootId`: 16 hex digits. */
  constructor(mtu: number, bootId: string, destination: Uint8Array, source: Uint8Array) {
    this.#head = new Uint8Array(VNET_HEADER_LENGTH + CARRIER_HEADER_LENGTH)
    const view = new DataView(this.#head.buffer, VNET_HEADER_LENGTH)
    this.#head.set(destination, VNET_HEADER_LENGTH)
    this.#head.set(source, VNET_HEADER_LENGTH + 6)
    view.setUint16(12, EtherType.CONTROL)
    view.setUint32(14, CONTROL_MAGIC)
    view.setUint8(CarrierField.VERSION, CARRIER_VERSION)
    view.setUint8(CarrierField.TYPE, CARRIER_TYPE)
    view.setBigUint64(CarrierField.BOOT, BigInt(`0x${bootId}`))
    this.#bytes = this.#head
    this.#view = view
    this.resize(mtu)
  }

  /** Longest piece. */
  get room(): number {
    return this.#bytes.length - this.#head.length
  }

  /** From the next frame on its pieces are made for a LAN with this MTU. */
  resize(mtu: number): void {
    this.#bytes = new Uint8Array(this.#head.length + Math.max(LEAST_ROOM, mtu - CARRIER_OVERHEAD))
    this.#bytes.set(this.#head)
    this.#view = new DataView(this.#bytes.buffer, VNET_HEADER_LENGTH)
  }

  /** Points `into` at the carrier of the piece of `frame` at `offset`; returns how long the piece is. */
  write(frame: Frame, offset: number, sequence: number, generation: number, into: Frame): number {
    const bytes = this.#bytes
    const view = this.#view
    const whole = VNET_HEADER_LENGTH + frame.length
    const length = Math.min(this.room, whole - offset)
    view.setUint8(CarrierField.GENERATION, generation)
    view.setUint32(CarrierField.COLOR, frame.color)
    view.setUint32(CarrierField.SEQUENCE, sequence)
    view.setUint32(CarrierField.WHOLE, whole)
    view.setUint32(CarrierField.OFFSET, offset)
    view.setUint16(CarrierField.TPID, frame.tagTpid)
    view.setUint16(CarrierField.TCI, frame.tagTci)
    // Header and frame lie together in memory, as everything that sends them relies on.
    const from = frame.vnet + offset
    bytes.set(frame.bytes.subarray(from, from + length), VNET_HEADER_LENGTH + CARRIER_HEADER_LENGTH)
    into.bytes = bytes
    into.address = 0
    into.vnet = 0
    into.start = VNET_HEADER_LENGTH
    into.length = CARRIER_HEADER_LENGTH + length
    into.tagTpid = 0
    into.tagTci = 0
    into.color = frame.color
    return length
  }
}
