// GSO frames that their virtio-net header describes: TCP or UDP segments right in an IP packet, perhaps in VLANs.
// Nearly all are; so this is a quick look, and what it does not know is looked into (gso-headers.ts).

import { ETHERNET_HEADER_LENGTH, EtherType, VLAN_TAG_LENGTH } from './ethernet.js'
import type { Frame } from './frame.js'
import { Vnet } from './vnet-header.js'

const TCP = 6
const UDP = 17
const MOST_TAGS = 2
const IPV6_HEADER = 40

/** Of a frame whose gso_type is not 0. */
export function isPlainGso(frame: Frame): boolean {
  const { bytes, vnet, start } = frame
  if ((bytes[vnet + Vnet.FLAGS] & Vnet.NEEDS_CSUM) === 0) return false
  const type = bytes[vnet + Vnet.GSO_TYPE] & ~Vnet.ECN
  const protocol = type === Vnet.UDP_L4 ? UDP : TCP
  const transport = start + (bytes[vnet + Vnet.CSUM_START] | (bytes[vnet + Vnet.CSUM_START + 1] << 8))
  let ip = start + ETHERNET_HEADER_LENGTH
  let next = (bytes[ip - 2] << 8) | bytes[ip - 1]
  for (let tags = 0; tags < MOST_TAGS && (next === EtherType.VLAN || next === EtherType.SERVICE_VLAN); tags++) {
    ip += VLAN_TAG_LENGTH
    next = (bytes[ip - 2] << 8) | bytes[ip - 1]
  }
  if (next === EtherType.IPV4) {
    return ip + (bytes[ip] & 0xf) * 4 === transport && bytes[ip] >>> 4 === 4 && bytes[ip + 9] === protocol
  }
  return next === EtherType.IPV6 && ip + IPV6_HEADER === transport && bytes[ip + 6] === protocol
}
