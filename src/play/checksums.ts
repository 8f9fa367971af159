// Makes the checksums of a frame, as whoever sends it would: IPv4, TCP, UDP, ICMP, ICMPv6. A capture on the sending
// host often has none, since the device was to fill them in. Pure.

import { fold, networkWord, sumOf } from '../frame/checksum.js'
import { checksumOffset, type Headers, Protocol } from './headers.js'

/** Where words are summed as the machine reads them, they are stored as it does. */
function store(view: DataView, at: number, sum: number, isUdp: boolean): void {
  const checksum = ~fold(sum) & 0xffff
  view.setUint16(at, isUdp && checksum === 0 ? 0xffff : checksum, true)
}

/** `headers`: of the frame, read just now. Fragments and packets that are not whole have their transport's left. */
export function completeChecksums(view: DataView, headers: Headers): void {
  const { version, at, payload, payloadEnd, protocol } = headers
  if (version === 4) {
    view.setUint16(at + 10, 0)
    store(view, at + 10, sumOf(view, at, payload - at), false)
  }
  if (version === 0 || headers.isFragment || !headers.isWhole) return
  const isIcmp = protocol === Protocol.ICMP && version === 4
  const offset = isIcmp ? 2 : checksumOffset(protocol)
  // UDP-Lite covers as much as it says (RFC 3828).
  if (offset < 0 || protocol === Protocol.UDP_LITE || payload + offset + 2 > payloadEnd) return
  const isUdp = protocol === Protocol.UDP
  const end = isUdp ? payload + view.getUint16(payload + 4) : payloadEnd
  if (end > payloadEnd || end < payload + 8) return
  const check = payload + offset
  if (isUdp && version === 4 && view.getUint16(check) === 0) return
  view.setUint16(check, 0)
  store(view, check, pseudoHeader(view, headers, end - payload, isIcmp) + sumOf(view, payload, end - payload), isUdp)
}

function pseudoHeader(view: DataView, { version, at, protocol }: Headers, length: number, isIcmp: boolean): number {
  if (isIcmp) return 0
  const addresses = version === 4 ? sumOf(view, at + 12, 8) : sumOf(view, at + 8, 32)
  return addresses + networkWord(protocol) + networkWord(length)
}
