// How a capture travels from the switch to whoever asked for it: records as they lie in the ring that the forwarding
// thread writes (switch/capture/record-ring.ts), one behind the other. Both ends are of one version; the first record
// says which. Little endian, as the machines that this runs on.
//
// Each record: bytes to the next one (u32), bytes of content (i32; below zero: nothing, skip it), frames lost before it
// (u32), four unused bytes, content, padding to 8 bytes. The content's first byte is its kind.

import { SnapswitchError } from '../errors/errors.js'

export const STREAM_VERSION = 1
export const PREFIX_BYTES = 16
const LONGEST_RECORD = 1024 * 1024

export const RecordKind = {
  /** Nothing: a frame that the filter let go in the end. */
  NONE: 0,
  PACKET: 1,
  /** A port as it is from here on, in JSON at JSON_AT; its number at PacketField.PORT. */
  PORT: 2,
  /** The rest is JSON from JSON_AT on: what is captured, how much was lost so far, and that this was all. */
  HEAD: 3,
  STATISTICS: 4,
  END: 5,
} as const

export const JSON_AT = 8

/** Offsets in a PACKET's content; behind them is the frame as it is on the wire, its tag where it belongs. */
export const PacketField = {
  VERDICT: 1,
  /** Index among the reasons that HEAD lists; NO_REASON. */
  REASON: 2,
  /** 1 in, 2 out. */
  DIRECTION: 3,
  PORT: 4,
  /** PacketFlag. */
  FLAGS: 6,
  GSO_TYPE: 7,
  /** i32; -1: none. */
  COLOR: 8,
  LENGTH: 12,
  CAPTURED: 16,
  /** Frames at this port that the capture has lost since the one before. */
  MISSING: 20,
  /** f64, Unix time in milliseconds. */
  TIME: 24,
  /** f64; the same for one frame at all of its ports; 0: not known. */
  ID: 32,
  GSO_SIZE: 40,
  /** i32: the epoch of the port, where it is a member; -1. */
  EPOCH: 44,
  DATA: 48,
} as const

export const PacketFlag = { RECORDED: 1, STRAGGLER: 2 } as const
export const Direction = { IN: 1, OUT: 2 } as const
export const NO_REASON = 0xff

export interface CaptureHead {
  readonly version: number
  readonly id: number
  readonly host: string
  readonly network: string
  readonly software: string
  readonly filter: string
  readonly snaplen: number
  readonly reasons: readonly string[]
}

export interface CapturedPort {
  readonly name: string
  readonly kind: string
  readonly vm: string | null
  /** Of a trunk, or of a switch on an uplink's LAN: the host there, when it is known. */
  readonly peer: string | null
}

export interface CaptureStatistics {
  /** Frames that found no room. */
  readonly lost: number
  /** The same by the number of the port. */
  readonly lostAt: Readonly<Record<string, number>>
}

export interface CaptureEnd extends CaptureStatistics {
  /** Why the switch ended it; null: it was asked to. */
  readonly reason: string | null
}

/** A record with JSON in it, as the control thread puts it between those of the ring. */
export function encodeJson(kind: number, value: unknown, port = 0): Buffer {
  const text = Buffer.from(JSON.stringify(value))
  const length = JSON_AT + text.length
  const whole = (PREFIX_BYTES + length + 7) & -8
  const record = Buffer.alloc(whole)
  record.writeUInt32LE(whole, 0)
  record.writeInt32LE(length, 4)
  record[PREFIX_BYTES] = kind
  record.writeUInt16LE(port, PREFIX_BYTES + PacketField.PORT)
  text.copy(record, PREFIX_BYTES + JSON_AT)
  return record
}

export function decodeJson<T>(content: Buffer): T {
  try {
    return JSON.parse(content.toString('utf8', JSON_AT)) as T
  } catch (error) {
    throw damaged('a record is no JSON', error)
  }
}

/** Contents of the records of a stream; they are good until the next one is asked for. A torn last one is left out. */
export async function* readRecords(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer[], void, undefined> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of stream) {
    const bytes =
      rest.length === 0 ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length) : Buffer.concat([rest, chunk])
    const contents: Buffer[] = []
    let at = 0
    while (bytes.length - at >= PREFIX_BYTES) {
      const whole = bytes.readUInt32LE(at)
      const length = bytes.readInt32LE(at + 4)
      if (length < 0) {
        // The ring's end: of what is skipped only these two words may be here.
        if (whole % 8 !== 0 || whole === 0) throw damaged('a gap has no length')
      } else if (whole < PREFIX_BYTES + length || whole > LONGEST_RECORD || whole % 8 !== 0) {
        throw damaged(`a record of ${whole} bytes`)
      }
      if (bytes.length - at < whole) break
      if (length > 0) contents.push(bytes.subarray(at + PREFIX_BYTES, at + PREFIX_BYTES + length))
      at += whole
    }
    rest = bytes.subarray(at)
    if (contents.length > 0) yield contents
  }
}

function damaged(message: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'INTERNAL',
    `the switch sent a capture that cannot be read: ${message}`,
    'Check that the command and the daemon have the same version: `snapswitch status` says the daemon’s.',
    cause,
  )
}
