// The `dscp` color codec: the parity of a frame's epoch in the lowest bit of the DSCP of IPv4 and IPv6. The code points
// of RFC 2474, 2597, 3246 and 5865 have it 0 (they are all of IANA's pool 1, xxxxx0); LE (000001, RFC 8622) and NQB
// (101101, RFC 9956) are of pool 3, and have it set. A frame that has it set already cannot say its color so, and goes
// in a carrier (uplink-peer.ts). Nothing grows, and any switch forwards it. The IPv4 header checksum is updated as in
// RFC 1624, equation 3; IPv6 has none, and no transport checksum covers the field. GSO frames stay whole: the kernel
// copies the header, bit and all, to each segment.

import { ETHERNET_HEADER_LENGTH, EtherType, innerEtherType } from './ethernet.js'
import type { Frame } from './frame.js'

/** The frame has no bit that could carry a color: no IP, or a header that does not make sense. */
export const NO_BIT = -1

const IPV4_LENGTH = 20
const IPV6_LENGTH = 40
const CHECKSUM = 10
/**
 * In the second byte of an IPv4 header (type of service) and of an IPv6 header (lower half of the traffic class first).
 */
const IPV4_BIT = 0x04
const IPV6_BIT = 0x40
/** What the bit is worth in the 16-bit word of IPv4 that it lies in. */
const IPV4_WORTH = 4

/** The bit as it is, 0 or 1; NO_BIT where there is none. */
export function colorBit(frame: Frame): number {
  const { bytes } = frame
  const ip = frame.start + ETHERNET_HEADER_LENGTH
  switch (innerEtherType(frame)) {
    case EtherType.IPV4:
      if (frame.length < ETHERNET_HEADER_LENGTH + IPV4_LENGTH || bytes[ip] >> 4 !== 4) return NO_BIT
      // No sum of a header that begins with a 4 can give this, and it would not survive the arithmetic (0 has two
      // forms).
      if (bytes[ip + CHECKSUM] === 0xff && bytes[ip + CHECKSUM + 1] === 0xff) return NO_BIT
      return (bytes[ip + 1] & IPV4_BIT) === 0 ? 0 : 1
    case EtherType.IPV6:
      if (frame.length < ETHERNET_HEADER_LENGTH + IPV6_LENGTH || bytes[ip] >> 4 !== 6) return NO_BIT
      return (bytes[ip + 1] & IPV6_BIT) === 0 ? 0 : 1
    default:
      return NO_BIT
  }
}

/** Turns the bit over, where `colorBit` has found one; twice gives the frame as it was, to the byte. */
export function flipColorBit(frame: Frame): void {
  const { bytes } = frame
  const ip = frame.start + ETHERNET_HEADER_LENGTH
  if (bytes[ip] >> 4 === 6) {
    bytes[ip + 1] ^= IPV6_BIT
    return
  }
  bytes[ip + 1] ^= IPV4_BIT
  // The checksum's complement grows with the word, in ones' complement arithmetic.
  const grows = (bytes[ip + 1] & IPV4_BIT) === 0 ? 0xffff - IPV4_WORTH : IPV4_WORTH
  let sum = (~((bytes[ip + CHECKSUM] << 8) | bytes[ip + CHECKSUM + 1]) & 0xffff) + grows
  if (sum > 0xffff) sum -= 0xffff
  bytes[ip + CHECKSUM] = (~sum >> 8) & 0xff
  bytes[ip + CHECKSUM + 1] = ~sum & 0xff
}

/** Of the two epochs that the bit may stand for, `from` and the one after it, the one with its parity. */
export function epochOfBit(bit: number, from: number): number {
  return from + ((from ^ bit) & 1)
}
