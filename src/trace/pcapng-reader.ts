// Reads pcapng (draft-ietf-opsawg-pcapng) of any origin: both byte orders, any time resolution, unknown blocks skipped.
// Bytes from outside are trusted in nothing: every length is checked before it is used, each step moves forward by at
// least one whole block, and the only thing thrown is TRACE_INVALID with the offset.

import { SnapswitchError } from '../errors/errors.js'
import {
  BLOCK,
  type Block,
  BYTE_ORDER_MAGIC,
  type Direction,
  type InterfaceBlock,
  OPTION,
  type PacketBlock,
  paddingOf,
  type SectionBlock,
} from './pcapng.js'

/** Type, length, and length again. */
const FRAMING = 12
const SECTION_BODY = 16
const INTERFACE_BODY = 8
const PACKET_BODY = 20
const NANOSECONDS_PER_SECOND = 1_000_000_000n
const DIRECTIONS: readonly Direction[] = ['unknown', 'inbound', 'outbound', 'unknown']

/** How an interface counts time. */
interface Timebase {
  readonly ticksPerSecond: bigint
  readonly offsetSeconds: bigint
}

interface Option {
  readonly code: number
  readonly start: number
  readonly length: number
}

interface KnownInterface {
  readonly block: InterfaceBlock
  readonly timebase: Timebase
}

/**
 * The blocks of a trace, in file order, lazily. Packet bytes and the contents of other blocks are views into `bytes`.
 * @throws SnapswitchError TRACE_INVALID at the first block that is damaged; blocks before it have been yielded.
 */
export function* readPcapng(bytes: Uint8Array): Generator<Block, void, undefined> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let littleEndian = true
  let interfaces: KnownInterface[] = []
  let offset = 0
  if (bytes.length === 0) throw damaged(0, 'the file is empty')
  while (offset < bytes.length) {
    if (bytes.length - offset < FRAMING) throw damaged(offset, 'the file ends inside a block')
    const isSection = view.getUint32(offset, true) === BLOCK.section
    if (isSection) {
      littleEndian = byteOrderAt(view, offset)
      interfaces = []
    } else if (offset === 0) {
      throw damaged(0, 'the file does not start with a section header block')
    }
    const end = blockEnd(view, offset, littleEndian)
    const type = view.getUint32(offset, littleEndian)
    const block = { bytes, view, littleEndian, offset, body: offset + 8, bodyEnd: end - 4 }
    if (isSection) {
      yield readSection(block)
    } else if (type === BLOCK.interface) {
      const known = readInterface(block, interfaces.length)
      interfaces.push(known)
      yield known.block
    } else if (type === BLOCK.enhancedPacket) {
      yield readPacket(block, interfaces)
    } else if (type === BLOCK.simplePacket) {
      yield readSimplePacket(block, interfaces)
    } else {
      yield { kind: 'other', offset, type, content: bytes.subarray(block.body, block.bodyEnd) }
    }
    offset = end
  }
}

/** One block whose framing has been checked: `body` up to `bodyEnd` lies inside the file. */
interface Framed {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly littleEndian: boolean
  readonly offset: number
  readonly body: number
  readonly bodyEnd: number
}

function byteOrderAt(view: DataView, offset: number): boolean {
  if (view.getUint32(offset + 8, true) === BYTE_ORDER_MAGIC) return true
  if (view.getUint32(offset + 8, false) === BYTE_ORDER_MAGIC) return false
  throw damaged(offset, 'a section header block has no byte-order magic')
}

function blockEnd(view: DataView, offset: number, littleEndian: boolean): number {
  const length = view.getUint32(offset + 4, littleEndian)
  if (length < FRAMING || length % 4 !== 0) throw damaged(offset, `a block claims a length of ${length} bytes`)
  if (length > view.byteLength - offset) throw damaged(offset, 'the file ends inside a block')
  const again = view.getUint32(offset + length - 4, littleEndian)
  if (again !== length) throw damaged(offset, `a block's two lengths differ: ${length} and ${again}`)
  return offset + length
}

function readSection(block: Framed): SectionBlock {
  need(block, SECTION_BODY)
  const major = block.view.getUint16(block.body + 4, block.littleEndian)
  if (major !== 1) throw damaged(block.offset, `the section has format version ${major}, known is 1`)
  let application: string | null = null
  const comments: string[] = []
  for (const option of options(block, block.body + SECTION_BODY)) {
    if (option.code === OPTION.comment) comments.push(text(block, option))
    else if (option.code === OPTION.sectionApplication) application = text(block, option)
  }
  return { kind: 'section', offset: block.offset, littleEndian: block.littleEndian, application, comments }
}

function readInterface(block: Framed, id: number): KnownInterface {
  need(block, INTERFACE_BODY)
  let name: string | null = null
  let description: string | null = null
  // Microseconds unless the interface says otherwise.
  let ticksPerSecond = 1_000_000n
  let offsetSeconds = 0n
  const comments: string[] = []
  for (const option of options(block, block.body + INTERFACE_BODY)) {
    if (option.code === OPTION.comment) comments.push(text(block, option))
    else if (option.code === OPTION.interfaceName) name = text(block, option)
    else if (option.code === OPTION.interfaceDescription) description = text(block, option)
    else if (option.code === OPTION.interfaceTimeResolution) {
      wantLength(block, option, 1)
      const resolution = block.view.getUint8(option.start)
      const exponent = BigInt(resolution & 0x7f)
      ticksPerSecond = resolution & 0x80 ? 1n << exponent : 10n ** exponent
    } else if (option.code === OPTION.interfaceTimeOffset) {
      wantLength(block, option, 8)
      offsetSeconds = block.view.getBigInt64(option.start, block.littleEndian)
    }
  }
  return {
    block: {
      kind: 'interface',
      offset: block.offset,
      id,
      linkType: block.view.getUint16(block.body, block.littleEndian),
      snapLength: block.view.getUint32(block.body + 4, block.littleEndian),
      name,
      description,
      comments,
    },
    timebase: { ticksPerSecond, offsetSeconds },
  }
}

function readPacket(block: Framed, interfaces: readonly KnownInterface[]): PacketBlock {
  need(block, PACKET_BODY)
  const { view, body, littleEndian } = block
  const known = interfaceOf(block, interfaces, view.getUint32(body, littleEndian))
  const high = BigInt(view.getUint32(body + 4, littleEndian))
  const low = BigInt(view.getUint32(body + 8, littleEndian))
  const captured = view.getUint32(body + 12, littleEndian)
  const start = body + PACKET_BODY
  if (captured > block.bodyEnd - start) {
    throw damaged(block.offset, `a packet claims ${captured} bytes, its block has ${block.bodyEnd - start}`)
  }
  let direction: Direction = 'unknown'
  let packetId: bigint | null = null
  const comments: string[] = []
  for (const option of options(block, start + captured + paddingOf(captured))) {
    if (option.code === OPTION.comment) comments.push(text(block, option))
    else if (option.code === OPTION.packetFlags) {
      wantLength(block, option, 4)
      direction = DIRECTIONS[view.getUint32(option.start, littleEndian) & 3]
    } else if (option.code === OPTION.packetId) {
      wantLength(block, option, 8)
      packetId = view.getBigUint64(option.start, littleEndian)
    }
  }
  const { ticksPerSecond, offsetSeconds } = known.timebase
  const ticks = (high << 32n) | low
  return {
    kind: 'packet',
    offset: block.offset,
    interface: known.block,
    timeNs: offsetSeconds * NANOSECONDS_PER_SECOND + (ticks * NANOSECONDS_PER_SECOND) / ticksPerSecond,
    direction,
    originalLength: view.getUint32(body + 16, littleEndian),
    bytes: block.bytes.subarray(start, start + captured),
    packetId,
    comments,
  }
}

/** No time, no options, always of the first interface; cut at that interface's snap length. */
function readSimplePacket(block: Framed, interfaces: readonly KnownInterface[]): PacketBlock {
  need(block, 4)
  const known = interfaceOf(block, interfaces, 0)
  const originalLength = block.view.getUint32(block.body, block.littleEndian)
  const snapLength = known.block.snapLength === 0 ? originalLength : known.block.snapLength
  const captured = Math.min(originalLength, snapLength)
  const start = block.body + 4
  if (captured > block.bodyEnd - start) {
    throw damaged(block.offset, `a packet claims ${captured} bytes, its block has ${block.bodyEnd - start}`)
  }
  return {
    kind: 'packet',
    offset: block.offset,
    interface: known.block,
    timeNs: null,
    direction: 'unknown',
    originalLength,
    bytes: block.bytes.subarray(start, start + captured),
    packetId: null,
    comments: [],
  }
}

function* options(block: Framed, start: number): Generator<Option, void, undefined> {
  let at = start
  // Options may be left out altogether, and the end mark with them.
  while (at < block.bodyEnd) {
    if (block.bodyEnd - at < 4) throw damaged(at, 'an option is cut short')
    const code = block.view.getUint16(at, block.littleEndian)
    const length = block.view.getUint16(at + 2, block.littleEndian)
    if (code === OPTION.end) return
    const next = at + 4 + length + paddingOf(length)
    if (next > block.bodyEnd) throw damaged(at, `option ${code} claims ${length} bytes, more than its block has`)
    yield { code, start: at + 4, length }
    at = next
  }
}

function interfaceOf(block: Framed, interfaces: readonly KnownInterface[], id: number): KnownInterface {
  const known = interfaces[id]
  if (known === undefined) throw damaged(block.offset, `a packet names interface ${id}, which is not declared`)
  return known
}

function need(block: Framed, length: number): void {
  if (block.bodyEnd - block.body < length) throw damaged(block.offset, 'a block is shorter than its type allows')
}

function wantLength(block: Framed, option: Option, length: number): void {
  if (option.length !== length) {
    throw damaged(block.offset, `option ${option.code} has ${option.length} bytes, it must have ${length}`)
  }
}

function text(block: Framed, option: Option): string {
  try {
    // ignoreBOM keeps a leading U+FEFF, so that a text comes back exactly as it was written.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
      block.bytes.subarray(option.start, option.start + option.length),
    )
  } catch (cause) {
    throw damaged(option.start, `option ${option.code} is no UTF-8`, cause)
  }
}

function damaged(offset: number, what: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `${what} (at byte ${offset})`,
    'Check that the file is a pcapng trace and was copied whole.',
    cause,
  )
}
