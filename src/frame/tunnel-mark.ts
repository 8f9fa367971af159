// A GSO frame in one tunnel may leave whole where a program at the device's egress hook tells the kernel what the
// virtio-net header cannot (src/linux/egress-program.ts). What the program must know for it is in the frame's mark:
//
//   bits 31-16  MARK: the frame is one of these
//   bits 15-8   TunnelBit
//   bits 7-0    how long the outer headers are: from the outer IP header to the inner one
//
// The kernel knows one level of tunnels, with a plain IP header outside (skb->inner_network_header and its like); where
// there is no Ethernet header inside, it takes the inner packet for one of the outer IP version, but in IPIP and SIT.

import { ETHERNET_HEADER_LENGTH, EtherType } from './ethernet.js'
import type { Frame } from './frame.js'
import { type GsoHeaders, Layer, Protocol, UDP_HEADER } from './gso-headers.js'

/** "sw" */
export const MARK = 0x7377
export const TunnelBit = { OUTER_IPV6: 1, UDP: 2, GRE: 4, ETHERNET: 8 } as const
/** In bytes: an IPv4 header, and what the program has room for. */
export const SHORTEST_OUTER = 20
export const LONGEST_OUTER = 128
/** The tunnel cannot be told so. */
export const NO_MARK = 0

const TRANSPARENT_BRIDGING = 0x6558
const IPV6_HEADER = 40
const DESTINATION_OPTIONS = 60
const GRE_HEADER = 4
/** A checksum and a key; no sequence number, which each frame would have of its own. */
const GRE_FLAGS = 0xa000

/** Of a frame that `headers` have been read of; they say what is in front of the payload. */
export function tunnelMark(headers: GsoHeaders, { bytes, start }: Frame): number {
  const { kinds, offsets, count } = headers
  if (!headers.unfinished || count < 2 || count > 3 || offsets[0] !== ETHERNET_HEADER_LENGTH) return NO_MARK
  const outer = kinds[0]
  const inner = kinds[count - 1]
  if ((outer !== Layer.IPV4 && outer !== Layer.IPV6) || (inner !== Layer.IPV4 && inner !== Layer.IPV6)) return NO_MARK
  const ip = start + ETHERNET_HEADER_LENGTH
  const length = offsets[count - 1] - ETHERNET_HEADER_LENGTH
  if (length > LONGEST_OUTER) return NO_MARK
  // Behind the outer IP header: 20 bytes, or 40 and perhaps the one extension that Linux puts there by default.
  let after = ETHERNET_HEADER_LENGTH + SHORTEST_OUTER
  if (outer === Layer.IPV6) {
    after = ETHERNET_HEADER_LENGTH + IPV6_HEADER
    if (bytes[ip + 6] === DESTINATION_OPTIONS) after += (bytes[ip + IPV6_HEADER + 1] + 1) * 8
  }
  const alike = inner === outer
  const innerAt = start + offsets[count - 1]
  let bits = outer === Layer.IPV6 ? TunnelBit.OUTER_IPV6 : 0
  if (offsets[1] !== after) return NO_MARK
  if (count === 2) return (MARK << 16) | (bits << 8) | length
  const word = (at: number) => (bytes[at] << 8) | bytes[at + 1]
  const isEthernet = word(innerAt - 2) === (inner === Layer.IPV4 ? EtherType.IPV4 : EtherType.IPV6)
  if (kinds[1] === Layer.UDP) {
    if (outer === Layer.IPV6 && bytes[ip + 6] !== Protocol.UDP) return NO_MARK
    bits |= TunnelBit.UDP
    const between = offsets[2] - after - UDP_HEADER
    // What looks like an Ethernet header and is none does no harm: the EtherType is right.
    if (isEthernet && between >= ETHERNET_HEADER_LENGTH) bits |= TunnelBit.ETHERNET
    else if (!alike) return NO_MARK
  } else if (kinds[1] === Layer.GRE) {
    const gre = start + after
    if ((word(gre) & ~GRE_FLAGS) !== 0) return NO_MARK
    bits |= TunnelBit.GRE
    const type = word(gre + 2)
    if (type === TRANSPARENT_BRIDGING) {
      if (!isEthernet || offsets[2] - after < GRE_HEADER + ETHERNET_HEADER_LENGTH) return NO_MARK
      bits |= TunnelBit.ETHERNET
    } else if (!alike || (type !== EtherType.IPV4 && type !== EtherType.IPV6)) return NO_MARK
  } else return NO_MARK
  return (MARK << 16) | (bits << 8) | length
}
