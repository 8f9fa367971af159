// Packets of all kinds that have addresses in them, with right checksums: what a rewriting is tried on.

import { completeChecksums } from '../../src/play/checksums.js'
import { Headers } from '../../src/play/headers.js'
import { ethernet, ip4, ip6, type Piece, tcp, udp } from '../frame/tunnels.js'

export const VLAN_7 = [0x81, 0, 0x60, 7]
const A4 = [10, 0, 0, 1]
const B6 = [0xfd, 0, ...new Array(13).fill(0), 2]
const SOLICITED = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2]

const piece = (type: number, bytes: readonly number[] | Uint8Array): Piece => ({
  type,
  bytes: Uint8Array.from(bytes),
  transport: 0,
})

/** With all checksums made. */
function finished({ bytes }: Piece): Uint8Array {
  const frame = Uint8Array.from(bytes)
  const view = new DataView(frame.buffer)
  const headers = new Headers()
  headers.read(view, frame, 0, frame.length)
  completeChecksums(view, headers)
  return frame
}

/** The packet within an error is right, too. */
const within = (inner: Piece) => finished(ethernet(inner)).subarray(14)

function solicitation(): Uint8Array {
  const body = [135, 0, 0, 0, 0, 0, 0, 0, ...B6, 1, 1, 2, 0, 0, 0, 0, 1]
  const frame = ethernet(ip6(piece(58, body))).bytes
  frame.set(SOLICITED, 38)
  frame.set([0x33, 0x33, 0xff, 0, 0, 2], 0)
  frame[21] = 255
  return finished(piece(0, frame))
}

/** The second half of a datagram: no header of UDP. */
function laterFragment(): Uint8Array {
  const frame = ethernet(ip4(piece(17, new Uint8Array(40).fill(9)))).bytes
  frame.set([0, 100], 20)
  return finished(piece(0, frame))
}

/** Of IPv4: may be fragmented. */
export function fragmentable(frame: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(frame)
  bytes[20] = 0
  return finished(piece(0, bytes))
}

/** From 10.0.0.1 (fd00::1) at 02:00:00:00:00:01 to 10.0.0.2 (fd00::2) at 02:00:00:00:00:02. */
export function packets(payload: Uint8Array): Record<string, Uint8Array> {
  const text = [...payload]
  const unchecked = ethernet(ip4(udp(4, payload))).bytes
  unchecked.set([0, 0], 40)
  return {
    TCP: finished(ethernet(ip4(tcp(4, payload)))),
    'TCP in a VLAN': finished(ethernet(ip4(tcp(4, payload), [1, 1, 1, 0]), VLAN_7)),
    'TCP over IPv6': finished(ethernet(ip6(tcp(6, payload), true))),
    UDP: finished(ethernet(ip4(udp(4, payload)))),
    'UDP without a checksum': finished(piece(0, unchecked)),
    'UDP over IPv6, in two VLANs': finished(ethernet(ip6(udp(6, payload)), [0x88, 0xa8, 0, 9, ...VLAN_7])),
    'a later fragment': laterFragment(),
    echo: finished(ethernet(ip4(piece(1, [8, 0, 0, 0, 0, 1, 0, 1, ...text])))),
    unreachable: finished(ethernet(ip4(piece(1, [3, 3, 0, 0, 0, 0, 0, 0, ...within(ip4(udp(4, payload)))])))),
    'echo over IPv6': finished(ethernet(ip6(piece(58, [128, 0, 0, 0, 0, 1, 0, 1, ...text])))),
    'too big': finished(ethernet(ip6(piece(58, [2, 0, 0, 0, 0, 0, 5, 0, ...within(ip6(tcp(6, payload)))])))),
    'neighbour solicitation': solicitation(),
    ARP: ethernet(piece(0x0806, [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, ...A4, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2]))
      .bytes,
  }
}
