// The frames of a simulated network: numbered, so that each can be followed, and of the forms that switches tell apart.

import { CARRIER_HEADER_LENGTH, CARRIER_TYPE, CarrierField } from '../../src/frame/carrier.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { packet } from '../forwarding/lan.js'

/**
 * `raw`: no IP. `marked`: IP whose guest has set the bit that colors use. `long`: as large as a LAN takes, and marked.
 * `gso`: three segments that the guest leaves to others to cut.
 */
export const frameForms = ['raw', 'ipv4', 'ipv6', 'marked', 'long', 'gso'] as const
export type FrameForm = (typeof frameForms)[number]

const RAW_TYPE = 0x88b6
const HEADER = 14
const MARK = 4
const LAN_MTU = 1500
const GSO_SIZE = 1400
const TCP_HEADER = 20
const TCP = 6
const PROTOCOL_AT = 9
const CHECKSUM_AT = 10

/** Where the id is, by EtherType: behind the headers. */
const ID_AT: Readonly<Record<number, number>> = {
  [RAW_TYPE]: HEADER,
  [EtherType.IPV4]: HEADER + 20,
  [EtherType.IPV6]: HEADER + 40,
}

export function makeFrame(id: number, from: readonly number[], to: readonly number[], form: FrameForm): FrameCopy {
  const { type, payload } = bodyOf(id, form)
  const bytes = new Uint8Array(VNET_HEADER_LENGTH + HEADER + payload.length)
  bytes.set(to, VNET_HEADER_LENGTH)
  bytes.set(from, VNET_HEADER_LENGTH + 6)
  const view = new DataView(bytes.buffer)
  view.setUint16(VNET_HEADER_LENGTH + 12, type)
  bytes.set(payload, VNET_HEADER_LENGTH + HEADER)
  if (form === 'gso') {
    const transport = HEADER + 20
    beTcp(bytes, VNET_HEADER_LENGTH + HEADER)
    bytes[VNET_HEADER_LENGTH + transport + 12] = (TCP_HEADER / 4) << 4
    view.setUint8(0, 1)
    view.setUint8(1, 1)
    view.setUint16(2, transport + TCP_HEADER, true)
    view.setUint16(4, GSO_SIZE, true)
    view.setUint16(6, transport, true)
  }
  return { bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }
}

/** An IPv4 packet of UDP becomes one of TCP, whose header's checksum is one of TCP. */
function beTcp(bytes: Uint8Array, at: number): void {
  const view = new DataView(bytes.buffer)
  const checksum = view.getUint16(at + CHECKSUM_AT) + bytes[at + PROTOCOL_AT] - TCP
  bytes[at + PROTOCOL_AT] = TCP
  view.setUint16(at + CHECKSUM_AT, checksum > 0xffff ? checksum - 0xffff : checksum)
}

/** The id in a frame of ours that begins at `start`; -1 for others (announcements). */
export function frameId(bytes: Uint8Array, start: number): number {
  const at = ID_AT[(bytes[start + 12] << 8) | bytes[start + 13]]
  if (at === undefined) return -1
  const id = start + at
  return ((bytes[id] << 24) | (bytes[id + 1] << 16) | (bytes[id + 2] << 8) | bytes[id + 3]) >>> 0
}

/** What a frame on the way between switches is to them, `bytes` beginning with a virtio-net header. */
export function kindOf(bytes: Uint8Array): 'control' | 'carrier' | 'frame' {
  const at = VNET_HEADER_LENGTH + 12
  if (((bytes[at] << 8) | bytes[at + 1]) !== EtherType.CONTROL) return 'frame'
  return bytes[VNET_HEADER_LENGTH + CarrierField.TYPE] === CARRIER_TYPE ? 'carrier' : 'control'
}

/** The id of the frame of which a carrier has the first piece; -1: it has another one, or not a frame of ours. */
export function carriedId(bytes: Uint8Array): number {
  const offset = new DataView(bytes.buffer, bytes.byteOffset).getUint32(VNET_HEADER_LENGTH + CarrierField.OFFSET)
  return offset > 0 ? -1 : frameId(bytes, VNET_HEADER_LENGTH + CARRIER_HEADER_LENGTH + VNET_HEADER_LENGTH)
}

function bodyOf(id: number, form: FrameForm): { type: number; payload: Uint8Array } {
  switch (form) {
    case 'raw':
      return { type: RAW_TYPE, payload: Uint8Array.of(id >>> 24, id >>> 16, id >>> 8, id) }
    case 'ipv4':
      return { type: EtherType.IPV4, payload: packet(4, id) }
    case 'ipv6':
      return { type: EtherType.IPV6, payload: packet(6, id) }
    case 'marked':
      return { type: EtherType.IPV4, payload: packet(4, id, MARK) }
    case 'long':
      return { type: EtherType.IPV6, payload: packet(6, id, MARK, LAN_MTU) }
    case 'gso':
      return { type: EtherType.IPV4, payload: packet(4, id, 0, 20 + TCP_HEADER + 3 * GSO_SIZE) }
  }
}
