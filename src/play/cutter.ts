// Cuts a packet that is longer than a device takes into packets that are not: TCP into segments, as the sending host's
// network card would have (captures on the host have them whole), other IPv4 into fragments (RFC 791). Pure.

import { completeChecksums } from './checksums.js'
import { Headers, Protocol } from './headers.js'

const FIN_PSH = 0x09
const CWR = 0x80
const MORE_FRAGMENTS = 0x2000
const DONT_FRAGMENT = 0x4000
/** Most pieces of one packet: 64 KiB in the smallest ones that IPv4 must carry, with some to spare. */
const MOST_PIECES = 2000

export class Cutter {
  pieces = 0
  more = false
  readonly #headers = new Headers()
  readonly #piece = new Headers()
  #view: DataView = new DataView(new ArrayBuffer(0))
  #bytes: Uint8Array = new Uint8Array(0)
  #start = 0
  /** Where payload begins that each piece has a part of, how long a part is, and where the next one begins. */
  #payload = 0
  #size = 0
  #at = 0
  #isTcp = false
  #index = 0

  /** False: it cannot be cut. The packet's memory must stay as it is until there is no `more`. */
  begin(view: DataView, bytes: Uint8Array, start: number, length: number, mtu: number): boolean {
    const headers = this.#headers
    headers.read(view, bytes, start, length)
    const { version, at, payload, payloadEnd, protocol } = headers
    if (version === 0 || !headers.isFirst || headers.isFragment) return false
    // Of a packet above 64 KiB the length field says nothing (0), and so it is not whole: it ends with the frame.
    const isTcp = protocol === Protocol.TCP && payload + 20 <= payloadEnd
    const transport = isTcp ? (view.getUint8(payload + 12) >> 4) * 4 : 0
    const room = at + mtu - (payload + transport)
    if ((!isTcp && (version !== 4 || (view.getUint16(at + 6) & DONT_FRAGMENT) !== 0)) || room < 8) return false
    this.#view = view
    this.#bytes = bytes
    this.#start = start
    this.#isTcp = isTcp
    this.#payload = payload + transport
    this.#size = isTcp ? room : room & ~7
    this.#at = this.#payload
    this.#index = 0
    this.pieces = Math.ceil((payloadEnd - this.#payload) / this.#size)
    this.more = this.pieces > 1 && this.pieces <= MOST_PIECES
    return this.more
  }

  /** Writes the next one to `at`; returns its length. */
  next(view: DataView, bytes: Uint8Array, at: number): number {
    const { payloadEnd, at: ipAt, version } = this.#headers
    const head = this.#payload - this.#start
    const part = Math.min(this.#size, payloadEnd - this.#at)
    const length = head + part
    bytes.set(this.#bytes.subarray(this.#start, this.#payload), at)
    bytes.set(this.#bytes.subarray(this.#at, this.#at + part), at + head)
    const ip = at + ipAt - this.#start
    const done = this.#at - this.#payload
    const isLast = this.#at + part === payloadEnd
    if (version === 4) view.setUint16(ip + 2, at + length - ip)
    else view.setUint16(ip + 4, at + length - ip - 40)
    if (this.#isTcp) this.#segment(view, at + this.#headers.payload - this.#start, ip, done, isLast)
    else view.setUint16(ip + 6, (this.#view.getUint16(ipAt + 6) & ~0x3fff) | (isLast ? 0 : MORE_FRAGMENTS) | (done / 8))
    this.#piece.read(view, bytes, at, length)
    completeChecksums(view, this.#piece)
    this.#at += part
    this.#index++
    this.more = !isLast
    return length
  }

  #segment(view: DataView, tcp: number, ip: number, done: number, isLast: boolean): void {
    view.setUint32(tcp + 4, (view.getUint32(tcp + 4) + done) >>> 0)
    let flags = view.getUint8(tcp + 13)
    if (!isLast) flags &= ~FIN_PSH
    if (this.#index > 0) flags &= ~CWR
    view.setUint8(tcp + 13, flags)
    if (this.#headers.version === 4) view.setUint16(ip + 4, (view.getUint16(ip + 4) + this.#index) & 0xffff)
  }
}
