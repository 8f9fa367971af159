// Reads a trace, pcapng or classic pcap, packet by packet, from bytes that come in pieces. Memory stays bounded by the
// longest block (16 MiB), whatever the file's size, and nothing is made per packet.
//
//   const cursor = new TraceCursor()
//   for (const chunk of chunks) {                  // of any size
//     cursor.push(chunk)
//     for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
//       if (kind === 'packet') use(cursor.packet)  // the same record each time: good until the next `next` or `push`
//       else use(cursor.block)                     // a section, an interface, statistics, or another block
//     }
//   }
//   cursor.end()                                   // throws when the file ends inside a block
//
// source.ts does this for a path or a pipe, compressed or not. Damage throws TRACE_INVALID with the place, once what
// comes before it has been given out; a file of another kind or link type throws TRACE_UNSUPPORTED.

import { formatOf, MAGIC_LENGTH } from './formats.js'
import { damaged, Input, unsupported } from './input.js'
import { linkTypeName } from './link-types.js'
import { PacketView, type TracePacket } from './packet.js'
import { PcapParser } from './pcap-parser.js'
import { type Block, LINKTYPE_ETHERNET } from './pcapng.js'
import { PcapngParser } from './pcapng-parser.js'

export interface CursorOptions {
  /** Packets of other link types than Ethernet are given out, too. */
  readonly anyLinkType?: boolean
}

export class TraceCursor {
  readonly #input = new Input()
  readonly #packet = new PacketView()
  readonly #anyLinkType: boolean
  #parser: PcapngParser | PcapParser | null = null

  constructor(options: CursorOptions = {}) {
    this.#anyLinkType = options.anyLinkType ?? false
  }

  /** The packet, after `next` said so. */
  get packet(): TracePacket {
    return this.#packet
  }

  /** What `next` found, where that was no packet. */
  get block(): Exclude<Block, { kind: 'packet' }> | null {
    return this.#parser?.block ?? null
  }

  /** null until the first bytes are there. */
  get format(): 'pcapng' | 'pcap' | null {
    return this.#parser === null ? null : this.#parser instanceof PcapngParser ? 'pcapng' : 'pcap'
  }

  /** Up to where the file has been read. */
  get offset(): number {
    return this.#input.base + this.#input.start
  }

  /** `chunk` is kept, not copied, until all of it is read: nobody may write into it again. */
  push(chunk: Uint8Array): void {
    this.#input.push(chunk)
  }

  /**
   * null: what is there has been read.
   * @throws SnapswitchError TRACE_INVALID, TRACE_UNSUPPORTED
   */
  next(): Block['kind'] | null {
    const parser = this.#parser
    if (parser === null) return this.#begin()
    const kind = parser.next()
    if (kind === 'packet' && this.#packet.interface.linkType !== LINKTYPE_ETHERNET && !this.#anyLinkType) {
      throw otherLinkType(this.#packet.interface.linkType, this.#packet.offset)
    }
    return kind
  }

  /**
   * No more bytes come.
   * @throws SnapswitchError TRACE_INVALID when the file is empty or ends inside a block
   */
  end(): void {
    const { start, end, base } = this.#input
    if (this.#parser === null) throw damaged(0, end === 0 ? 'the file is empty' : 'the file is no capture')
    if (end > start || this.block === null) throw damaged(base + start, 'the file ends inside a block')
  }

  #begin(): Block['kind'] | null {
    const { bytes, start, end } = this.#input
    if (end - start < MAGIC_LENGTH) return null
    const format = formatOf(bytes.subarray(start, end))
    if (format.kind === 'unknown') throw damaged(0, 'the file is neither pcapng nor pcap')
    if (format.kind === 'foreign') {
      throw unsupported(`the file is ${format.name}, which is not read`, 'Convert it to pcapng, or unpack it, first.')
    }
    this.#parser =
      format.kind === 'pcapng'
        ? new PcapngParser(this.#input, this.#packet)
        : new PcapParser(this.#input, this.#packet, format.littleEndian, format.magic)
    return this.next()
  }
}

function otherLinkType(linkType: number, offset: number) {
  return unsupported(
    `the packet at byte ${offset} is of link type ${linkTypeName(linkType)}; only Ethernet is read`,
    'Use a capture that was made on an Ethernet interface (not on “any”, a tunnel or a radio).',
  )
}
