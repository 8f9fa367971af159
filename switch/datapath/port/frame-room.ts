// What frames a device takes: those that a bridge would give it, however the kernel judges what a packet socket sends.
//
// A bridge forwards what has, without the tag that the kernel keeps beside it, at most MTU + Ethernet header + one tag
// (is_skb_forwardable in include/linux/netdevice.h); so does a veth to its other end. A packet socket sends at most MTU
// + Ethernet header, tags included, and 4 bytes more when the outermost is 0x8100 (packet_snd in
// net/packet/af_packet.c). GSO frames pass both.

import { ETHERNET_HEADER_LENGTH, EtherType, innerEtherType, VLAN_TAG_LENGTH } from '../../../src/frame/ethernet.js'
import type { Frame } from '../../../src/frame/frame.js'

/** How a frame leaves: as a packet socket's message; by a way that knows no MTU; not at all. */
export const Way = { MESSAGE: 0, OVERSIZE: 1, NONE: 2 } as const
export type Way = (typeof Way)[keyof typeof Way]

/** Of a frame without GSO. `serviceTci` >= 0: a tag is pushed. */
export function wayOut(frame: Frame, serviceTci: number, mtu: number): Way {
  const beside = frame.tagTpid === 0 ? 0 : VLAN_TAG_LENGTH
  const pushed = serviceTci < 0 ? 0 : VLAN_TAG_LENGTH
  const most = mtu + ETHERNET_HEADER_LENGTH
  const whole = frame.length + beside + pushed
  if (whole <= most) return Way.MESSAGE
  // From a trunk a frame comes with all its tags within; any of these two kinds is beside it when it has left.
  const outermost = pushed > 0 ? EtherType.SERVICE_VLAN : beside > 0 ? frame.tagTpid : innerEtherType(frame)
  const tagged = outermost === EtherType.VLAN || outermost === EtherType.SERVICE_VLAN
  if (whole - (tagged ? VLAN_TAG_LENGTH : 0) > most + VLAN_TAG_LENGTH) return Way.NONE
  return outermost === EtherType.VLAN && whole <= most + VLAN_TAG_LENGTH ? Way.MESSAGE : Way.OVERSIZE
}

/** Frames up to this length need no `wayOut`: they fit with both tags. */
export function roomForAny(mtu: number): number {
  return mtu + ETHERNET_HEADER_LENGTH - 2 * VLAN_TAG_LENGTH
}
