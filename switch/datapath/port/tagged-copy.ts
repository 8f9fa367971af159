// Copies a frame, virtio-net header in front, to where the kernel will read it, and writes its tags while copying: the
// one that is pushed, then the one that the kernel has kept beside the frame.

import { EtherType } from '../../../src/frame/ethernet.js'
import { type Frame, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { Vnet } from '../../../src/frame/vnet-header.js'
import type { Arena } from '../../../src/linux/arena.js'
import { libc } from '../../../src/linux/libc.js'

const HEAD = VNET_HEADER_LENGTH + 12
const { NEEDS_CSUM } = Vnet
/** From here on a call into libc is cheaper than a loop. */
const LONG = 600

/** Returns the length with header and tags. A frame without GSO: its hdr_len is the caller's to set. */
export function copyWithTags(frame: Frame, serviceTci: number, to: Arena, at: number): number {
  const length = VNET_HEADER_LENGTH + frame.length
  if (serviceTci < 0 && frame.tagTpid === 0) {
    copy(frame, 0, to, at, length)
    return length
  }
  copy(frame, 0, to, at, HEAD)
  let end = at + HEAD
  if (serviceTci >= 0) end = writeTag(to.view, end, EtherType.SERVICE_VLAN, serviceTci)
  if (frame.tagTpid !== 0) end = writeTag(to.view, end, frame.tagTpid, frame.tagTci)
  copy(frame, HEAD, to, end, length - HEAD)
  const pushed = end - (at + HEAD)
  // struct virtio_net_hdr: flags 0, gso_type 1, hdr_len 2, gso_size 4, csum_start 6, csum_offset 8
  if ((to.bytes[at] & NEEDS_CSUM) !== 0) to.view.setUint16(at + 6, to.view.getUint16(at + 6, true) + pushed, true)
  return length + pushed
}

/** `from`: offset from the virtio-net header, which lies right before the frame. */
function copy(frame: Frame, from: number, to: Arena, toAt: number, length: number): void {
  const fromAt = frame.vnet + from
  if (frame.address === 0) to.bytes.set(frame.bytes.subarray(fromAt, fromAt + length), toAt)
  else if (length > LONG) libc().memcpy(to.address + toAt, frame.address + fromAt, length)
  else copyWords(frame.view, fromAt, to.view, toAt, length)
}

/** Byte order does not matter to a copy, but little-endian is what the machine does without swapping. */
function copyWords(from: DataView, fromAt: number, to: DataView, toAt: number, length: number): void {
  let i = 0
  for (; i + 4 <= length; i += 4) to.setUint32(toAt + i, from.getUint32(fromAt + i, true), true)
  for (; i < length; i++) to.setUint8(toAt + i, from.getUint8(fromAt + i))
}

function writeTag(to: DataView, at: number, tpid: number, tci: number): number {
  to.setUint16(at, tpid)
  to.setUint16(at + 2, tci)
  return at + 4
}
