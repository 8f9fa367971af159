// Cuts a UDP datagram that is too long for the wire into IP fragments, as the kernel does with what a guest leaves to
// it (UFO: udp4_ufo_fragment, udp6_ufo_fragment). One at a time, into memory that the caller gives.

import { copyAndSum, fold, sumOf } from './checksum.js'
import { EtherType } from './ethernet.js'
import { type Frame, VNET_HEADER_LENGTH } from './frame.js'
import { networkHeaderAt, Protocol, UDP_HEADER } from './gso-headers.js'
import { pointInto, type SegmentMemory } from './segment-memory.js'

const FRAGMENT = 44
const FRAGMENT_HEADER = 8
const MORE_FRAGMENTS = 0x2000
const HOP_BY_HOP = 0
const ROUTING = 43
const UDP_CHECK = 6
const NOTHING = new DataView(new ArrayBuffer(0))

export class Fragmenter {
  /** Fragments are left of the datagram that was begun; its memory must stay as it is until there are none. */
  more = false
  #from: DataView = NOTHING
  #start = 0
  #length = 0
  #tagTpid = 0
  #tagTci = 0
  #color = 0
  /** From the frame's start: the IP header, what each fragment gets a part of, and the next part. */
  #ip = 0
  #payload = 0
  #at = 0
  #size = 0
  #version = 4
  /** IPv6: where the first header of what is cut is announced, by which number, and the datagram's own. */
  #announcedAt = 0
  #announced = 0
  #identification = 0

  /**
   * True when the frame is a UDP datagram: `next` gives its fragments, of `size` bytes behind the IP header at most,
   * and of `mtu` bytes from there on. `unfinished`: its checksum is the sum of the pseudo-header only; it is finished
   * in place.
   */
  begin(frame: Frame, size: number, mtu: number, unfinished: boolean): boolean {
    this.#from = frame.view
    this.#start = frame.start
    this.#length = frame.length
    if (!this.#headers()) return false
    const room = mtu - (this.#payload - this.#ip) - (this.#version === 6 ? FRAGMENT_HEADER : 0)
    this.#size = Math.max(8, Math.min(size, room) & ~7)
    if (unfinished) {
      const check = this.#start + this.#payload + UDP_CHECK
      const value = ~sumOf(this.#from, this.#start + this.#payload, this.#length - this.#payload) & 0xffff
      this.#from.setUint16(check, value === 0 ? 0xffff : value, true)
    }
    this.#tagTpid = frame.tagTpid
    this.#tagTci = frame.tagTci
    this.#color = frame.color
    this.#at = this.#payload
    this.#identification = (this.#identification + 1) >>> 0
    this.more = true
    return true
  }

  #headers(): boolean {
    const from = this.#from
    const start = this.#start
    const length = this.#length
    const at = networkHeaderAt(from, start, length)
    if (at === 0) return false
    const type = from.getUint16(start + at - 2)
    this.#ip = at
    if (type === EtherType.IPV4) {
      const header = (from.getUint8(start + at) & 0xf) * 4
      if (from.getUint8(start + at) >>> 4 !== 4 || header < 20) return false
      if ((from.getUint16(start + at + 6) & 0x3fff) !== 0 || from.getUint8(start + at + 9) !== Protocol.UDP)
        return false
      this.#version = 4
      this.#payload = at + header
    } else if (type !== EtherType.IPV6 || at + 40 > length || !this.#six()) return false
    return this.#payload + UDP_HEADER <= length
  }

  /** Past what every fragment has: the IPv6 header, hop-by-hop options, a routing header. */
  #six(): boolean {
    const from = this.#from
    const start = this.#start
    const length = this.#length
    this.#version = 6
    this.#announcedAt = this.#ip + 6
    this.#announced = from.getUint8(start + this.#announcedAt)
    let at = this.#ip + 40
    while ((this.#announced === HOP_BY_HOP || this.#announced === ROUTING) && at + 8 <= length) {
      this.#announcedAt = at
      this.#announced = from.getUint8(start + at)
      at += (from.getUint8(start + at + 1) + 1) * 8
    }
    this.#payload = at
    return this.#announced === Protocol.UDP && from.getUint8(start + this.#ip) >>> 4 === 6
  }

  /**
   * Writes the next fragment to `memory`, from `free` on, and points `frame` at it. Returns where the memory is free
   * then; -1 when it has no room.
   */
  next(frame: Frame, memory: SegmentMemory, free: number): number {
    const from = this.#from
    const start = this.#start
    const part = Math.min(this.#size, this.#length - this.#at)
    const head = this.#payload + (this.#version === 6 ? FRAGMENT_HEADER : 0)
    const to = free + VNET_HEADER_LENGTH
    const end = to + head + part
    if (end > memory.length) return -1
    const { view } = memory
    for (let i = 0; i < VNET_HEADER_LENGTH; i += 2) view.setUint16(free + i, 0)
    copyAndSum(from, start, view, to, this.#payload)
    copyAndSum(from, start + this.#at, view, to + head, part)
    const offset = this.#at - this.#payload
    this.#at += part
    this.more = this.#at < this.#length
    const ip = to + this.#ip
    if (this.#version === 4) {
      view.setUint16(ip + 2, end - ip)
      view.setUint16(ip + 6, (offset >>> 3) | (this.more ? MORE_FRAGMENTS : 0))
      view.setUint16(ip + 10, 0)
      view.setUint16(ip + 10, ~fold(sumOf(view, ip, this.#payload - this.#ip)), true)
    } else {
      view.setUint16(ip + 4, end - ip - 40)
      view.setUint8(to + this.#announcedAt, FRAGMENT)
      const at = to + this.#payload
      view.setUint16(at, this.#announced << 8)
      view.setUint16(at + 2, offset | (this.more ? 1 : 0))
      view.setUint32(at + 4, this.#identification)
    }
    pointInto(frame, memory, free, end - to)
    frame.tagTpid = this.#tagTpid
    frame.tagTci = this.#tagTci
    frame.color = this.#color
    return (end + 7) & ~7
  }
}
