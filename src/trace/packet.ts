// A packet of a trace as the cursor (cursor.ts) shows it: one record that is filled anew for each packet, so that a
// million packets a second make no objects. What is asked for rarely (comments, options, a BigInt time) is made when it
// is asked for.

import {
  CUSTOM_OPTIONS,
  DIRECTIONS,
  type Direction,
  type InterfaceBlock,
  OPTION,
  paddingOf,
  type TraceOption,
} from './pcapng.js'

/**
 * Good until the cursor's next `next` or `push`: who keeps a packet copies it. `buffer` from `start` on, `length`
 * bytes, is the frame; `bytes` makes a view of it.
 */
export interface TracePacket {
  readonly buffer: Uint8Array
  readonly start: number
  readonly length: number
  /** On the wire; more than `length` when the packet was cut. */
  readonly originalLength: number
  /** False: a simple packet block, which has no time; both fields of the time are 0. */
  readonly isTimed: boolean
  /** Since 1970-01-01 UTC, rounded down; `nanoseconds` (0 to 999999999) is the rest. */
  readonly seconds: number
  readonly nanoseconds: number
  readonly interface: InterfaceBlock
  /** epb_flags as in the file; 0 where there are none. Bits 0 and 1 are the direction. */
  readonly flags: number
  /** Packets that were lost between this one and the one before, at its interface; -1 where nothing is said. */
  readonly dropCount: number
  /** Where its block is in the (uncompressed) file. */
  readonly offset: number
  readonly bytes: Uint8Array
  readonly timeNs: bigint | null
  readonly direction: Direction
  /** The same for the same packet seen at several interfaces; null when not given. */
  readonly packetId: bigint | null
  readonly comments: readonly string[]
  /** All of them, in file order. */
  readonly options: readonly TraceOption[]
}

const NO_INTERFACE: InterfaceBlock = {
  kind: 'interface',
  offset: 0,
  id: -1,
  linkType: -1,
  snapLength: 0,
  name: null,
  description: null,
  fcsLength: 0,
  comments: [],
  options: [],
}

/** Filled by the parsers; to everybody else a TracePacket. */
export class PacketView implements TracePacket {
  buffer: Uint8Array = new Uint8Array(0)
  view: DataView = new DataView(this.buffer.buffer)
  littleEndian = true
  start = 0
  length = 0
  originalLength = 0
  isTimed = false
  seconds = 0
  nanoseconds = 0
  interface = NO_INTERFACE
  flags = 0
  dropCount = -1
  offset = 0
  /** Where the packet's id stands in `buffer`; -1: it has none. */
  packetIdAt = -1
  optionsStart = 0
  optionsEnd = 0

  get bytes(): Uint8Array {
    return this.buffer.subarray(this.start, this.start + this.length)
  }

  get timeNs(): bigint | null {
    return this.isTimed ? BigInt(this.seconds) * 1_000_000_000n + BigInt(this.nanoseconds) : null
  }

  get direction(): Direction {
    return DIRECTIONS[this.flags & 3]
  }

  get packetId(): bigint | null {
    return this.packetIdAt < 0 ? null : this.view.getBigUint64(this.packetIdAt, this.littleEndian)
  }

  get options(): readonly TraceOption[] {
    return optionsBetween(this.buffer, this.view, this.littleEndian, this.optionsStart, this.optionsEnd)
  }

  get comments(): readonly string[] {
    return this.optionsStart === this.optionsEnd ? [] : commentsOf(this.options)
  }
}

/** Options whose lengths have been checked. */
export function optionsBetween(
  bytes: Uint8Array,
  view: DataView,
  littleEndian: boolean,
  start: number,
  end: number,
): TraceOption[] {
  const found: TraceOption[] = []
  let at = start
  while (at < end) {
    const code = view.getUint16(at, littleEndian)
    const length = view.getUint16(at + 2, littleEndian)
    if (code === OPTION.end) break
    const isCustom = CUSTOM_OPTIONS.includes(code) && length >= 4
    found.push({
      code,
      enterprise: isCustom ? view.getUint32(at + 4, littleEndian) : null,
      value: bytes.subarray(at + (isCustom ? 8 : 4), at + 4 + length),
    })
    at += 4 + length + paddingOf(length)
  }
  return found
}

// ignoreBOM keeps a leading U+FEFF, so that a text comes back exactly as it was written. Bytes that are no UTF-8 become
// U+FFFD: others' tools write what they like into a comment.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

export function commentsOf(options: readonly TraceOption[]): string[] {
  return options.filter(({ code }) => code === OPTION.comment).map(({ value }) => decoder.decode(value))
}

/** The text of the first option of that code, or null. */
export function textOf(options: readonly TraceOption[], code: number): string | null {
  const option = options.find((one) => one.code === code)
  return option === undefined ? null : decoder.decode(option.value)
}
