// SCTP as the kernel hands it to a packet socket before it is finished: without its CRC, which the sender's device
// would have written, and several packets in one (GSO_BY_FRAGS). A virtio-net header has no word for either: it says
// where a checksum goes, not that it is no Internet checksum (csum_not_inet in the kernel), and GSO by fragments is
// refused. So both are finished here, as the kernel does for a device without offloads (skb_crc32c_csum_help,
// sctp_gso_segment).
//
// Of several packets in one, the kernel keeps beside them where each ends; a packet socket reads the common header
// and then all chunks, one behind the other (sctp_packet_pack, sctp_packet_gso_append in net/sctp/output.c). Any
// sequence of whole chunks is a packet (RFC 9260, 6.10), but for those with an AUTH chunk, whose HMAC is over what
// follows it in its packet: each packet has one then. Without, the kernel fills packets up to the path's MTU. How
// many packets there are is known, so no packet here is longer than the longest of the kernel's.

import { copyAndSum, fold, networkWord, sumOf } from './checksum.js'
import { crc32c } from './crc32c.js'
import { EtherType } from './ethernet.js'
import { type Frame, VNET_HEADER_LENGTH } from './frame.js'
import { networkHeaderAt, Protocol, UDP_HEADER } from './gso-headers.js'
import { pointInto, type SegmentMemory } from './segment-memory.js'
import { Vnet } from './vnet-header.js'

const SCTP = 132
/** RFC 9260, 3.1: ports, verification tag, checksum. */
const COMMON_HEADER = 12
const CHECK = 8
const CHUNK_HEADER = 4
/** RFC 4895. */
const AUTH = 15
const IPV6_HEADER = 40
const HOP_BY_HOP = 0
const ROUTING = 43
const DESTINATION = 60
const UDP_CHECK = 6
const INVALID = -1

const NOTHING = new DataView(new ArrayBuffer(0))

/** The checksum has been left to whoever sends the frame. No other protocol has one 8 bytes into its header. */
export function lacksSctpChecksum(frame: Frame): boolean {
  const { bytes, vnet } = frame
  return (bytes[vnet + Vnet.FLAGS] & Vnet.NEEDS_CSUM) !== 0 && bytes[vnet + Vnet.CSUM_OFFSET] === CHECK
}

/** Writes it, in place, and takes the demand for it out of the virtio-net header. */
export function finishSctpChecksum(frame: Frame): void {
  const { view, vnet, start, length } = frame
  const at = view.getUint16(vnet + Vnet.CSUM_START, true)
  if (at + COMMON_HEADER > length) return
  writeChecksum(view, start + at, length - at)
  view.setUint8(vnet + Vnet.FLAGS, 0)
  view.setUint16(vnet + Vnet.CSUM_START, 0)
  view.setUint16(vnet + Vnet.CSUM_OFFSET, 0)
}

function writeChecksum(view: DataView, at: number, length: number): void {
  view.setUint32(at + CHECK, 0)
  view.setInt32(at + CHECK, crc32c(view, at, length), true)
}

export class SctpSegmenter {
  /** Packets are left of the frame that was begun; its memory must stay as it is until there are none. */
  more = false
  #from: DataView = NOTHING
  #start = 0
  #length = 0
  #tagTpid = 0
  #tagTci = 0
  #color = 0
  /** From the frame's start: the IP header, a UDP header or 0, the common header, the first chunk, the next one. */
  #ip = 0
  #udp = 0
  #sctp = 0
  #chunks = 0
  #at = 0
  #version = 4
  #index = 0
  /** Each packet begins with an AUTH chunk, or what came before the first one. */
  #authenticated = false
  /** Most bytes of chunks in a packet. */
  #most = 0

  /**
   * True when the frame is SCTP: `next` gives its packets, of `mtu` bytes from the IP header on at most, unless a chunk
   * is longer. `packets`: how many the kernel would make of it; 0: not known. `inUdp`: it may be in UDP (RFC 6951).
   */
  begin(frame: Frame, mtu: number, packets: number, inUdp: boolean): boolean {
    this.#from = frame.view
    this.#start = frame.start
    this.#length = frame.length
    if (!this.#headers(inUdp)) return false
    const longest = this.#survey()
    if (longest === INVALID) return false
    this.#most = this.#limit(longest, Math.max(longest, mtu - (this.#chunks - this.#ip)), packets)
    this.#tagTpid = frame.tagTpid
    this.#tagTci = frame.tagTci
    this.#color = frame.color
    this.#at = this.#chunks
    this.#index = 0
    this.more = true
    return true
  }

  #headers(inUdp: boolean): boolean {
    const from = this.#from
    const start = this.#start
    const length = this.#length
    let at = networkHeaderAt(from, start, length)
    if (at === 0) return false
    const type = from.getUint16(start + at - 2)
    this.#ip = at
    let protocol = 0
    if (type === EtherType.IPV4) {
      const header = (from.getUint8(start + at) & 0xf) * 4
      if (from.getUint8(start + at) >>> 4 !== 4 || header < 20) return false
      // A fragment has no transport header of its own.
      if ((from.getUint16(start + at + 6) & 0x3fff) !== 0) return false
      protocol = from.getUint8(start + at + 9)
      this.#version = 4
      at += header
    } else if (type === EtherType.IPV6 && at + IPV6_HEADER <= length) {
      protocol = from.getUint8(start + at + 6)
      this.#version = 6
      at += IPV6_HEADER
      while ((protocol === HOP_BY_HOP || protocol === ROUTING || protocol === DESTINATION) && at + 8 <= length) {
        protocol = from.getUint8(start + at)
        at += (from.getUint8(start + at + 1) + 1) * 8
      }
    } else return false
    this.#udp = 0
    if (protocol === Protocol.UDP && inUdp) {
      this.#udp = at
      at += UDP_HEADER
    } else if (protocol !== SCTP) return false
    this.#sctp = at
    this.#chunks = at + COMMON_HEADER
    return this.#chunks + CHUNK_HEADER <= length
  }

  /** Where the chunk at `at` ends, with its padding; INVALID: it is none. */
  #chunkEnd(at: number): number {
    if (at + CHUNK_HEADER > this.#length) return INVALID
    const length = this.#from.getUint16(this.#start + at + 2)
    if (length < CHUNK_HEADER || at + length > this.#length) return INVALID
    return Math.min(this.#length, at + ((length + 3) & ~3))
  }

  /** Looks at all chunks; returns the length of the longest, INVALID when there is something else. */
  #survey(): number {
    this.#authenticated = false
    let longest = 0
    for (let at = this.#chunks; at < this.#length; ) {
      const end = this.#chunkEnd(at)
      if (end === INVALID) return INVALID
      if (this.#from.getUint8(this.#start + at) === AUTH) this.#authenticated = true
      longest = Math.max(longest, end - at)
      at = end
    }
    return longest
  }

  /** The lowest limit with which there are no more than `packets`; `most` when that is not to be had. */
  #limit(longest: number, most: number, packets: number): number {
    if (this.#authenticated || packets === 0 || this.#count(most) > packets) return most
    let low = longest
    let high = most
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#count(middle) > packets) low = middle + 1
      else high = middle
    }
    return high
  }

  #count(most: number): number {
    let count = 0
    for (let at = this.#chunks; at < this.#length; count++) at = this.#packetEnd(at, most)
    return count
  }

  /** Where the packet ends whose first chunk is at `at`. */
  #packetEnd(at: number, most: number): number {
    let end = this.#chunkEnd(at)
    let authenticated = this.#from.getUint8(this.#start + at) === AUTH
    while (end < this.#length) {
      const next = this.#chunkEnd(end)
      if (this.#authenticated) {
        const auth = this.#from.getUint8(this.#start + end) === AUTH
        if (auth && authenticated) break
        authenticated ||= auth
      } else if (next - at > most) break
      end = next
    }
    return end
  }

  /**
   * Writes the next packet to `memory`, from `free` on, and points `frame` at it. Returns where the memory is free
   * then; -1 when it has no room.
   */
  next(frame: Frame, memory: SegmentMemory, free: number): number {
    const from = this.#from
    const start = this.#start
    const chunks = this.#chunks
    const last = this.#packetEnd(this.#at, this.#most)
    const to = free + VNET_HEADER_LENGTH
    const end = to + chunks + last - this.#at
    if (end > memory.length) return -1
    const { view } = memory
    for (let i = 0; i < VNET_HEADER_LENGTH; i += 2) view.setUint16(free + i, 0)
    copyAndSum(from, start, view, to, chunks)
    copyAndSum(from, start + this.#at, view, to + chunks, last - this.#at)
    writeChecksum(view, to + this.#sctp, end - to - this.#sctp)
    if (this.#udp !== 0) this.#finishUdp(view, to, end)
    const ip = to + this.#ip
    if (this.#version === 4) {
      view.setUint16(ip + 2, end - ip)
      view.setUint16(ip + 4, view.getUint16(ip + 4) + this.#index)
      view.setUint16(ip + 10, 0)
      view.setUint16(ip + 10, ~fold(sumOf(view, ip, (view.getUint8(ip) & 0xf) * 4)), true)
    } else view.setUint16(ip + 4, end - ip - IPV6_HEADER)
    this.#index++
    this.#at = last
    this.more = last < this.#length
    pointInto(frame, memory, free, end - to)
    frame.tagTpid = this.#tagTpid
    frame.tagTci = this.#tagTci
    frame.color = this.#color
    return (end + 7) & ~7
  }

  #finishUdp(view: DataView, to: number, end: number): void {
    const udp = to + this.#udp
    const ip = to + this.#ip
    view.setUint16(udp + 4, end - udp)
    if (view.getUint16(udp + UDP_CHECK) === 0) return
    view.setUint16(udp + UDP_CHECK, 0)
    const addresses = this.#version === 4 ? sumOf(view, ip + 12, 8) : sumOf(view, ip + 8, 32)
    const pseudo = addresses + networkWord(Protocol.UDP) + networkWord(end - udp)
    const value = ~fold(pseudo + sumOf(view, udp, end - udp)) & 0xffff
    view.setUint16(udp + UDP_CHECK, value === 0 ? 0xffff : value, true)
  }
}
