// Writes pcapng (draft-ietf-opsawg-pcapng) into memory: little endian, nanosecond times, one interface per port. Pure:
// no I/O and no clock. The caller takes the bytes whenever it likes, so the same writer serves a file and a live
// stream.
//
//   const writer = new PcapngWriter({ comment: 'what this is' })
//   const id = writer.interface({ name: 'vm1' })
//   writer.frame(id, seconds, nanoseconds, buffer, start, length, originalLength, FLAG.inbound)   // fast: no objects
//   writer.packet(id, timeNs, bytes, { direction: 'inbound', comment: '…', dropCount: 3 })        // all options
//   if (writer.pending > 65536) file.write(writer.take())

import { SnapswitchError } from '../errors/errors.js'
import {
  BLOCK,
  BYTE_ORDER_MAGIC,
  type Direction,
  LINKTYPE_ETHERNET,
  OPTION,
  PACKET_LIMIT,
  paddingOf,
} from './pcapng.js'

/** An option's length field is a u16. */
const OPTION_LIMIT = 0xffff
const LOCAL_LIMIT = 8 * 1024 * 1024
const TIME_LIMIT = 1n << 64n
/** Seconds whose nanoseconds fit 64 bits. */
const SECONDS_LIMIT = 18_446_744_073
const U32 = 0x1_0000_0000
const NANOSECONDS = new Uint8Array([9])
const LEAST_BUFFER = 16 * 1024
const GREATEST_BUFFER = 1024 * 1024

/** Bits of epb_flags that are written here. */
export const FLAG = { inbound: 1, outbound: 2 } as const
const DIRECTION_FLAGS = { unknown: 0, ...FLAG } as const satisfies Record<Direction, number>

const encoder = new TextEncoder()

/** An option as it is to stand in the file. */
export interface WrittenOption {
  readonly code: number
  readonly value: Uint8Array
  /** Of a custom option: whose it is. */
  readonly enterprise?: number
}

export interface SectionOptions {
  readonly application?: string
  readonly comment?: string
  readonly hardware?: string
  readonly system?: string
  readonly options?: readonly WrittenOption[]
}

export interface InterfaceOptions {
  readonly name: string
  readonly description?: string
  readonly comment?: string
  /** What was captured, in the words of the program that did. */
  readonly filter?: string
  /** Bytes kept of each packet; 0: all. */
  readonly snapLength?: number
  readonly options?: readonly WrittenOption[]
}

export interface PacketOptions {
  readonly direction?: Direction
  /** epb_flags as a whole; `direction` is put into it. */
  readonly flags?: number
  readonly comment?: string
  /** Length on the wire when `bytes` is cut short. */
  readonly originalLength?: number
  /** The same for the same packet at several interfaces (u64). */
  readonly packetId?: bigint
  /** Packets that were lost between the interface's packet before and this one. */
  readonly dropCount?: number
  readonly options?: readonly WrittenOption[]
}

export interface Statistics {
  readonly received?: number
  readonly dropped?: number
  readonly comment?: string
}

/** Misuse throws TRACE_INVALID and writes nothing: what was written before stays whole. */
export class PcapngWriter {
  #buffer: Uint8Array = new Uint8Array(LEAST_BUFFER)
  #view = new DataView(this.#buffer.buffer)
  #length = 0
  #interfaces = 0

  /** Starts with the section header block. */
  constructor(options: SectionOptions = {}) {
    const encoded = [
      ...texts([OPTION.comment, options.comment]),
      ...texts([OPTION.sectionHardware, options.hardware], [OPTION.sectionSystem, options.system]),
      ...texts([OPTION.sectionApplication, options.application ?? 'snapswitch']),
      ...checked(options.options),
    ]
    const start = this.#begin(BLOCK.section, 16 + sizeOf(encoded))
    this.#u32(BYTE_ORDER_MAGIC)
    this.#u16(1)
    this.#u16(0)
    // Section length unknown (-1): the file can be streamed and appended to.
    this.#u32(0xffffffff)
    this.#u32(0xffffffff)
    this.#finish(start, encoded)
  }

  /** Bytes written and not yet taken. */
  get pending(): number {
    return this.#length
  }

  /** Declares an Ethernet interface; returns the id that `packet` and `frame` want. */
  interface(options: InterfaceOptions): number {
    const encoded = [
      ...texts([OPTION.interfaceName, options.name], [OPTION.interfaceDescription, options.description]),
      ...texts([OPTION.comment, options.comment]),
      // A leading 0: the filter is a text.
      ...texts([OPTION.interfaceFilter, options.filter === undefined ? undefined : `\0${options.filter}`]),
      { code: OPTION.interfaceTimeResolution, value: NANOSECONDS },
      ...checked(options.options),
    ]
    const start = this.#begin(BLOCK.interface, 8 + sizeOf(encoded))
    this.#u16(LINKTYPE_ETHERNET)
    this.#u16(0)
    this.#u32(options.snapLength === 0 ? PACKET_LIMIT : (options.snapLength ?? PACKET_LIMIT))
    this.#finish(start, encoded)
    return this.#interfaces++
  }

  /** `timeNs`: nanoseconds since 1970-01-01 UTC. `bytes` is copied. */
  packet(interfaceId: number, timeNs: bigint, bytes: Uint8Array, options: PacketOptions = {}): void {
    const originalLength = options.originalLength ?? bytes.length
    this.#check(interfaceId, bytes.length, originalLength)
    if (timeNs < 0n || timeNs >= TIME_LIMIT) throw misuse(`time ${timeNs} does not fit 64 bits`)
    const flags = (options.flags ?? 0) | DIRECTION_FLAGS[options.direction ?? 'unknown']
    const encoded = [
      ...texts([OPTION.comment, options.comment]),
      ...(flags === 0 ? [] : [{ code: OPTION.packetFlags, value: u32Bytes(flags) }]),
      ...u64s([OPTION.packetDropCount, options.dropCount], [OPTION.packetId, options.packetId]),
      ...checked(options.options),
    ]
    const start = this.#begin(BLOCK.enhancedPacket, 20 + padded(bytes.length) + sizeOf(encoded))
    this.#u32(interfaceId)
    this.#u32(Number(timeNs >> 32n))
    this.#u32(Number(timeNs & 0xffffffffn))
    this.#u32(bytes.length)
    this.#u32(originalLength)
    this.#bytes(bytes)
    this.#finish(start, encoded)
  }

  /**
   * The fast way: `length` bytes of `buffer` from `start` on, with a time in parts (since 1970-01-01 UTC), epb_flags
   * (0: none) and perhaps a comment.
   */
  frame(
    interfaceId: number,
    seconds: number,
    nanoseconds: number,
    buffer: Uint8Array,
    start: number,
    length: number,
    originalLength: number,
    flags = 0,
    comment = '',
  ): void {
    this.#check(interfaceId, length, originalLength)
    if (!(seconds >= 0 && seconds < SECONDS_LIMIT && nanoseconds >= 0 && nanoseconds < 1e9)) {
      throw misuse(`time ${seconds}.${nanoseconds} does not fit 64 bits`)
    }
    if (comment.length > OPTION_LIMIT) throw misuse(`a text of ${comment.length} characters is above ${OPTION_LIMIT}`)
    const block = this.#begin(BLOCK.enhancedPacket, 20 + padded(length) + 24 + comment.length * 3)
    // seconds * 1e9 + nanoseconds in two halves: it fits no double.
    const upper = Math.floor(seconds / 65536) * 1e9
    const lower = (upper % 65536) * 65536 + (seconds % 65536) * 1e9 + nanoseconds
    this.#u32(interfaceId)
    this.#u32(Math.floor(upper / 65536) + Math.floor(lower / U32))
    this.#u32(lower % U32)
    this.#u32(length)
    this.#u32(originalLength)
    this.#bytes(start === 0 && length === buffer.length ? buffer : buffer.subarray(start, start + length))
    if (comment !== '') this.#comment(block, comment)
    if (flags !== 0) {
      this.#u16(OPTION.packetFlags)
      this.#u16(4)
      this.#u32(flags)
    }
    if (comment !== '' || flags !== 0) this.#u32(OPTION.end)
    this.#close(block)
  }

  /** What an interface has counted up to `timeNs`. */
  statistics(interfaceId: number, timeNs: bigint, counts: Statistics): void {
    this.#check(interfaceId, 0, 0)
    const encoded = [
      ...texts([OPTION.comment, counts.comment]),
      ...u64s([OPTION.statisticsReceived, counts.received], [OPTION.statisticsDropped, counts.dropped]),
    ]
    const start = this.#begin(BLOCK.interfaceStatistics, 12 + sizeOf(encoded))
    this.#u32(interfaceId)
    this.#u32(Number(timeNs >> 32n))
    this.#u32(Number(timeNs & 0xffffffffn))
    this.#finish(start, encoded)
  }

  /**
   * A block of our local type, which other readers skip; records.ts says what is in it. Padded with zeros to 32 bits.
   */
  local(content: Uint8Array): void {
    // The block length is a u32; readers refuse absurd ones long before that (Wireshark: 16 MiB).
    if (content.length > LOCAL_LIMIT) throw misuse(`a record of ${content.length} bytes is above ${LOCAL_LIMIT}`)
    const start = this.#begin(BLOCK.local, padded(content.length))
    this.#bytes(content)
    this.#finish(start, [])
  }

  /** The bytes since the last take, in whole blocks. They belong to the caller. */
  take(): Uint8Array {
    const taken = this.#buffer.subarray(0, this.#length)
    // As much room as was needed this time: it is not grown into again.
    const room = Math.min(Math.max(padded(this.#length), LEAST_BUFFER), GREATEST_BUFFER)
    this.#buffer = new Uint8Array(room)
    this.#view = new DataView(this.#buffer.buffer)
    this.#length = 0
    return taken
  }

  #check(interfaceId: number, length: number, originalLength: number): void {
    if (!Number.isInteger(interfaceId) || interfaceId < 0 || interfaceId >= this.#interfaces) {
      throw misuse(`interface ${interfaceId} was not declared`)
    }
    if (length > PACKET_LIMIT) throw misuse(`a packet of ${length} bytes is above ${PACKET_LIMIT}`)
    if (!Number.isInteger(originalLength) || originalLength < length || originalLength > 0xffffffff) {
      throw misuse(`original length ${originalLength} is below the ${length} bytes kept, or no u32`)
    }
  }

  /** `body`: at least as many bytes as come between the two length fields. Grows once, so that no write can fail. */
  #begin(type: number, body: number): number {
    const start = this.#length
    const needed = start + 12 + body
    if (needed > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(needed, this.#buffer.length * 2))
      grown.set(this.#buffer.subarray(0, start))
      this.#buffer = grown
      this.#view = new DataView(grown.buffer)
    }
    this.#u32(type)
    this.#u32(0)
    return start
  }

  #finish(start: number, options: readonly WrittenOption[]): void {
    for (const { code, value } of options) {
      this.#u16(code)
      this.#u16(value.length)
      this.#bytes(value)
    }
    if (options.length > 0) this.#u32(OPTION.end)
    this.#close(start)
  }

  #close(start: number): void {
    const total = this.#length + 4 - start
    this.#view.setUint32(start + 4, total, true)
    this.#u32(total)
  }

  /** Encoded in place; the room is there. */
  #comment(block: number, comment: string): void {
    const at = this.#length
    const { written } = encoder.encodeInto(comment, this.#buffer.subarray(at + 4))
    if (written > OPTION_LIMIT) {
      this.#length = block
      throw misuse(`a text of ${written} bytes is above ${OPTION_LIMIT}`)
    }
    this.#u16(OPTION.comment)
    this.#u16(written)
    this.#length += written
    this.#pad(written)
  }

  #u16(value: number): void {
    this.#view.setUint16(this.#length, value, true)
    this.#length += 2
  }

  #u32(value: number): void {
    this.#view.setUint32(this.#length, value, true)
    this.#length += 4
  }

  #bytes(bytes: Uint8Array): void {
    this.#buffer.set(bytes, this.#length)
    this.#length += bytes.length
    this.#pad(bytes.length)
  }

  #pad(length: number): void {
    for (let left = paddingOf(length); left > 0; left--) this.#buffer[this.#length++] = 0
  }
}

function padded(length: number): number {
  return length + paddingOf(length)
}

function sizeOf(options: readonly WrittenOption[]): number {
  let size = options.length > 0 ? 4 : 0
  for (const option of options) size += 4 + padded(option.value.length)
  return size
}

/** The texts that are given, as options. */
function texts(...given: readonly (readonly [code: number, text: string | undefined])[]): WrittenOption[] {
  return given.flatMap(([code, text]) => (text === undefined ? [] : checked([{ code, value: encoder.encode(text) }])))
}

/** The numbers that are given, as options of 64 bits. */
function u64s(...given: readonly (readonly [code: number, value: number | bigint | undefined])[]): WrittenOption[] {
  return given.flatMap(([code, number]) => {
    if (number === undefined) return []
    const value = new Uint8Array(8)
    new DataView(value.buffer).setBigUint64(0, BigInt(number), true)
    return [{ code, value }]
  })
}

function u32Bytes(number: number): Uint8Array {
  const value = new Uint8Array(4)
  new DataView(value.buffer).setUint32(0, number, true)
  return value
}

/** Options that fit, with the enterprise number in front where there is one. */
function checked(options: readonly WrittenOption[] = []): WrittenOption[] {
  return options.map(({ code, value, enterprise }) => {
    const whole = enterprise === undefined ? value : Buffer.concat([u32Bytes(enterprise), value])
    if (whole.length > OPTION_LIMIT) throw misuse(`an option of ${whole.length} bytes is above ${OPTION_LIMIT}`)
    if (!(code > 0 && code <= 0xffff)) throw misuse(`${code} is no option code`)
    return { code, value: whole }
  })
}

function misuse(message: string): SnapswitchError {
  return new SnapswitchError('TRACE_INVALID', message, 'Correct what is to be written; the trace so far is whole.')
}
