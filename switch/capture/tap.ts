// A capture in the forwarding thread: it looks on, and writes of each frame at each port what happened to it there, as
// long as there is room in its ring. Frames are copied as they are on the wire, the tag where it belongs.
//
// What becomes of a frame that comes in is known only when it has been forwarded: its record is written first, as the
// frame was, and is changed (`refused`) or taken back (`gone`).

import type { Filter } from '../../src/capture/filter.js'
import {
  type CapturedPort,
  Direction,
  JSON_AT,
  NO_REASON,
  PacketField,
  PacketFlag,
  RecordKind,
} from '../../src/capture/stream.js'
import { type Frame, NO_COLOR } from '../../src/frame/frame.js'
import { Vnet } from '../../src/frame/vnet-header.js'
import { libc } from '../../src/linux/libc.js'
import { Event } from '../../src/trace/events.js'
import { type DropReason, dropReasons, MAX_PORTS } from '../forwarding/counters.js'
import type { FrameObserver } from '../forwarding/observer.js'
import { MAX_PEERS, type PortState } from '../forwarding/port-state.js'
import { type Matcher, matcherOf, mayMatch, Verdict } from './matcher.js'
import { RingWriter } from './record-ring.js'

export interface TapOptions {
  readonly filter: Filter | null
  /** Bytes kept of each frame. */
  readonly snaplen: number
  /** ringMemory. */
  readonly memory: SharedArrayBuffer
  /** lossMemory: frames by port that found no room. */
  readonly losses: SharedArrayBuffer
}

const PLACES = MAX_PORTS + MAX_PEERS
const ADDRESSES = 12
const TAG = 4
/** From here on a call into libc is cheaper than a loop. */
const LONG = 600

export function lossMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(PLACES * Float64Array.BYTES_PER_ELEMENT)
}

export class CaptureTap implements FrameObserver {
  readonly #ring: RingWriter
  readonly #view: DataView
  /** Where the ring's memory begins. */
  readonly #address: number
  readonly #losses: Float64Array
  readonly #matches: Matcher
  readonly #filter: Filter | null
  readonly #snaplen: number
  /** Ports that a reader has been told of, by their index, and the host behind them as it was told. */
  readonly #told: (PortState | undefined)[] = new Array(PLACES).fill(undefined)
  readonly #toldPeer: (string | null)[] = new Array(PLACES).fill(null)
  /** By port: lost since its last record. */
  readonly #missing = new Uint32Array(PLACES)
  /** In milliseconds. */
  #now = 0
  #id = 0
  /** The port that the frame in hand came in by; null: none is in hand. */
  #from: PortState | null = null
  /** The record of its coming in; -1: there is none. `#kept`: it stays. */
  #at = -1
  #kept = false
  /** Records behind it: it cannot be taken back. */
  #behind = false
  /** What is said of the next frame that leaves. */
  #flags = 0

  constructor({ filter, snaplen, memory, losses }: TapOptions) {
    this.#ring = new RingWriter(memory)
    this.#view = new DataView(memory)
    // Shared memory is no part of the heap, and does not move. Copies into it by typed arrays are slow.
    this.#address = libc().memmove(this.#ring.bytes, this.#ring.bytes, 0)
    this.#losses = new Float64Array(losses)
    this.#matches = matcherOf(filter)
    this.#filter = filter
    this.#snaplen = snaplen
  }

  /** A reader is to know of those ports, too, that are silent. */
  begin(ports: readonly PortState[]): void {
    for (const port of ports) if (mayMatch(this.#filter, port)) this.#tell(port)
    this.#ring.publish()
  }

  at(now: number): void {
    this.#now = now
  }

  lies(): void {}

  mark(_kind: number, _port: PortState | null, _epoch: number, now: number): void {
    this.#now = now
  }

  came(port: PortState, frame: Frame, now: number): void {
    this.#now = now
    this.#from = port
    this.#id++
    this.#behind = false
    this.#kept = this.#matches(port, frame, Direction.IN, Verdict.RECEIVED, NO_REASON)
    this.#at = this.#kept ? this.#write(port, frame, frame.color, Direction.IN, Verdict.RECEIVED, NO_REASON) : -1
  }

  gone(): void {
    const { index } = this.#from!
    this.#from = null
    if (this.#at < 0) {
      if (this.#kept) this.#lose(index)
    } else if (!this.#kept) {
      this.#missing[index] += this.#ring.words[(this.#at + PacketField.MISSING) >> 2]
      if (this.#behind) this.#ring.bytes[this.#at] = RecordKind.NONE
      else this.#ring.takeBack(this.#at)
    }
    this.#at = -1
    this.#ring.publish()
  }

  refused(port: PortState, frame: Frame, reason: DropReason): void {
    const index = dropReasons.indexOf(reason)
    this.#kept = this.#matches(port, frame, Direction.IN, Verdict.DROPPED, index)
    if (this.#at < 0) {
      // As it is by now, with the VLAN that its port has put it in.
      if (this.#kept) this.#at = this.#write(port, frame, frame.color, Direction.IN, Verdict.DROPPED, index)
      return
    }
    this.#ring.bytes[this.#at + PacketField.VERDICT] = Verdict.DROPPED
    this.#ring.bytes[this.#at + PacketField.REASON] = index
  }

  unread(port: PortState, frame: Frame, reason: DropReason, now: number): void {
    this.#now = now
    this.#say(port, frame, NO_COLOR, Direction.IN, Verdict.DROPPED, dropReasons.indexOf(reason))
  }

  left(port: PortState, frame: Frame): void {
    this.#say(port, frame, frame.color, Direction.OUT, Verdict.DELIVERED, NO_REASON)
    this.#flags = 0
  }

  dropped(port: PortState, frame: Frame, reason: DropReason): void {
    // It is missing in the channel state, and goes its way.
    if (reason === 'record-overflow') return
    this.#say(port, frame, frame.color, Direction.OUT, Verdict.DROPPED, dropReasons.indexOf(reason))
    this.#flags = 0
  }

  leftOut(): void {}

  note(kind: number, port: PortState, frame: Frame): void {
    if (kind === Event.held) this.#say(port, frame, frame.color, Direction.OUT, Verdict.HELD, NO_REASON)
    else if (kind === Event.recorded) this.#flags = PacketFlag.RECORDED
    else if (kind === Event.straggler) this.#flags = PacketFlag.STRAGGLER
  }

  #say(port: PortState, frame: Frame, color: number, direction: number, verdict: number, reason: number): void {
    if (!this.#matches(port, frame, direction, verdict, reason)) return
    if (this.#write(port, frame, color, direction, verdict, reason) < 0) this.#lose(port.index)
    this.#behind = true
    if (this.#from === null) this.#ring.publish()
  }

  /** Where the record is; -1: there was no room. */
  #write(port: PortState, frame: Frame, color: number, direction: number, verdict: number, reason: number): number {
    const { index } = port
    if (this.#told[index] !== port || (port.channel !== null && port.channel.host !== this.#toldPeer[index])) {
      if (!this.#tell(port)) return -1
    }
    const tagged = frame.tagTpid === 0 ? 0 : TAG
    const length = frame.length + tagged
    const captured = Math.min(length, this.#snaplen)
    const ring = this.#ring
    const at = ring.reserve(PacketField.DATA + captured)
    if (at < 0) return -1
    const { bytes, words, doubles } = ring
    const { vnet } = frame
    const word = at >> 2
    words[word] = RecordKind.PACKET | (verdict << 8) | (reason << 16) | (direction << 24)
    words[word + 1] = index | (this.#flags << 16) | (frame.bytes[vnet + Vnet.GSO_TYPE] << 24)
    words[word + PacketField.COLOR / 4] = color
    words[word + PacketField.LENGTH / 4] = length
    words[word + PacketField.CAPTURED / 4] = captured
    words[word + PacketField.MISSING / 4] = this.#missing[index]
    this.#missing[index] = 0
    doubles[(at + PacketField.TIME) >> 3] = this.#now
    doubles[(at + PacketField.ID) >> 3] = this.#from === null ? 0 : this.#id
    words[word + PacketField.GSO_SIZE / 4] =
      frame.bytes[vnet + Vnet.GSO_SIZE] | (frame.bytes[vnet + Vnet.GSO_SIZE + 1] << 8)
    words[word + PacketField.EPOCH / 4] = port.isMember ? port.epoch : NO_COLOR
    const data = at + PacketField.DATA
    if (tagged === 0) this.#copy(frame, 0, captured, data)
    else {
      this.#copy(frame, 0, Math.min(captured, ADDRESSES), data)
      // As much of the tag as is kept: what lies in the ring is of other records.
      const kept = Math.min(captured - ADDRESSES, TAG)
      for (let i = 0; i < kept; i++) {
        const word = i < 2 ? frame.tagTpid : frame.tagTci
        bytes[data + ADDRESSES + i] = (i & 1) === 0 ? word >> 8 : word & 0xff
      }
      if (kept === TAG) this.#copy(frame, ADDRESSES, captured - ADDRESSES - TAG, data + ADDRESSES + TAG)
    }
    return at
  }

  #copy(frame: Frame, from: number, length: number, to: number): void {
    const at = frame.start + from
    const { bytes } = frame
    if (frame.address === 0) {
      this.#ring.bytes.set(bytes.subarray(at, at + length), to)
      return
    }
    if (length > LONG) {
      libc().memcpy(this.#address + to, frame.address + at, length)
      return
    }
    const source = frame.view
    const target = this.#view
    let i = 0
    for (; i + 4 <= length; i += 4) target.setUint32(to + i, source.getUint32(at + i, true), true)
    for (; i < length; i++) target.setUint8(to + i, bytes[at + i])
  }

  #lose(index: number): void {
    this.#losses[index]++
    this.#missing[index]++
  }

  /** Only when a port is new, or known better. */
  #tell(port: PortState): boolean {
    const { name, vm } = port.spec
    const peer = port.channel?.host ?? null
    const kind = port.peer === null ? port.spec.kind : 'peer'
    const text = Buffer.from(JSON.stringify({ name, kind, vm, peer } satisfies CapturedPort))
    const at = this.#ring.reserve(JSON_AT + text.length)
    if (at < 0) return false
    this.#ring.words[at >> 2] = RecordKind.PORT
    this.#ring.words[(at >> 2) + 1] = port.index
    this.#ring.bytes.set(text, at + JSON_AT)
    this.#told[port.index] = port
    this.#toldPeer[port.index] = peer
    this.#behind = true
    return true
  }
}
