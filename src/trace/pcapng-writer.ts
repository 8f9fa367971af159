// Writes pcapng (draft-ietf-opsawg-pcapng) into memory: little endian, nanosecond times, one interface per port. Pure:
// no I/O and no clock. The caller takes the bytes whenever it likes, so the same writer serves a file and a live
// stream.

import { SnapswitchError } from '../errors/errors.js'
import { BLOCK, BYTE_ORDER_MAGIC, type Direction, LINKTYPE_ETHERNET, OPTION, paddingOf } from './pcapng.js'

/**
 * Room for a 64 KiB GSO frame; Wireshark refuses packets above this (WTAP_MAX_PACKET_SIZE_STANDARD, wiretap/wtap.h).
 */
const SNAP_LENGTH = 262_144
/** An option's length field is a u16. */
const OPTION_LIMIT = 0xffff
const LOCAL_LIMIT = 8 * 1024 * 1024
const TIME_LIMIT = 1n << 64n
const DIRECTION_FLAGS = { unknown: 0, inbound: 1, outbound: 2 } as const satisfies Record<Direction, number>
const NANOSECONDS = new Uint8Array([9])

const encoder = new TextEncoder()

export interface SectionOptions {
  readonly application?: string
  readonly comment?: string
}

export interface InterfaceOptions {
  readonly name: string
  readonly description?: string
}

export interface PacketOptions {
  readonly direction?: Direction
  readonly comment?: string
  /** Length on the wire when `bytes` is cut short. */
  readonly originalLength?: number
  /** The same for the same packet at several interfaces (u64). */
  readonly packetId?: bigint
}

interface EncodedOption {
  readonly code: number
  readonly value: Uint8Array
}

/** Misuse throws TRACE_INVALID and writes nothing: what was written before stays whole. */
export class PcapngWriter {
  #buffer = new Uint8Array(16 * 1024)
  #view = new DataView(this.#buffer.buffer)
  #length = 0
  #interfaces = 0

  /** Starts with the section header block. */
  constructor(options: SectionOptions = {}) {
    const encoded: EncodedOption[] = []
    if (options.comment !== undefined) encoded.push(textOption(OPTION.comment, options.comment))
    encoded.push(textOption(OPTION.sectionApplication, options.application ?? 'snapswitch'))
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

  /** Declares an Ethernet interface; returns the id that `packet` wants. */
  interface(options: InterfaceOptions): number {
    const encoded = [textOption(OPTION.interfaceName, options.name)]
    if (options.description !== undefined) {
      encoded.push(textOption(OPTION.interfaceDescription, options.description))
    }
    encoded.push({ code: OPTION.interfaceTimeResolution, value: NANOSECONDS })
    const start = this.#begin(BLOCK.interface, 8 + sizeOf(encoded))
    this.#u16(LINKTYPE_ETHERNET)
    this.#u16(0)
    this.#u32(SNAP_LENGTH)
    this.#finish(start, encoded)
    return this.#interfaces++
  }

  /** `timeNs`: nanoseconds since 1970-01-01 UTC. `bytes` is copied. */
  packet(interfaceId: number, timeNs: bigint, bytes: Uint8Array, options: PacketOptions = {}): void {
    const originalLength = options.originalLength ?? bytes.length
    if (!Number.isInteger(interfaceId) || interfaceId < 0 || interfaceId >= this.#interfaces) {
      throw misuse(`interface ${interfaceId} was not declared`)
    }
    if (timeNs < 0n || timeNs >= TIME_LIMIT) throw misuse(`time ${timeNs} does not fit 64 bits`)
    if (bytes.length > SNAP_LENGTH) throw misuse(`a packet of ${bytes.length} bytes is above ${SNAP_LENGTH}`)
    if (!Number.isInteger(originalLength) || originalLength < bytes.length || originalLength > 0xffffffff) {
      throw misuse(`original length ${originalLength} is below the ${bytes.length} bytes kept, or no u32`)
    }
    const encoded: EncodedOption[] = []
    if (options.comment !== undefined) encoded.push(textOption(OPTION.comment, options.comment))
    const direction = options.direction ?? 'unknown'
    if (direction !== 'unknown') {
      const value = new Uint8Array(4)
      value[0] = DIRECTION_FLAGS[direction]
      encoded.push({ code: OPTION.packetFlags, value })
    }
    if (options.packetId !== undefined) {
      const value = new Uint8Array(8)
      new DataView(value.buffer).setBigUint64(0, options.packetId, true)
      encoded.push({ code: OPTION.packetId, value })
    }
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
    this.#buffer = new Uint8Array(16 * 1024)
    this.#view = new DataView(this.#buffer.buffer)
    this.#length = 0
    return taken
  }

  /**
   * `body`: an exact count of the bytes between the two length fields. Grows once, so that no write can fail halfway.
   */
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
    this.#u32(12 + body)
    return start
  }

  #finish(start: number, options: readonly EncodedOption[]): void {
    for (const { code, value } of options) {
      this.#u16(code)
      this.#u16(value.length)
      this.#bytes(value)
    }
    if (options.length > 0) this.#u32(OPTION.end)
    const total = this.#length + 4 - start
    if (total !== this.#view.getUint32(start + 4, true)) {
      throw new SnapswitchError('INTERNAL', 'a pcapng block was sized wrongly', 'Please report this.')
    }
    this.#u32(total)
  }

  #u16(value: number): void {
    this.#view.setUint16(this.#length, value, true)
    this.#length += 2
  }

  #u32(value: number): void {
    this.#view.setUint32(this.#length, value, true)
    this.#length += 4
  }

  /** With padding to 32 bits; the buffer is fresh, so the padding is zero already. */
  #bytes(bytes: Uint8Array): void {
    this.#buffer.set(bytes, this.#length)
    this.#length += padded(bytes.length)
  }
}

function padded(length: number): number {
  return length + paddingOf(length)
}

function sizeOf(options: readonly EncodedOption[]): number {
  let size = options.length > 0 ? 4 : 0
  for (const option of options) size += 4 + padded(option.value.length)
  return size
}

function textOption(code: number, text: string): EncodedOption {
  const value = encoder.encode(text)
  if (value.length > OPTION_LIMIT) throw misuse(`a text of ${value.length} bytes is above ${OPTION_LIMIT}`)
  return { code, value }
}

function misuse(message: string): SnapswitchError {
  return new SnapswitchError('TRACE_INVALID', message, 'Correct what is to be written; the trace so far is whole.')
}
