// Cuts a GSO frame that its virtio-net header does not describe into the frames that it stands for, as the kernel would
// (skb_udp_tunnel_segment, gre_gso_segment, inet_gso_segment, ipv6_gso_segment, tcp_gso_segment, __udp_gso_segment),
// with finished checksums. One at a time, into memory that the caller gives: nothing is allocated.

import { copyAndSum, fold, networkWord, sumOf } from './checksum.js'
import { type Frame, VNET_HEADER_LENGTH } from './frame.js'
import { GsoHeaders, Layer, Protocol, UDP_HEADER } from './gso-headers.js'
import { pointInto, type SegmentMemory } from './segment-memory.js'
import { tunnelMark } from './tunnel-mark.js'
import { Vnet } from './vnet-header.js'

const TCP = { SEQUENCE: 4, FLAGS: 13, CHECK: 16, FIN_PSH: 0x09, CWR: 0x80 } as const
const UDP = { LENGTH: 4, CHECK: 6 } as const
const GRE_CHECK = 4

/** UDP_MAX_SEGMENTS of older kernels. */
const MOST_JOINED = 64

const NOTHING = new DataView(new ArrayBuffer(0))

export class Segmenter {
  /** Segments are left of the frame that was begun; its memory must stay as it is until there are none. */
  more = false
  /** Of the frame that was begun: how the kernel can be told what it is (tunnel-mark.ts); 0: it cannot. */
  mark = 0
  /** Of the last `head`: its length, virtio-net header included, and how many bytes of payload belong to it. */
  headLength = 0
  headPayload = 0
  readonly #headers = new GsoHeaders()
  readonly #joins: boolean
  #from: DataView = NOTHING
  #vnet = 0
  #start = 0
  #length = 0
  #tagTpid = 0
  #tagTci = 0
  #color = 0
  #ecn = false
  /** The next segment: its number, and where its payload begins, from the frame's start. */
  #index = 0
  #at = 0

  /**
   * `joins`: what runs in a tunnel over UDP leaves as frames of UDP segments (VIRTIO_NET_HDR_GSO_UDP_L4), which devices
   * and stacks take whole, at a third of the cost. Their datagrams all have a checksum, also where the tunnel uses
   * none.
   */
  constructor(joins: boolean) {
    this.#joins = joins
  }

  /** True when the frame is cut: `next` gives its segments. False: it can be sent as it is, or makes no sense. */
  begin(frame: Frame): boolean {
    return this.#headers.read(frame) && this.#take(frame)
  }

  /** The same for datagrams of `size` bytes that the kernel has joined, but has no virtio-net header for. */
  beginDatagrams(frame: Frame, size: number, unfinished: boolean): boolean {
    return this.#headers.readDatagrams(frame, size, unfinished) && this.#take(frame)
  }

  #take(frame: Frame): true {
    this.mark = tunnelMark(this.#headers, frame)
    this.#from = frame.view
    this.#vnet = frame.vnet
    this.#start = frame.start
    this.#length = frame.length
    this.#tagTpid = frame.tagTpid
    this.#tagTci = frame.tagTci
    this.#color = frame.color
    this.#ecn = (frame.bytes[frame.vnet + Vnet.GSO_TYPE] & Vnet.ECN) !== 0
    this.#index = 0
    this.#at = this.#headers.payload
    this.more = true
    return true
  }

  /**
   * Writes the next segment, or the next ones joined, to `memory`, from `free` on, and points `frame` at it. Returns
   * where the memory is free then; -1 when it has no room.
   */
  next(frame: Frame, memory: SegmentMemory, free: number): number {
    const headers = this.#headers
    const from = this.#from
    const start = this.#start
    const joined = this.#joinable()
    const shared = joined > 1 ? headers.tunnel : 0
    const each = headers.payload - shared + headers.size
    const rest = this.#length - this.#at
    const length = shared + Math.min(joined * each, joined * (each - headers.size) + rest)
    const to = free + VNET_HEADER_LENGTH
    if (to + length > memory.length) return -1
    const { view } = memory
    for (let i = 0; i < VNET_HEADER_LENGTH; i += 2) view.setUint16(free + i, 0)
    const first = this.#index
    for (let k = 0; k < joined; k++) {
      const base = to + k * each
      const payload = Math.min(headers.size, this.#length - this.#at)
      const skip = k === 0 ? 0 : shared
      copyAndSum(from, start + skip, view, base + skip, headers.payload - skip)
      const sum = copyAndSum(from, start + this.#at, view, base + headers.payload, payload)
      const end = base + headers.payload + payload
      this.#outward(view, base, end, this.#transport(view, base, end, sum), joined > 1 ? headers.outer : 0)
      this.#index++
      this.#at += payload
    }
    if (joined > 1) this.#join(view, free, to, to + length, each, first)
    pointInto(frame, memory, free, length)
    frame.tagTpid = this.#tagTpid
    frame.tagTci = this.#tagTci
    frame.color = this.#color
    this.more = this.#at < this.#length
    // On a word's boundary, so that copying is not slower than it need be.
    return (to + length + 7) & ~7
  }

  /** Each segment's payload is at most so long, and there are so many bytes of it. */
  get size(): number {
    return this.#headers.size
  }

  get payloadLength(): number {
    return this.#length - this.#headers.payload
  }

  /** Forgets the frame that was begun: it goes as it is. */
  cancel(): void {
    this.more = false
  }

  /**
   * Of a frame with a mark, of which nothing was taken yet: writes virtio-net header and headers, as they are to be
   * when the kernel cuts the frame or takes it whole, to `memory`, from `free` on. The payload belongs to it from where
   * it lies. What does not is left for `next`. Returns where the memory is free then; -1 when it has no room.
   *
   * The kernel can be told that there is a tunnel, but not that its outer header has a checksum for each segment: it
   * leaves what is there. So there is what is right for each full segment. That is one number: an inner segment with
   * its checksum adds up to the same whatever it says, if it is as long, and IP headers add up to 0 (RFC 1071). A
   * shorter last segment would need another one, and is left out.
   */
  head(memory: SegmentMemory, free: number): number {
    const headers = this.#headers
    const { payload, size, transport } = headers
    const { view } = memory
    const to = free + VNET_HEADER_LENGTH
    if (to + payload > memory.length) return -1
    const left = this.#length - payload
    const at = this.#outerChecksum()
    const most = at === 0 ? left : left - (left % size)
    this.#copyHeaders(view, free)
    let check = 0
    if (at !== 0) {
      const inner = view.getUint16(to + transport + this.#checksumAt(), true)
      const pseudo = relength(inner, this.#length - transport, payload - transport + size)
      this.#outward(view, to, to + payload + size, 0xffff ^ pseudo, 0)
      check = view.getUint16(to + at, true)
      this.#copyHeaders(view, free)
    }
    if (most < left) this.#shorten(view, to, to + payload + most)
    if (at !== 0) view.setUint16(to + at, check, true)
    view.setUint16(free + Vnet.HEADER_LENGTH, payload, true)
    this.headLength = VNET_HEADER_LENGTH + payload
    this.headPayload = most
    this.#index = Math.ceil(most / size)
    this.#at = payload + most
    this.more = most < left
    return (to + payload + 7) & ~7
  }

  /** Where the checksum of the tunnel’s own header is that each segment has; 0: nowhere. */
  #outerChecksum(): number {
    const { kinds, offsets, count } = this.#headers
    if (count < 3) return 0
    const at = offsets[1]
    if (kinds[1] === Layer.UDP) return this.#from.getUint16(this.#start + at + UDP.CHECK) === 0 ? 0 : at + UDP.CHECK
    return (this.#from.getUint8(this.#start + at) & 0x80) === 0 ? 0 : at + GRE_CHECK
  }

  #checksumAt(): number {
    return this.#headers.protocol === Protocol.TCP ? TCP.CHECK : UDP.CHECK
  }

  #copyHeaders(view: DataView, free: number): void {
    const from = this.#from
    for (let i = 0; i < VNET_HEADER_LENGTH; i += 2) view.setUint16(free + i, from.getUint16(this.#vnet + i))
    const to = free + VNET_HEADER_LENGTH
    copyAndSum(from, this.#start, view, to, this.#headers.payload)
  }

  /** The headers at `to`, of all of the frame, become those of a frame that ends at `end`, and others follow. */
  #shorten(view: DataView, to: number, end: number): void {
    const headers = this.#headers
    this.#outward(view, to, end, 0, 0)
    const at = to + headers.transport
    const check = at + this.#checksumAt()
    view.setUint16(check, relength(view.getUint16(check, true), this.#length - headers.transport, end - at), true)
    if (headers.protocol === Protocol.TCP) view.setUint8(at + TCP.FLAGS, view.getUint8(at + TCP.FLAGS) & ~TCP.FIN_PSH)
    else view.setUint16(at + UDP.LENGTH, end - at)
  }

  /** How many of the segments left go into one frame of UDP segments; 1: they are sent one by one. */
  #joinable(): number {
    const headers = this.#headers
    if (!this.#joins || headers.tunnel === 0) return 1
    const each = headers.payload - headers.tunnel + headers.size
    const left = Math.ceil((this.#length - this.#at) / headers.size)
    const room = Math.floor((0xffff - (headers.tunnel - headers.offsets[0])) / each)
    return Math.max(1, Math.min(left, room, MOST_JOINED))
  }

  /** Makes one frame of UDP segments: what the tunnel's datagrams have in common is said once. */
  #join(view: DataView, free: number, to: number, end: number, each: number, first: number): void {
    const headers = this.#headers
    const udp = headers.tunnel - UDP_HEADER
    const ip = to + headers.offsets[0]
    view.setUint8(free + Vnet.FLAGS, Vnet.NEEDS_CSUM)
    view.setUint8(free + Vnet.GSO_TYPE, Vnet.UDP_L4)
    view.setUint16(free + Vnet.HEADER_LENGTH, headers.tunnel, true)
    view.setUint16(free + Vnet.GSO_SIZE, each, true)
    view.setUint16(free + Vnet.CSUM_START, udp, true)
    view.setUint16(free + Vnet.CSUM_OFFSET, UDP.CHECK, true)
    const length = end - to - udp
    view.setUint16(to + udp + UDP.LENGTH, length)
    const left = view.getUint16(to + udp + UDP.CHECK, true)
    let pseudo = 0
    if (left !== 0) pseudo = relength(left, this.#length - udp, length)
    else {
      const addresses = headers.kinds[0] === Layer.IPV4 ? sumOf(view, ip + 12, 8) : sumOf(view, ip + 8, 32)
      pseudo = fold(addresses + networkWord(Protocol.UDP) + networkWord(length))
    }
    view.setUint16(to + udp + UDP.CHECK, pseudo, true)
    if (headers.kinds[0] === Layer.IPV6) view.setUint16(ip + 4, end - ip - 40)
    else {
      view.setUint16(ip + 2, end - ip)
      view.setUint16(ip + 4, view.getUint16(ip + 4) + first)
      view.setUint16(ip + 10, 0)
      view.setUint16(ip + 10, ~sumOf(view, ip, (view.getUint8(ip) & 0xf) * 4), true)
    }
  }

  /** Finishes the transport header; returns the sum of it and the payload. `sum`: of the payload. */
  #transport(view: DataView, to: number, end: number, sum: number): number {
    const headers = this.#headers
    const at = to + headers.transport
    const tcp = headers.protocol === Protocol.TCP
    const check = at + (tcp ? TCP.CHECK : UDP.CHECK)
    const pseudo = headers.unfinished
      ? relength(view.getUint16(check, true), this.#length - headers.transport, end - at)
      : this.#pseudoHeader(view, to, end - at)
    if (tcp) {
      view.setUint32(at + TCP.SEQUENCE, view.getUint32(at + TCP.SEQUENCE) + this.#index * headers.size)
      let flags = view.getUint8(at + TCP.FLAGS)
      if (this.#at + headers.size < this.#length) flags &= ~TCP.FIN_PSH
      // With Accurate ECN the bit is part of a counter, and stays in every segment; else it is told once.
      if (this.#index > 0 && this.#ecn) flags &= ~TCP.CWR
      view.setUint8(at + TCP.FLAGS, flags)
    } else view.setUint16(at + UDP.LENGTH, end - at)
    view.setUint16(check, 0)
    const header = sumOf(view, at, headers.payload - headers.transport)
    const value = ~fold(header + sum + pseudo) & 0xffff
    // Of UDP, 0 says that there is none. Of TCP it is the same as 0xffff, and the kernel writes 0.
    const written = value === 0 && !tcp ? 0xffff : value
    view.setUint16(check, written, true)
    return fold(header + sum + written)
  }

  /** The sum of addresses, protocol and length, where nobody has left it in the checksum's place. */
  #pseudoHeader(view: DataView, to: number, length: number): number {
    const headers = this.#headers
    const last = headers.count - 1
    const ip = to + headers.offsets[last]
    const addresses = headers.kinds[last] === Layer.IPV4 ? sumOf(view, ip + 12, 8) : sumOf(view, ip + 8, 32)
    return addresses + networkWord(headers.protocol) + networkWord(length)
  }

  /**
   * Sets right all headers in front of the transport header, the inner ones first. `sum`: from the transport header on.
   */
  #outward(view: DataView, to: number, end: number, sum: number, outermost: number): void {
    const headers = this.#headers
    const transport = to + headers.transport
    for (let k = headers.count - 1; k >= outermost; k--) {
      const at = to + headers.offsets[k]
      switch (headers.kinds[k]) {
        case Layer.IPV4:
          view.setUint16(at + 2, end - at)
          view.setUint16(at + 4, view.getUint16(at + 4) + this.#index)
          view.setUint16(at + 10, 0)
          view.setUint16(at + 10, ~sumOf(view, at, (view.getUint8(at) & 0xf) * 4), true)
          break
        case Layer.IPV6:
          view.setUint16(at + 4, end - at - 40)
          break
        case Layer.UDP: {
          view.setUint16(at + UDP.LENGTH, end - at)
          const left = view.getUint16(at + UDP.CHECK, true)
          if (left === 0) break
          const pseudo = relength(left, this.#length - headers.offsets[k], end - at)
          view.setUint16(at + UDP.CHECK, 0)
          const value = ~fold(sumOf(view, at, transport - at) + sum + pseudo) & 0xffff
          view.setUint16(at + UDP.CHECK, value === 0 ? 0xffff : value, true)
          break
        }
        case Layer.GRE:
          if ((view.getUint8(at) & 0x80) === 0) break
          view.setUint16(at + GRE_CHECK, 0)
          view.setUint16(at + GRE_CHECK, ~fold(sumOf(view, at, transport - at) + sum), true)
          break
        case Layer.PPPOE:
          view.setUint16(at + 4, end - at - 6)
          break
      }
    }
  }
}

/** A pseudo-header's sum, left in a checksum's place, with another length. */
function relength(left: number, from: number, to: number): number {
  return fold(left + (0xffff ^ networkWord(from & 0xffff)) + networkWord(to))
}
