// What happens to members' frames around a cut, written down by the datapath for `snapshot audit`: fixed-size entries
// in shared memory that was set aside before, so that nothing is allocated and nobody is waited for. When it is full
// the rest is counted: the audit is then incomplete, the traffic undisturbed. Read it after the recording was stopped.

import { FrameDigest } from '../../src/frame/digest.js'
import { type Frame, NO_COLOR } from '../../src/frame/frame.js'
import { Event, type TraceEvent } from '../../src/trace/events.js'
import { type DropReason, dropReasons } from './counters.js'
import type { FrameObserver } from './observer.js'
import type { PortState } from './port-state.js'

/** Words of the header: entries written, entries that found no room. */
const WRITTEN = 0
const OVERFLOW = 1
const HEADER_BYTES = 16
/**
 * An entry: kind u8, reason u8 (0xff: none), port i16; color, epoch, length, cause i32; digest low and high u32; the
 * frame's first 14 bytes and 2 of padding; time f64 (Unix time in milliseconds).
 */
const ENTRY_BYTES = 56
const ENTRY_WORDS = ENTRY_BYTES / 4
const HEAD_BYTES = 14
const NO_REASON = 0xff
const NO_PORT = -1
const NO_CAUSE = -1

/** Zero pages until they are written to: `entries` are a bound, not a cost. */
export function eventLogMemory(entries: number): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + entries * ENTRY_BYTES)
}

export class EventLog implements FrameObserver {
  readonly #words: Int32Array
  readonly #bytes: Uint8Array
  readonly #times: Float64Array
  readonly #room: number
  #written = 0
  readonly #digest = new FrameDigest()
  /** The frame that is being forwarded, as it came in, and the number of that event. */
  #current: Frame | null = null
  #currentBytes: Uint8Array | null = null
  #cause = NO_CAUSE
  /** Unix time in milliseconds of what is written next. */
  #now = 0

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory)
    this.#bytes = new Uint8Array(memory)
    this.#times = new Float64Array(memory)
    this.#room = Math.floor((memory.byteLength - HEADER_BYTES) / ENTRY_BYTES)
  }

  at(now: number): void {
    this.#now = now
  }

  gone(): void {}

  /** It has no color, and is none of the snapshot's. */
  unread(): void {}

  refused(port: PortState, frame: Frame, reason: DropReason): void {
    this.dropped(port, frame, reason)
  }

  leftOut(port: PortState, frame: Frame, reason: DropReason): void {
    this.dropped(port, frame, reason)
  }

  /** A frame has come in and has its color. */
  came(port: PortState, frame: Frame, now: number): void {
    this.#now = now
    this.#current = null
    if (frame.color === NO_COLOR) return
    this.#cause = NO_CAUSE
    this.#digest.of(frame)
    this.#append(port.isTrunk ? Event['from-trunk'] : Event.sent, port.index, port.epoch, frame, NO_REASON)
    this.#current = frame
    this.#currentBytes = frame.bytes
    this.#cause = this.#written - 1
  }

  /** It is the same frame, wherever it lies by now. */
  lies(frame: Frame): void {
    if (frame === this.#current) this.#currentBytes = frame.bytes
  }

  /** A port has taken it for its device. */
  left(port: PortState, frame: Frame): void {
    if (port.isMember) this.note(Event.delivered, port, frame)
    else if (port.isTrunk) this.note(Event['to-trunk'], port, frame)
  }

  dropped(port: PortState, frame: Frame, reason: DropReason): void {
    this.note(Event.dropped, port, frame, dropReasons.indexOf(reason))
  }

  note(kind: number, port: PortState, frame: Frame, reason = NO_REASON): void {
    // An audit asks for frames at members and trunks. A flood says of plain ports, too, that it does not reach them.
    if (frame.color === NO_COLOR || !(port.isMember || port.isTrunk)) return
    // What comes out of a hold queue comes in copies: other bytes than those that are being forwarded.
    if (frame !== this.#current || frame.bytes !== this.#currentBytes) {
      this.#current = null
      this.#cause = NO_CAUSE
      this.#digest.of(frame)
    }
    this.#append(kind, port.index, port.epoch, frame, reason)
  }

  /** What happens to a port, or (`port` null) to the snapshot on this host. */
  mark(kind: number, port: PortState | null, epoch: number, now: number): void {
    this.#now = now
    this.#current = null
    this.#cause = NO_CAUSE
    this.#append(kind, port === null ? NO_PORT : port.index, epoch, null, NO_REASON)
  }

  #append(kind: number, port: number, epoch: number, frame: Frame | null, reason: number): void {
    const words = this.#words
    const bytes = this.#bytes
    if (this.#written === this.#room) {
      words[OVERFLOW]++
      this.#cause = NO_CAUSE
      return
    }
    const at = HEADER_BYTES + this.#written * ENTRY_BYTES
    const word = at / 4
    words[word] = kind | (reason << 8) | (port << 16)
    words[word + 1] = frame === null ? NO_COLOR : frame.color
    words[word + 2] = epoch
    words[word + 4] = this.#cause
    if (frame !== null) {
      words[word + 3] = frame.length + (frame.tagTpid === 0 ? 0 : 4)
      words[word + 5] = this.#digest.low
      words[word + 6] = this.#digest.high
      const kept = Math.min(HEAD_BYTES, frame.length)
      for (let i = 0; i < kept; i++) bytes[at + 28 + i] = frame.bytes[frame.start + i]
    }
    this.#times[(at + 48) / 8] = this.#now
    this.#written++
    words[WRITTEN] = this.#written
  }
}

/** What a stopped recording holds. `portOf`: the trace's number of a port, -1 when it is none of the trace's. */
export function* loggedEvents(
  memory: SharedArrayBuffer,
  portOf: (index: number) => number,
): Generator<TraceEvent, void, undefined> {
  const words = new Int32Array(memory)
  const times = new Float64Array(memory)
  const bytes = new Uint8Array(memory)
  for (let i = 0; i < words[WRITTEN]; i++) {
    const at = HEADER_BYTES + i * ENTRY_BYTES
    const word = i * ENTRY_WORDS + HEADER_BYTES / 4
    const reason = (words[word] >>> 8) & 0xff
    const index = words[word] >> 16
    yield {
      kind: words[word] & 0xff,
      port: index === NO_PORT ? -1 : portOf(index),
      color: words[word + 1] >>> 0,
      epoch: words[word + 2] >>> 0,
      length: words[word + 3],
      cause: words[word + 4],
      digest: (BigInt(words[word + 6] >>> 0) << 32n) | BigInt(words[word + 5] >>> 0),
      reason: reason === NO_REASON ? null : dropReasons[reason],
      timeNs: BigInt(Math.round(times[(at + 48) / 8] * 1000)) * 1000n,
      head: bytes.slice(at + 28, at + 28 + HEAD_BYTES),
    }
  }
}

export function logOverflow(memory: SharedArrayBuffer): number {
  return new Int32Array(memory)[OVERFLOW]
}
