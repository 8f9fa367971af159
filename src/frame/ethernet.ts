// Accessors over Ethernet bytes: checked once at the boundary (`isWellFormed`), plain after that.
// IEEE 802.3 clause 3; EtherTypes from the IEEE registry.

import { type Frame, MAX_FRAME_LENGTH } from './frame.js'

export const ETHERNET_HEADER_LENGTH = 14
export const VLAN_TAG_LENGTH = 4

export const EtherType = {
  IPV4: 0x0800,
  ARP: 0x0806,
  RARP: 0x8035,
  VLAN: 0x8100,
  IPV6: 0x86dd,
  SERVICE_VLAN: 0x88a8,
  /** IEEE 802 local experimental 1: control frames between switches. */
  CONTROL: 0x88b5,
} as const

/** Long enough for its header, short enough for any device. */
export function isWellFormed(frame: Frame): boolean {
  return frame.length >= ETHERNET_HEADER_LENGTH && frame.length <= MAX_FRAME_LENGTH
}

/** The EtherType that follows the addresses in memory; a tag kept beside the frame is not looked at. */
export function innerEtherType(frame: Frame): number {
  const at = frame.start + 12
  return (frame.bytes[at] << 8) | frame.bytes[at + 1]
}

/** The 802.1Q VLAN id that forwarding learns under; 0 when untagged or priority-tagged. */
export function vlanId(frame: Frame): number {
  if (frame.tagTpid !== 0) return frame.tagTpid === EtherType.VLAN ? frame.tagTci & 0xfff : 0
  const at = frame.start + 12
  const bytes = frame.bytes
  if (bytes[at] !== 0x81 || bytes[at + 1] !== 0x00 || frame.length < ETHERNET_HEADER_LENGTH + VLAN_TAG_LENGTH) return 0
  return ((bytes[at + 2] & 0x0f) << 8) | bytes[at + 3]
}

/** Upper 16 bits of a MAC address that lies at `offset`; with `macLow` it fits two small integers, no BigInt. */
export function macHigh(bytes: Uint8Array, offset: number): number {
  return (bytes[offset] << 8) | bytes[offset + 1]
}

/** Lower 32 bits of a MAC address, as an int32. */
export function macLow(bytes: Uint8Array, offset: number): number {
  return (bytes[offset + 2] << 24) | (bytes[offset + 3] << 16) | (bytes[offset + 4] << 8) | bytes[offset + 5]
}

/** The address that two numbers are: `macHigh`, `macLow`. */
export function macBytes(high: number, low: number): Uint8Array {
  return Uint8Array.of(high >> 8, high, low >>> 24, low >>> 16, low >>> 8, low)
}

/** Group bit of the address at `offset`: multicast or broadcast. */
export function isGroup(bytes: Uint8Array, offset: number): boolean {
  return (bytes[offset] & 1) === 1
}

/** 01-80-C2-00-00-00 to -0F: addresses that an 802.1D bridge does not forward (STP, PAUSE, LACP, 802.1X, LLDP). */
export function isLinkLocal(bytes: Uint8Array, offset: number): boolean {
  return (
    bytes[offset] === 0x01 &&
    bytes[offset + 1] === 0x80 &&
    bytes[offset + 2] === 0xc2 &&
    bytes[offset + 3] === 0 &&
    bytes[offset + 4] === 0 &&
    (bytes[offset + 5] & 0xf0) === 0
  )
}

/**
 * Of an address that is link-local: 01-80-C2-00-00-01, flow control between the two ends of one cable (802.3 annex
 * 31B).
 */
export function isPause(bytes: Uint8Array, offset: number): boolean {
  return bytes[offset + 5] === 1
}

/** A group's address or none at all (00-00-00-00-00-00): nobody sends from there, and a bridge drops what claims to. */
export function isBadSource(high: number, low: number): boolean {
  return (high & 0x100) !== 0 || (high | low) === 0
}

/** A reverse ARP request as QEMU sends after a migration (net/announce.c): tells every switch where `mac` now is. */
export function announcement(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(60)
  frame.fill(0xff, 0, 6)
  frame.set(mac, 6)
  // RARP, hardware type Ethernet, protocol IPv4, lengths 6 and 4, opcode 3 (request reverse): RFC 903
  frame.set([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], 12)
  frame.set(mac, 22)
  frame.set(mac, 32)
  return frame
}
