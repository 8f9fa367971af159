// Parses classic pcap (draft-ietf-opsawg-pcap): micro- and nanoseconds, both byte orders. Its relatives, which use the
// same header and other records, are refused by name: by their magic numbers (formats.ts), or by what their records
// look like (pcap-variants.ts).

import { damaged, type Input, unsupported } from './input.js'
import type { PacketView } from './packet.js'
import { variantOf } from './pcap-variants.js'
import { type InterfaceBlock, PACKET_LIMIT } from './pcapng.js'

export const PCAP_MAGIC = { microseconds: 0xa1b2c3d4, nanoseconds: 0xa1b23c4d } as const

const FILE_HEADER = 24
const RECORD_HEADER = 16

export class PcapParser {
  /** The file's one interface, once `next` has found it. */
  block: InterfaceBlock | null = null
  readonly #input: Input
  readonly #packet: PacketView
  readonly #littleEndian: boolean
  readonly #nanosecondsPerTick: number
  #swapped: 'never' | 'always' | 'maybe' = 'never'

  constructor(input: Input, packet: PacketView, littleEndian: boolean, magic: number) {
    this.#input = input
    this.#packet = packet
    this.#littleEndian = littleEndian
    this.#nanosecondsPerTick = magic === PCAP_MAGIC.nanoseconds ? 1 : 1000
    packet.littleEndian = littleEndian
    packet.isTimed = true
    packet.flags = 0
    packet.dropCount = -1
    packet.packetIdAt = -1
    packet.optionsStart = 0
    packet.optionsEnd = 0
  }

  next(): 'interface' | 'packet' | null {
    const input = this.#input
    const available = input.end - input.start
    if (this.block === null) return available < FILE_HEADER ? null : this.#header()
    if (available < RECORD_HEADER) return null
    const { view, start } = input
    const little = this.#littleEndian
    let captured = view.getUint32(start + 8, little)
    let original = view.getUint32(start + 12, little)
    if (this.#swapped === 'always' || (this.#swapped === 'maybe' && captured > original)) {
      const first = captured
      captured = original
      original = first
    }
    if (captured > PACKET_LIMIT) throw damaged(input.base + start, `a packet claims ${captured} bytes`)
    if (available < RECORD_HEADER + captured) return null
    const packet = this.#packet
    packet.buffer = input.bytes
    packet.view = view
    packet.start = start + RECORD_HEADER
    packet.length = captured
    packet.originalLength = original
    packet.interface = this.block
    packet.offset = input.base + start
    let seconds = view.getUint32(start, little)
    let nanoseconds = view.getUint32(start + 4, little) * this.#nanosecondsPerTick
    // Some write a whole second, or more, into the fraction.
    if (nanoseconds >= 1e9) {
      seconds += Math.floor(nanoseconds / 1e9)
      nanoseconds %= 1e9
    }
    packet.seconds = seconds
    packet.nanoseconds = nanoseconds
    input.start = start + RECORD_HEADER + captured
    return 'packet'
  }

  #header(): 'interface' {
    const { view, start } = this.#input
    const little = this.#littleEndian
    const major = view.getUint16(start + 4, little)
    const minor = view.getUint16(start + 6, little)
    if (major !== 2) {
      throw unsupported(`the file is pcap of version ${major}.${minor}; 2.4 is read`, 'Convert it with editcap.')
    }
    // Before 2.3 the two lengths stood the other way round; 2.3 was written both ways (libpcap, sf-pcap.c).
    this.#swapped = minor < 3 ? 'always' : minor === 3 ? 'maybe' : 'never'
    const variant = minor < 4 ? null : variantOf(view, start + FILE_HEADER, this.#input.end, little)
    if (variant !== null) throw unsupported(`the file is ${variant}, which is not read`, 'Convert it with editcap.')
    const linkType = view.getUint32(start + 20, little)
    this.block = {
      kind: 'interface',
      offset: 0,
      id: 0,
      linkType: linkType & 0xffff,
      snapLength: view.getUint32(start + 16, little),
      name: null,
      description: null,
      // Bit 26: the length is given; bits 28 to 31: in units of 16 bits.
      fcsLength: linkType & 0x04000000 ? (linkType >>> 28) * 2 : 0,
      comments: [],
      options: [],
    }
    this.#input.start += FILE_HEADER
    return 'interface'
  }
}
