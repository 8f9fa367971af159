// Where the headers of a frame are, as far as addresses and checksums go: read once, into fields that are used again.

import { EtherType } from '../frame/ethernet.js'
import { afterTags } from './mapping.js'

export const Protocol = {
  HOP_BY_HOP: 0,
  ICMP: 1,
  TCP: 6,
  UDP: 17,
  ROUTING: 43,
  FRAGMENT: 44,
  ICMP6: 58,
  OPTIONS: 60,
  UDP_LITE: 136,
} as const

/** Where a checksum that covers IP addresses lies in its header; -1: there is none. */
export function checksumOffset(protocol: number): number {
  if (protocol === Protocol.TCP) return 16
  if (protocol === Protocol.UDP || protocol === Protocol.UDP_LITE) return 6
  return protocol === Protocol.ICMP6 ? 2 : -1
}

/** Most extension headers of IPv6 that are walked. */
const MOST_HEADERS = 8

export class Headers {
  /** EtherType of what follows the tags, and where that begins. */
  type = 0
  at = 0
  /** Of IP: where the payload begins, whose protocol it is, and where it ends as the header says (or the frame). */
  payload = 0
  payloadEnd = 0
  protocol = 0
  /** The payload is not all there: a fragment. */
  isFragment = false
  /** The payload begins with its protocol's header: no later fragment. */
  isFirst = false
  /** 4 or 6; 0: no IP, or too short for it. */
  version: 0 | 4 | 6 = 0
  /** All that the IP header says is in the frame. */
  isWhole = false

  /** A frame with its Ethernet header. */
  read(view: DataView, bytes: Uint8Array, start: number, length: number): void {
    this.at = afterTags(bytes, start, length)
    this.type = view.getUint16(this.at - 2)
    this.version = 0
    if (this.type === EtherType.IPV4) this.readFour(view, this.at, start + length)
    else if (this.type === EtherType.IPV6) this.readSix(view, this.at, start + length)
  }

  readFour(view: DataView, at: number, end: number): void {
    this.version = 0
    this.at = at
    if (at + 20 > end || view.getUint8(at) >> 4 !== 4) return
    const header = (view.getUint8(at) & 15) * 4
    if (header < 20 || at + header > end) return
    const total = view.getUint16(at + 2)
    const offset = view.getUint16(at + 6)
    this.version = 4
    this.protocol = view.getUint8(at + 9)
    this.payload = at + header
    this.isWhole = total >= header && at + total <= end
    this.payloadEnd = this.isWhole ? at + total : end
    this.isFragment = (offset & 0x3fff) !== 0
    this.isFirst = (offset & 0x1fff) === 0
  }

  readSix(view: DataView, at: number, end: number): void {
    this.version = 0
    this.at = at
    if (at + 40 > end || view.getUint8(at) >> 4 !== 6) return
    const total = 40 + view.getUint16(at + 4)
    this.version = 6
    this.isWhole = at + total <= end
    this.payloadEnd = this.isWhole ? at + total : end
    this.isFragment = false
    this.isFirst = true
    let protocol = view.getUint8(at + 6)
    let next = at + 40
    for (let i = 0; i < MOST_HEADERS && next + 8 <= this.payloadEnd; i++) {
      if (protocol === Protocol.FRAGMENT) {
        this.isFragment = (view.getUint16(next + 2) & 0xfff9) !== 0
        if (view.getUint16(next + 2) >> 3 !== 0) this.isFirst = false
      } else if (protocol !== Protocol.HOP_BY_HOP && protocol !== Protocol.ROUTING && protocol !== Protocol.OPTIONS) {
        break
      }
      const length = protocol === Protocol.FRAGMENT ? 8 : (view.getUint8(next + 1) + 1) * 8
      protocol = view.getUint8(next)
      next += length
      if (!this.isFirst) break
    }
    this.protocol = protocol
    this.payload = Math.min(next, this.payloadEnd)
  }
}
