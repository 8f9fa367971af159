// What a file is by its first bytes: one of the two formats that are read, or another one, by name.

import { PCAP_MAGIC } from './pcap-parser.js'
import { BLOCK } from './pcapng.js'

export type Format =
  | { readonly kind: 'pcapng' }
  | { readonly kind: 'pcap'; readonly littleEndian: boolean; readonly magic: number }
  | { readonly kind: 'foreign'; readonly name: string }
  | { readonly kind: 'unknown' }

/** Bytes that `formatOf` looks at. */
export const MAGIC_LENGTH = 4

/** Relatives of pcap, by magic number in either byte order (libpcap sf-pcap.c, Wireshark wiretap/libpcap.h). */
const RELATIVES = new Map([
  [0xa1b2cd34, 'modified pcap (Kuznetzov)'],
  [0xa1b2cd36, 'modified pcap (Kuznetzov)'],
  [0x1c0001ac, 'IXIA lcap (hardware)'],
  [0x1c0001ab, 'IXIA lcap (software)'],
  [0xa12b3c4d, 'pcap of Navtel'],
])

/** Other formats, by their first bytes. */
const OTHERS: readonly (readonly [bytes: string, name: string])[] = [
  ['736e6f6f', 'snoop'],
  ['54525342', 'a Sniffer trace'],
  ['54525346', 'a Sniffer trace'],
  ['54525349', 'a Sniffer trace'],
  ['54524e4f', 'a Sniffer trace'],
  ['5452534e', 'a Sniffer trace'],
  ['474d4255', 'a Network Monitor trace'],
  ['52545353', 'a Network Monitor 1 trace'],
  ['58435000', 'a NetXRay trace'],
  ['fd377a58', 'compressed with xz'],
  ['425a68', 'compressed with bzip2'],
  ['04224d18', 'compressed with lz4'],
  ['504b0304', 'a zip archive'],
  ['1f8b', 'compressed with gzip twice'],
  ['28b52ffd', 'compressed with zstd twice'],
]

/** `bytes`: at least `MAGIC_LENGTH` of them. */
export function formatOf(bytes: Uint8Array): Format {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) === BLOCK.section) return { kind: 'pcapng' }
  for (const littleEndian of [true, false]) {
    const magic = view.getUint32(0, littleEndian)
    if (magic === PCAP_MAGIC.microseconds || magic === PCAP_MAGIC.nanoseconds) {
      return { kind: 'pcap', littleEndian, magic }
    }
    const relative = RELATIVES.get(magic)
    if (relative !== undefined) return { kind: 'foreign', name: relative }
  }
  const first = Buffer.from(bytes.subarray(0, MAGIC_LENGTH)).toString('hex')
  const other = OTHERS.find(([start]) => first.startsWith(start))
  return other === undefined ? { kind: 'unknown' } : { kind: 'foreign', name: other[1] }
}
