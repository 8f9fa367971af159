// Puts other addresses and VLANs into a frame, in place. Checksums are changed by what the change is worth (RFC 1624):
// a right one stays right, also of a fragment or a frame that was captured in part; a wrong one stays wrong.
// `completeChecksums` (checksums.ts) makes all anew. Pure.

import { EtherType, macHigh, macLow } from '../frame/ethernet.js'
import { checksumOffset, Headers, Protocol } from './headers.js'
import { isWithin, type Prefix } from './mapping.js'

export interface MacChange {
  readonly from: Uint8Array
  readonly to: Uint8Array
}

/** The first `bits` bits become those of `to`, the others stay. Of one family, `to` with as many bits. */
export interface IpChange {
  readonly from: Prefix
  readonly to: Prefix
}

/** Of the outermost tag; null: none. */
export interface VlanChange {
  readonly from: number | null
  readonly to: number | null
}

export interface Changes {
  readonly macs: readonly MacChange[]
  readonly ips: readonly IpChange[]
  readonly vlans: readonly VlanChange[]
}

const ARP_IPV4 = 0x00010800
/** Neighbour discovery (RFC 4861). */
const Icmp6 = { SOLICIT: 135, ADVERTISE: 136, REDIRECT: 137, FIRST: 133, LAST: 137 } as const
const LINK_SOURCE = 1
const LINK_TARGET = 2
/**
 * Of an ICMP message, the errors that hold the beginning of a packet: unreachable, quench, redirect, time, parameter.
 */
const ICMP_ERRORS = [3, 4, 5, 11, 12]
const ICMP6_ERRORS = [1, 2, 3, 4]
/** ff02::1:ff00:0/104 */
const SOLICITED = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]

export class Rewriter {
  /** Of the frame that was rewritten last. */
  start = 0
  length = 0
  readonly #changes: Changes
  readonly #headers = new Headers()
  readonly #inner = new Headers()
  #bytes: Uint8Array = new Uint8Array(0)
  #view = new DataView(this.#bytes.buffer)
  /** What the words written since it was cleared have added to a one's complement sum. */
  #delta = 0

  constructor(changes: Changes) {
    this.#changes = changes
  }

  /** The frame that lies at `start`, with 4 bytes of room before it; then it lies at `this.start`. */
  rewrite(bytes: Uint8Array, view: DataView, start: number, length: number): void {
    this.start = start
    this.length = length
    if (length < 14) return
    this.#bytes = bytes
    this.#view = view
    const { macs, ips, vlans } = this.#changes
    if (macs.length > 0) {
      this.#mac(start)
      this.#mac(start + 6)
    }
    if (macs.length > 0 || ips.length > 0) {
      this.#headers.read(view, bytes, start, length)
      if (this.#headers.type === EtherType.ARP) this.#arp()
      else if (this.#headers.version !== 0) this.#ip()
    }
    for (const change of vlans) if (this.#vlan(change)) break
  }

  #mac(at: number): boolean {
    const bytes = this.#bytes
    for (const { from, to } of this.#changes.macs) {
      if (macHigh(bytes, at) !== macHigh(from, 0) || macLow(bytes, at) !== macLow(from, 0)) continue
      for (let i = 0; i < 6; i += 2) this.#put(at + i, (to[i] << 8) | to[i + 1])
      return true
    }
    return false
  }

  /** `at`: an address of 4 or 16 bytes. */
  #address(at: number, size: 4 | 16): boolean {
    const bytes = this.#bytes
    for (const { from, to } of this.#changes.ips) {
      if (from.address.length !== size || !isWithin(from, bytes, at)) continue
      for (let i = 0; i < size; i += 2) {
        const bits = from.bits - i * 8
        const mask = bits <= 0 ? 0 : bits >= 16 ? 0xffff : (0xffff << (16 - bits)) & 0xffff
        const wanted = (to.address[i] << 8) | to.address[i + 1]
        this.#put(at + i, (wanted & mask) | (this.#view.getUint16(at + i) & ~mask & 0xffff))
      }
      return true
    }
    return false
  }

  #put(at: number, word: number): void {
    const view = this.#view
    const before = view.getUint16(at)
    if (word === before) return
    this.#delta += word + (~before & 0xffff)
    view.setUint16(at, word)
  }

  /** A checksum that covers what was written; the change of the checksum itself is added to `#delta`. */
  #fix(at: number, delta: number): void {
    let sum = (~this.#view.getUint16(at) & 0xffff) + delta
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
    this.#put(at, ~sum & 0xffff)
  }

  #arp(): void {
    const { at } = this.#headers
    if (at + 28 > this.start + this.length || this.#view.getUint32(at) !== ARP_IPV4) return
    this.#mac(at + 8)
    this.#address(at + 14, 4)
    this.#mac(at + 18)
    this.#address(at + 24, 4)
  }

  #ip(): void {
    const headers = this.#headers
    this.#delta = 0
    if (headers.protocol === Protocol.ICMP6 && headers.version === 6 && headers.isFirst) {
      const message = this.#icmp6()
      // The message's checksum is for all that changes, addresses of the header included.
      this.#addresses(headers)
      if (message) this.#fix(headers.payload + 2, this.#delta)
      return
    }
    const changed = this.#addresses(headers)
    const delta = this.#delta
    if (changed && headers.version === 4) this.#fix(headers.at + 10, delta)
    if (changed && headers.isFirst) this.#fixTransport(headers, delta)
    if (headers.protocol === Protocol.ICMP && headers.version === 4 && headers.isFirst) this.#icmp()
  }

  #addresses({ at, version }: Headers): boolean {
    const size = version === 4 ? 4 : 16
    const first = at + (version === 4 ? 12 : 8)
    const source = this.#address(first, size)
    return this.#address(first + size, size) || source
  }

  /** Of TCP, UDP and their like; what the checksum changes by is added to `#delta`. */
  #fixTransport({ protocol, payload, payloadEnd }: Headers, delta: number): void {
    const offset = checksumOffset(protocol)
    const at = payload + offset
    if (offset < 0 || at + 2 > payloadEnd) return
    const isUdp = protocol === Protocol.UDP
    // 0 is no checksum, and is never what one comes to (RFC 768).
    if (isUdp && this.#view.getUint16(at) === 0) return
    this.#fix(at, delta)
    if (isUdp && this.#view.getUint16(at) === 0) this.#put(at, 0xffff)
  }

  /** An error has the packet that it is about within: that one's addresses are changed as well. */
  #icmp(): void {
    const { payload, payloadEnd } = this.#headers
    if (payload + 8 > payloadEnd || !ICMP_ERRORS.includes(this.#bytes[payload])) return
    const inner = this.#inner
    inner.readFour(this.#view, payload + 8, payloadEnd)
    this.#delta = 0
    this.#packetWithin()
    if (this.#bytes[payload] === 5) this.#address(payload + 4, 4)
    this.#fix(payload + 2, this.#delta)
  }

  #packetWithin(): void {
    const inner = this.#inner
    if (inner.version === 0) return
    const before = this.#delta
    const changed = this.#addresses(inner)
    const delta = this.#delta - before
    if (!changed) return
    if (inner.version === 4) this.#fix(inner.at + 10, delta)
    if (inner.isFirst) this.#fixTransport(inner, delta)
  }

  /** False: it has no checksum, being too short. */
  #icmp6(): boolean {
    const { payload, payloadEnd, at } = this.#headers
    if (payload + 4 > payloadEnd) return false
    const type = this.#bytes[payload]
    if (ICMP6_ERRORS.includes(type)) {
      this.#inner.readSix(this.#view, payload + 8, payloadEnd)
      this.#packetWithin()
    }
    if (type < Icmp6.FIRST || type > Icmp6.LAST) return true
    const body = payload + (type === 133 ? 8 : type === 134 ? 16 : type === Icmp6.REDIRECT ? 40 : 24)
    if (body > payloadEnd) return true
    if (type >= Icmp6.SOLICIT && this.#address(payload + 8, 16) && type === Icmp6.SOLICIT) this.#solicited(at, payload)
    if (type === Icmp6.REDIRECT) this.#address(payload + 24, 16)
    for (let option = body; option + 8 <= payloadEnd; ) {
      const length = this.#bytes[option + 1] * 8
      const kind = this.#bytes[option]
      if (length === 0) break
      if (kind === LINK_SOURCE || kind === LINK_TARGET) this.#mac(option + 2)
      option += length
    }
    return true
  }

  /** A solicitation goes to the group of the address that it asks for, by whose last three bytes both are called. */
  #solicited(at: number, payload: number): void {
    const bytes = this.#bytes
    if (SOLICITED.some((byte, i) => bytes[at + 24 + i] !== byte)) return
    const [high, middle, low] = [bytes[payload + 21], bytes[payload + 22], bytes[payload + 23]]
    this.#put(at + 24 + 12, 0xff00 | high)
    this.#put(at + 24 + 14, (middle << 8) | low)
    if (bytes[this.start] !== 0x33 || bytes[this.start + 1] !== 0x33) return
    // Not covered by the checksum.
    bytes[this.start + 3] = high
    bytes[this.start + 4] = middle
    bytes[this.start + 5] = low
  }

  /** True: it was for this frame. */
  #vlan({ from, to }: VlanChange): boolean {
    const view = this.#view
    const tpid = view.getUint16(this.start + 12)
    const isTagged = (tpid === EtherType.VLAN || tpid === EtherType.SERVICE_VLAN) && this.length >= 18
    const vlan = isTagged ? view.getUint16(this.start + 14) & 0xfff : null
    if (vlan !== from) return false
    if (to === vlan) return true
    if (to === null) {
      this.#bytes.copyWithin(this.start + 4, this.start, this.start + 12)
      this.start += 4
      this.length -= 4
    } else if (vlan === null) {
      this.#bytes.copyWithin(this.start - 4, this.start, this.start + 12)
      this.start -= 4
      this.length += 4
      view.setUint16(this.start + 12, EtherType.VLAN)
      view.setUint16(this.start + 14, to)
    } else view.setUint16(this.start + 14, (view.getUint16(this.start + 14) & 0xf000) | to)
    return true
  }
}
