// What is in a recording, block by block. It is pcapng: frames that came in are packets on the interface of their port,
// with what a packet has no place for in an option; all else is in records of ours (src/trace/records.ts).
//
//   section header: comment TITLE
//   head        JSON: RecordingHead
//   checkpoint  u8 1: the last piece, 0: more follow | a piece of JSON: Checkpoint
//   then, in the order in which they came:
//   interface   of each port that is there, or is added; option PORT_OPTION: u32 its index
//   packet      a frame; option FRAME_OPTION: f64 now | virtio-net header 10 | u8 flags | u8 0 | u32 number
//   tick        f64 now
//   input       JSON: [name, args] (switch/forwarding/inputs.ts)
//   refused     u32: which of the frames that the input before this has sent was not taken by its port
//   mark        u32 inputs since the last mark | 16 bytes: the digest so far
//   checksum    u32: CRC-32 of the file up to this record
//   end         JSON: RecordingEnd
//
// After a gap, where something found no room, another section follows, with all that is listed here; the checksums go
// on to be of the whole file, and the end comes once.
//
// Integers and floats are little endian. `now` is Unix time in milliseconds, exactly as the forwarder was given it.

import type { PlainFields } from '../../src/epoch/state.js'
import { ETHERNET_HEADER_LENGTH, VLAN_TAG_LENGTH } from '../../src/frame/ethernet.js'
import { type Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { BLOCK, OPTION, paddingOf } from '../../src/trace/pcapng.js'
import { RECORD_MAGIC } from '../../src/trace/records.js'
import type { NetworkOptions } from '../forwarding/network.js'

export const VERSION = 1
export const TITLE = `snapswitch recording, version ${VERSION}`

/** Kinds of records; those of other files of ours have other numbers. */
export const Kind = {
  HEAD: 16,
  CHECKPOINT: 17,
  TICK: 18,
  INPUT: 19,
  REFUSED: 20,
  MARK: 21,
  CHECKSUM: 22,
  END: 23,
} as const

export interface RecordingHead {
  /** Of the product that has made it. */
  readonly version: string
  readonly options: NetworkOptions
  /** After a gap: frames that came in it. */
  readonly missed?: number
}

export interface Checkpoint {
  readonly state: PlainFields
  /** Rows of the counter table by port index, as bytes. */
  readonly counters: readonly (readonly [port: number, row: Uint8Array])[]
}

/** Why a recording ended: 'asked' by whoever had begun it, or because it must. 'no-room': in a gap. */
export type EndReason = 'asked' | 'time' | 'size' | 'no-room' | 'network-removed' | 'datapath-restarted'

export interface RecordingEnd {
  readonly reason: EndReason
  /** Absent: the forwarding thread that has counted them is gone. */
  readonly frames?: number
  /** Absent in older files, which have none. */
  readonly gaps?: number
}

/** For options of local use: the highest bit is set. */
export const FRAME_OPTION = 0x8001
/** Of an interface: the index of its port. */
export const PORT_OPTION = 0x8002
/** What the option of a packet holds, and where in it. */
export const FrameOption = { NOW: 0, VNET: 8, FLAGS: 18, NUMBER: 20, LENGTH: 24 } as const
/** The frame's outermost tag lay beside it. */
export const TAG_BESIDE = 1

/** Offsets in a packet block. */
const PACKET_HEADER = 28
const INBOUND = 1
/** Flags and our option, each with its head, and the end of options, and the block's length. */
const PACKET_TAIL = 8 + 4 + FrameOption.LENGTH + 4 + 4
const RECORD_HEADER = 16
const RECORD_OVERHEAD = 12 + RECORD_HEADER
const ADDRESSES = ETHERNET_HEADER_LENGTH - 2

export function frameBlockLength(frame: Frame): number {
  const length = frame.length + (frame.tagTpid === 0 ? 0 : VLAN_TAG_LENGTH)
  return PACKET_HEADER + length + paddingOf(length) + PACKET_TAIL
}

export function recordBlockLength(payload: number): number {
  return RECORD_OVERHEAD + payload + paddingOf(payload)
}

/** Memory that blocks are written to, with the same memory as a view. */
export interface Memory {
  readonly bytes: Uint8Array
  readonly view: DataView
}

/** Writes a frame that came in as a packet block of `frameBlockLength` bytes, from `at` on. */
export function writeFrameBlock(
  { bytes, view }: Memory,
  at: number,
  wire: number,
  frame: Frame,
  now: number,
  number: number,
): void {
  const isTagged = frame.tagTpid !== 0
  const length = frame.length + (isTagged ? VLAN_TAG_LENGTH : 0)
  const padding = paddingOf(length)
  const total = PACKET_HEADER + length + padding + PACKET_TAIL
  const us = Math.floor(now * 1000)
  view.setUint32(at, BLOCK.enhancedPacket, true)
  view.setUint32(at + 4, total, true)
  view.setUint32(at + 8, wire, true)
  view.setUint32(at + 12, Math.floor(us / 4294967296), true)
  view.setUint32(at + 16, us % 4294967296, true)
  view.setUint32(at + 20, length, true)
  view.setUint32(at + 24, length, true)
  let to = at + PACKET_HEADER
  const from = viewOf(frame)
  copyBytes(from, frame.start, view, to, isTagged ? Math.min(ADDRESSES, frame.length) : frame.length)
  if (isTagged) {
    const before = Math.min(ADDRESSES, frame.length)
    view.setUint16(to + before, frame.tagTpid)
    view.setUint16(to + before + 2, frame.tagTci)
    copyBytes(from, frame.start + before, view, to + before + VLAN_TAG_LENGTH, frame.length - before)
  }
  to += length
  for (let i = 0; i < padding; i++) bytes[to++] = 0
  view.setUint32(to, OPTION.packetFlags | (4 << 16), true)
  view.setUint32(to + 4, INBOUND, true)
  view.setUint32(to + 8, FRAME_OPTION | (FrameOption.LENGTH << 16), true)
  to += 12
  view.setFloat64(to + FrameOption.NOW, now, true)
  copyBytes(from, frame.vnet, view, to + FrameOption.VNET, VNET_HEADER_LENGTH)
  view.setUint16(to + FrameOption.FLAGS, isTagged ? TAG_BESIDE : 0, true)
  view.setUint32(to + FrameOption.NUMBER, number >>> 0, true)
  to += FrameOption.LENGTH
  view.setUint32(to, OPTION.end, true)
  view.setUint32(to + 4, total, true)
}

/** Begins a record of ours; returns where its payload of `length` bytes, padded with zeros, is to be written. */
export function beginRecordBlock({ bytes, view }: Memory, at: number, kind: number, length: number): number {
  const total = recordBlockLength(length)
  const payload = at + 8 + RECORD_HEADER
  view.setUint32(at, BLOCK.local, true)
  view.setUint32(at + 4, total, true)
  for (let i = 0; i < RECORD_MAGIC.length; i++) bytes[at + 8 + i] = RECORD_MAGIC[i]
  view.setUint32(at + 16, kind, true)
  view.setUint32(at + 20, length, true)
  for (let i = length; i < length + paddingOf(length); i++) bytes[payload + i] = 0
  view.setUint32(at + total - 4, total, true)
  return payload
}

let seen: Uint8Array = new Uint8Array(0)
let seenView = new DataView(seen.buffer)

/** The frame's memory as a view: frames without a fixed address lie in memory that is looked at once, mostly. */
function viewOf(frame: Frame): DataView {
  if (frame.address !== 0) return frame.view
  if (seen !== frame.bytes) {
    seen = frame.bytes
    seenView = new DataView(seen.buffer, seen.byteOffset, seen.byteLength)
  }
  return seenView
}

/**
 * Word by word: `set` goes byte by byte where the memory is shared and the two places are not aligned alike, and a
 * subarray for it is an object per frame.
 */
function copyBytes(from: DataView, start: number, to: DataView, at: number, length: number): void {
  let i = 0
  for (; i + 16 <= length; i += 16) {
    to.setInt32(at + i, from.getInt32(start + i, true), true)
    to.setInt32(at + i + 4, from.getInt32(start + i + 4, true), true)
    to.setInt32(at + i + 8, from.getInt32(start + i + 8, true), true)
    to.setInt32(at + i + 12, from.getInt32(start + i + 12, true), true)
  }
  for (; i + 4 <= length; i += 4) to.setInt32(at + i, from.getInt32(start + i, true), true)
  for (; i < length; i++) to.setUint8(at + i, from.getUint8(start + i))
}
