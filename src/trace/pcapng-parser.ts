// Parses the blocks of pcapng (draft-ietf-opsawg-pcapng) of any origin: several sections, both byte orders, any time
// resolution, unknown blocks shown as they are. Bytes from outside are trusted in nothing: every length is checked
// before it is used, each step moves forward by at least one whole block, and what is thrown names the place.

import { damaged, type Input, unsupported } from './input.js'
import { commentsOf, optionsBetween, type PacketView, textOf } from './packet.js'
import {
  BLOCK,
  BLOCK_LIMIT,
  type Block,
  BYTE_ORDER_MAGIC,
  type InterfaceBlock,
  OPTION,
  PACKET_LIMIT,
  paddingOf,
  type TraceOption,
} from './pcapng.js'
import { Ticks } from './ticks.js'

/** Type, length, and length again. */
const FRAMING = 12
const SECTION_BODY = 16
const INTERFACE_BODY = 8
const STATISTICS_BODY = 12
const PACKET_BODY = 20
const DROPS_UNKNOWN = 0xffff
/** Above it, seconds are no whole numbers any more. */
const OFFSET_LIMIT = 2 ** 52
/** Interfaces that a section may declare: each takes memory for as long as the section is read. */
const INTERFACE_LIMIT = 65_536

interface KnownInterface {
  readonly block: InterfaceBlock
  readonly ticks: Ticks
}

export class PcapngParser {
  /** The block that `next` has found, where that is no packet. */
  block: Exclude<Block, { kind: 'packet' }> | null = null
  readonly #input: Input
  readonly #packet: PacketView
  #littleEndian = true
  #interfaces: KnownInterface[] = []
  // Of the block that is parsed, within the input's bytes.
  #body = 0
  #bodyEnd = 0
  #offset = 0

  constructor(input: Input, packet: PacketView) {
    this.#input = input
    this.#packet = packet
  }

  /** What comes next; null: not all of it is there yet. */
  next(): Block['kind'] | null {
    const input = this.#input
    const available = input.end - input.start
    if (available < FRAMING) return null
    const at = input.start
    this.#offset = input.base + at
    if (input.view.getUint32(at, true) === BLOCK.section) this.#readByteOrder(at)
    const littleEndian = this.#littleEndian
    const total = input.view.getUint32(at + 4, littleEndian)
    if (total < FRAMING || total % 4 !== 0 || total > BLOCK_LIMIT) {
      throw damaged(this.#offset, `a block claims a length of ${total} bytes`)
    }
    if (total > available) return null
    const again = input.view.getUint32(at + total - 4, littleEndian)
    if (again !== total) throw damaged(this.#offset, `a block's two lengths differ: ${total} and ${again}`)
    this.#body = at + 8
    this.#bodyEnd = at + total - 4
    const kind = this.#parse(input.view.getUint32(at, littleEndian))
    input.start = at + total
    return kind
  }

  #parse(type: number): Block['kind'] {
    switch (type) {
      case BLOCK.enhancedPacket:
        return this.#enhancedPacket()
      case BLOCK.simplePacket:
        return this.#simplePacket()
      case BLOCK.obsoletePacket:
        return this.#obsoletePacket()
      case BLOCK.section:
        return this.#section()
      case BLOCK.interface:
        return this.#interface()
      case BLOCK.interfaceStatistics:
        return this.#statistics()
      default: {
        const content = this.#input.bytes.subarray(this.#body, this.#bodyEnd)
        this.block = { kind: 'other', offset: this.#offset, type, content }
        return 'other'
      }
    }
  }

  #readByteOrder(at: number): void {
    const { view } = this.#input
    if (view.getUint32(at + 8, true) === BYTE_ORDER_MAGIC) this.#littleEndian = true
    else if (view.getUint32(at + 8, false) === BYTE_ORDER_MAGIC) this.#littleEndian = false
    else throw damaged(this.#offset, 'a section header block has no byte-order magic')
  }

  #section(): 'section' {
    this.#need(SECTION_BODY)
    this.#interfaces = []
    const major = this.#u16(4)
    const minor = this.#u16(6)
    // 1.2 is written by some and is the same as 1.0 (draft-ietf-opsawg-pcapng, section header block).
    if (major !== 1 || (minor !== 0 && minor !== 2)) {
      throw unsupported(
        `the section at byte ${this.#offset} has format version ${major}.${minor}; 1.0 is read`,
        'Convert the file with Wireshark’s editcap.',
      )
    }
    const options = this.#options(SECTION_BODY)
    const application = textOf(options, OPTION.sectionApplication)
    const comments = commentsOf(options)
    const littleEndian = this.#littleEndian
    this.block = { kind: 'section', offset: this.#offset, littleEndian, application, comments, options }
    return 'section'
  }

  #interface(): 'interface' {
    this.#need(INTERFACE_BODY)
    if (this.#interfaces.length === INTERFACE_LIMIT) {
      throw damaged(this.#offset, `a section declares more than ${INTERFACE_LIMIT} interfaces`)
    }
    const options = this.#options(INTERFACE_BODY)
    const block: InterfaceBlock = {
      kind: 'interface',
      offset: this.#offset,
      id: this.#interfaces.length,
      linkType: this.#u16(0),
      snapLength: this.#u32(4),
      name: textOf(options, OPTION.interfaceName),
      description: textOf(options, OPTION.interfaceDescription),
      fcsLength: this.#valueOf(options, OPTION.interfaceFcsLength, 1)?.getUint8(0) ?? 0,
      comments: commentsOf(options),
      options,
    }
    // Microseconds unless the interface says otherwise.
    const resolution = this.#valueOf(options, OPTION.interfaceTimeResolution, 1)?.getUint8(0) ?? 6
    const start = this.#valueOf(options, OPTION.interfaceTimeOffset, 8)?.getBigInt64(0, this.#littleEndian) ?? 0n
    const offsetSeconds = Number(start)
    if (Math.abs(offsetSeconds) > OFFSET_LIMIT) throw damaged(this.#offset, `an interface's clock starts at ${start} s`)
    this.#interfaces.push({ block, ticks: new Ticks(resolution, offsetSeconds) })
    this.block = block
    return 'interface'
  }

  #statistics(): 'statistics' {
    this.#need(STATISTICS_BODY)
    const options = this.#options(STATISTICS_BODY)
    this.block = {
      kind: 'statistics',
      offset: this.#offset,
      interface: this.#interfaceOf(this.#u32(0)).block,
      received: this.#countOf(options, OPTION.statisticsReceived),
      dropped: this.#countOf(options, OPTION.statisticsDropped),
      comments: commentsOf(options),
      options,
    }
    return 'statistics'
  }

  #enhancedPacket(): 'packet' {
    this.#need(PACKET_BODY)
    const known = this.#interfaceOf(this.#u32(0))
    this.#packetOf(known, PACKET_BODY, this.#u32(12), this.#u32(16))
    known.ticks.tell(this.#packet, this.#u32(4), this.#u32(8))
    return 'packet'
  }

  /** As the enhanced one, with a shorter interface number and the count of drops beside it. */
  #obsoletePacket(): 'packet' {
    this.#need(PACKET_BODY)
    const known = this.#interfaceOf(this.#u16(0))
    this.#packetOf(known, PACKET_BODY, this.#u32(12), this.#u32(16))
    const drops = this.#u16(2)
    if (drops !== DROPS_UNKNOWN) this.#packet.dropCount = drops
    known.ticks.tell(this.#packet, this.#u32(4), this.#u32(8))
    return 'packet'
  }

  /** No time, no options, always of the first interface; cut at that interface's snap length. */
  #simplePacket(): 'packet' {
    this.#need(4)
    const known = this.#interfaceOf(0)
    const originalLength = this.#u32(0)
    const { snapLength } = known.block
    const captured = snapLength === 0 ? originalLength : Math.min(originalLength, snapLength)
    this.#packetOf(known, 4, captured, originalLength)
    const packet = this.#packet
    packet.optionsStart = packet.optionsEnd
    packet.isTimed = false
    packet.seconds = 0
    packet.nanoseconds = 0
    return 'packet'
  }

  /** All of a packet but its time. `bodyLength`: bytes of the block's body before the frame. */
  #packetOf(known: KnownInterface, bodyLength: number, captured: number, originalLength: number): void {
    const packet = this.#packet
    const start = this.#body + bodyLength
    if (captured > this.#bodyEnd - start) {
      const room = this.#bodyEnd - start
      throw damaged(this.#offset, `a packet claims ${captured} bytes, its block has ${room}`)
    }
    if (captured > PACKET_LIMIT) throw damaged(this.#offset, `a packet claims ${captured} bytes`)
    packet.buffer = this.#input.bytes
    packet.view = this.#input.view
    packet.littleEndian = this.#littleEndian
    packet.start = start
    packet.length = captured
    packet.originalLength = originalLength
    packet.interface = known.block
    packet.flags = 0
    packet.dropCount = -1
    packet.packetIdAt = -1
    packet.offset = this.#offset
    packet.optionsStart = start + captured + paddingOf(captured)
    packet.optionsEnd = this.#bodyEnd
    if (bodyLength === PACKET_BODY && packet.optionsStart < packet.optionsEnd) this.#packetOptions()
  }

  /** The options that are numbers are read at once; that the others have lengths that fit is checked. */
  #packetOptions(): void {
    const packet = this.#packet
    const { view } = this.#input
    const littleEndian = this.#littleEndian
    let at = packet.optionsStart
    while (at < packet.optionsEnd) {
      const next = this.#optionEnd(at)
      const code = view.getUint16(at, littleEndian)
      if (code === OPTION.end) break
      const length = view.getUint16(at + 2, littleEndian)
      if (code === OPTION.packetFlags) {
        this.#wantLength(at, code, length, 4)
        packet.flags = view.getUint32(at + 4, littleEndian)
      } else if (code === OPTION.packetDropCount) {
        this.#wantLength(at, code, length, 8)
        packet.dropCount = Number(view.getBigUint64(at + 4, littleEndian))
      } else if (code === OPTION.packetId) {
        this.#wantLength(at, code, length, 8)
        packet.packetIdAt = at + 4
      }
      at = next
    }
    packet.optionsEnd = at
  }

  #options(bodyLength: number): TraceOption[] {
    const start = this.#body + bodyLength
    let at = start
    // Options may be left out altogether, and the end mark with them.
    while (at < this.#bodyEnd) {
      const next = this.#optionEnd(at)
      if (this.#input.view.getUint16(at, this.#littleEndian) === OPTION.end) break
      at = next
    }
    // Copied, since sections and interfaces stay when the input's bytes go.
    const bytes = this.#input.bytes.slice(start, at)
    return optionsBetween(bytes, new DataView(bytes.buffer), this.#littleEndian, 0, bytes.length)
  }

  /** Where the option at `at` ends, its padding included; its length is checked. */
  #optionEnd(at: number): number {
    const { view, base } = this.#input
    if (this.#bodyEnd - at < 4) throw damaged(base + at, 'an option is cut short')
    const code = view.getUint16(at, this.#littleEndian)
    if (code === OPTION.end) return at + 4
    const length = view.getUint16(at + 2, this.#littleEndian)
    const end = at + 4 + length + paddingOf(length)
    if (end > this.#bodyEnd) throw damaged(base + at, `option ${code} claims ${length} bytes, more than its block has`)
    return end
  }

  #valueOf(options: readonly TraceOption[], code: number, length: number): DataView | null {
    const option = options.findLast((one) => one.code === code)
    if (option === undefined) return null
    const { value } = option
    this.#wantLength(this.#body, code, value.length, length)
    return new DataView(value.buffer, value.byteOffset, value.byteLength)
  }

  #countOf(options: readonly TraceOption[], code: number): bigint | null {
    return this.#valueOf(options, code, 8)?.getBigUint64(0, this.#littleEndian) ?? null
  }

  #interfaceOf(id: number): KnownInterface {
    const known = this.#interfaces[id]
    if (known === undefined) throw damaged(this.#offset, `a block names interface ${id}, which is not declared`)
    return known
  }

  #need(length: number): void {
    if (this.#bodyEnd - this.#body < length) throw damaged(this.#offset, 'a block is shorter than its type allows')
  }

  #wantLength(at: number, code: number, length: number, wanted: number): void {
    if (length !== wanted) {
      throw damaged(this.#input.base + at, `option ${code} has ${length} bytes, it must have ${wanted}`)
    }
  }

  #u16(at: number): number {
    return this.#input.view.getUint16(this.#body + at, this.#littleEndian)
  }

  #u32(at: number): number {
    return this.#input.view.getUint32(this.#body + at, this.#littleEndian)
  }
}
