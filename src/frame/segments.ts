// How many frames a GSO frame is on the wire. Whether a device on the way cuts one up, or puts several together (GRO),
// the number stays what it is: so this is what channels count, not the frames as they happen to come.

import type { Frame } from './frame.js'
import { UDP_HEADER } from './gso-headers.js'
import { Vnet } from './vnet-header.js'

const { GSO_TYPE, GSO_SIZE, CSUM_START, ECN, TCPV4, TCPV6, UDP_L4 } = Vnet
const TCP_HEADER = 20

/**
 * As the kernel cuts it (tcp_gso_segment, __udp_gso_segment): the payload behind the transport header, by `gso_size`.
 */
export function segmentsOf(frame: Frame): number {
  const headers = headersOf(frame)
  return headers === 0 ? 1 : Math.max(1, Math.ceil((frame.length - headers) / sizeOf(frame)))
}

/** Bytes of the longest of them, from the destination address on. */
export function longestOf(frame: Frame): number {
  const headers = headersOf(frame)
  return headers === 0 ? frame.length : Math.min(frame.length, headers + sizeOf(frame))
}

/** Bytes that each segment begins with; 0: it is a frame by itself. */
function headersOf(frame: Frame): number {
  const { bytes, vnet } = frame
  const type = bytes[vnet + GSO_TYPE] & ~ECN
  if (type !== TCPV4 && type !== TCPV6 && type !== UDP_L4) return 0
  const transport = bytes[vnet + CSUM_START] | (bytes[vnet + CSUM_START + 1] << 8)
  if (sizeOf(frame) === 0 || transport + (type === UDP_L4 ? UDP_HEADER : TCP_HEADER) > frame.length) return 0
  return transport + (type === UDP_L4 ? UDP_HEADER : (bytes[frame.start + transport + 12] >> 4) * 4)
}

function sizeOf({ bytes, vnet }: Frame): number {
  return bytes[vnet + GSO_SIZE] | (bytes[vnet + GSO_SIZE + 1] << 8)
}
