// A frame's identity: 64 bits over its bytes as they are on the wire, cheap enough to be taken of every frame while a
// run is recorded. Not cryptographic: it tells frames apart, it does not withstand somebody who makes two alike on
// purpose.
//
// 802.1Q tags outermost do not count: ports put them on and take them off. Another tag outermost counts in its place
// after the addresses, whether the kernel keeps it beside the frame or not. TCP's and UDP's checksum does not count: a
// device on the way may finish one that its sender has left open (VIRTIO_NET_HDR_F_NEEDS_CSUM).

import { ETHERNET_HEADER_LENGTH, EtherType, VLAN_TAG_LENGTH } from './ethernet.js'
import type { Frame } from './frame.js'

const ADDRESSES = 12
const TCP = 6
const UDP = 17
const IPV6_HEADER = 40
const NO_HOLE = -1
/** Tags behind which a checksum is looked for. */
const MAX_TAGS = 3

export class FrameDigest {
  /** Of the last frame given to `of`: two halves, unsigned. */
  high = 0
  low = 0
  /** Views over the arenas that frames lie in: made once, not per frame. */
  readonly #views = new Map<Uint8Array, DataView>()

  of(frame: Frame): void {
    const view = this.#viewOf(frame)
    const end = frame.start + frame.length
    this.high = 0x9747b28c | 0
    this.low = 0x3c6ef372 | 0
    this.#mix(view, frame.start, Math.min(frame.start + ADDRESSES, end))
    const isServiceTagged = frame.tagTpid !== 0 && frame.tagTpid !== EtherType.VLAN
    if (isServiceTagged) this.#mixWord(swapped(frame.tagTpid) | (swapped(frame.tagTci) << 16))
    const inner = isServiceTagged ? frame.start + ADDRESSES : behindTags(frame)
    const hole = checksumAt(frame, inner)
    if (hole === NO_HOLE) this.#mix(view, inner, end)
    else {
      this.#mix(view, inner, hole)
      this.#mix(view, hole + 2, end)
    }
    const length = ADDRESSES + (end - inner) + (isServiceTagged ? VLAN_TAG_LENGTH : 0)
    const high = avalanche(this.high ^ length)
    this.low = avalanche((this.low + Math.imul(high, 0x27d4eb2f)) | 0) >>> 0
    this.high = high >>> 0
  }

  #viewOf(frame: Frame): DataView {
    const { bytes } = frame
    // Only arenas have a fixed address; a copy is looked at once.
    if (frame.address === 0) return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    let view = this.#views.get(bytes)
    if (view === undefined) {
      view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      this.#views.set(bytes, view)
    }
    return view
  }

  #mix(view: DataView, from: number, to: number): void {
    let { high, low } = this
    let at = from
    for (; at + 4 <= to; at += 4) {
      const word = view.getInt32(at, true)
      high = Math.imul(high ^ word, 0x9e3779b1)
      high = (high << 13) | (high >>> 19)
      low = Math.imul((low + word) | 0, 0x85ebca77) ^ (high >>> 15)
    }
    this.high = high
    this.low = low
    for (; at < to; at++) this.#mixWord(view.getUint8(at) | 0x100)
  }

  #mixWord(word: number): void {
    const high = Math.imul(this.high ^ word, 0x9e3779b1)
    this.high = (high << 13) | (high >>> 19)
    this.low = Math.imul((this.low + word) | 0, 0x85ebca77) ^ (this.high >>> 15)
  }
}

/** Offset in `frame.bytes` of what follows the addresses and 802.1Q tags. */
function behindTags({ bytes, start, length }: Frame): number {
  let at = start + ADDRESSES
  while (at + VLAN_TAG_LENGTH + 2 <= start + length && typeAt(bytes, at) === EtherType.VLAN) at += VLAN_TAG_LENGTH
  return at
}

/** Offset in `frame.bytes` of the checksum that does not count; NO_HOLE when there is none. */
function checksumAt(frame: Frame, inner: number): number {
  const { bytes, start } = frame
  const end = start + frame.length
  let at = inner
  let type = typeAt(bytes, at)
  for (let tags = 0; tags < MAX_TAGS && (type === EtherType.VLAN || type === EtherType.SERVICE_VLAN); tags++) {
    at += VLAN_TAG_LENGTH
    if (at + 2 > end) return NO_HOLE
    type = typeAt(bytes, at)
  }
  const ip = at + ETHERNET_HEADER_LENGTH - ADDRESSES
  if (ip + 20 > end) return NO_HOLE
  let protocol = 0
  let transport = 0
  if (type === EtherType.IPV4) {
    // Only the first fragment has a transport header.
    if ((bytes[ip + 6] & 0x1f) !== 0 || bytes[ip + 7] !== 0) return NO_HOLE
    protocol = bytes[ip + 9]
    transport = ip + (bytes[ip] & 0x0f) * 4
  } else if (type === EtherType.IPV6) {
    protocol = bytes[ip + 6]
    transport = ip + IPV6_HEADER
  }
  const hole = protocol === TCP ? transport + 16 : protocol === UDP ? transport + 6 : NO_HOLE
  return hole + 2 > end ? NO_HOLE : hole
}

function typeAt(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1]
}

function swapped(word: number): number {
  return ((word & 0xff) << 8) | (word >>> 8)
}

/** MurmurHash3's finalizer (Austin Appleby, public domain). */
function avalanche(value: number): number {
  let mixed = value
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}
