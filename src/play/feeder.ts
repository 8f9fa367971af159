// The reading thread of a play: reads the capture, decides of each packet whether and where it is sent, and when, puts
// other addresses into it, and fills the ring. It runs ahead of the sender as far as the ring has room.

import { setTimeout as pause } from 'node:timers/promises'
import { asSnapswitchError, type SnapswitchError } from '../errors/errors.js'
import { ETHERNET_HEADER_LENGTH, EtherType, VLAN_TAG_LENGTH } from '../frame/ethernet.js'
import type { TracePacket } from '../trace/packet.js'
import type { Direction } from '../trace/pcapng.js'
import { openTrace } from '../trace/source.js'
import { completeChecksums } from './checksums.js'
import { Cutter } from './cutter.js'
import type { RingWriter } from './frame-ring.js'
import { Headers } from './headers.js'
import { afterTags, type Mapping, type Origin, type Target } from './mapping.js'
import { type Changes, Rewriter } from './rewrite.js'
import { Schedule, type ScheduleOptions } from './schedule.js'

export interface FeederOptions extends ScheduleOptions {
  /** A path, or `-`. */
  readonly file: string
  readonly mapping: Mapping
  /** By target: what it is, its MTU, and its number there. */
  readonly outlets: readonly { readonly kind: Target['kind']; readonly mtu: number; readonly number: number }[]
  readonly changes: Changes
  /** All checksums are made anew. */
  readonly checksums: boolean
  readonly passes: number
  /** Most frames. */
  readonly limit: number
  readonly direction: Exclude<Direction, 'unknown'> | 'any'
  /** Packets that the capture has only the beginning of: left out, sent as they are, or filled up with zeros. */
  readonly short: 'skip' | 'send' | 'pad'
  /** Frames that are too long are cut into several. */
  readonly cut: boolean
  readonly wanted: ((packet: TracePacket) => boolean) | null
}

/** Packets that were not sent, and why. */
export interface Skipped {
  unmapped: number
  direction: number
  filtered: number
  /** Captured in part. */
  short: number
  tooLong: number
  /** Not even an Ethernet header. */
  noFrame: number
}

/** While the ring is full: short against the time that a full one lasts. */
const ROOM_LOOK_MS = 2
/** Between two turns of the event loop: signals are taken there. */
const TURN_PACKETS = 8192

export class Feeder {
  readonly skipped: Skipped = { unmapped: 0, direction: 0, filtered: 0, short: 0, tooLong: 0, noFrame: 0 }
  readonly schedule: Schedule
  /** Packets read, frames put into the ring, and passes that are over. */
  packets = 0
  frames = 0
  passes = 0
  /** Frames that were made of longer ones. */
  pieces = 0
  /** What the capture was found to be damaged by; what came before is played. */
  damage: SnapswitchError | null = null
  readonly #options: FeederOptions
  readonly #ring: RingWriter
  readonly #stopped: () => boolean
  readonly #rewriter: Rewriter | null
  readonly #headers = new Headers()
  readonly #cutter = new Cutter()
  readonly #scratch = new Uint8Array(4 + 256 * 1024)
  readonly #scratchView = new DataView(this.#scratch.buffer)
  readonly #origin: { interface: string | null; buffer: Uint8Array; start: number; length: number }

  constructor(options: FeederOptions, ring: RingWriter, stopped: () => boolean) {
    const { macs, ips, vlans } = options.changes
    this.#options = options
    this.#ring = ring
    this.#stopped = stopped
    this.schedule = new Schedule(options)
    this.#rewriter = macs.length + ips.length + vlans.length === 0 ? null : new Rewriter(options.changes)
    this.#origin = { interface: null, buffer: this.#scratch, start: 0, length: 0 }
  }

  /** Until the last pass is over, the limit is reached, or the play is stopped. Damage is no failure: `damage`. */
  async run(): Promise<void> {
    try {
      while (this.passes < this.#options.passes && !this.#isOver) {
        if (this.passes > 0) this.schedule.nextPass()
        const before = this.frames
        await this.#pass()
        this.passes++
        // Else it would read for ever and send nothing.
        if (this.frames === before) break
      }
    } catch (thrown) {
      this.damage = asSnapswitchError(thrown)
    } finally {
      this.#ring.end()
    }
  }

  get #isOver(): boolean {
    return this.frames >= this.#options.limit || this.#stopped()
  }

  async #pass(): Promise<void> {
    let turn = 0
    for await (const cursor of openTrace(this.#options.file)) {
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
        if (kind !== 'packet') continue
        while (!this.#take(cursor.packet)) {
          await pause(ROOM_LOOK_MS)
          if (this.#isOver) return
        }
        if (this.#isOver) return
        if (++turn % TURN_PACKETS === 0) await new Promise(setImmediate)
      }
    }
  }

  /** False: there is no room yet. */
  #take(packet: TracePacket): boolean {
    const { mapping, direction, wanted, short, outlets } = this.#options
    const length = Math.min(packet.length, packet.originalLength - packet.interface.fcsLength)
    const isShort = packet.length < packet.originalLength - packet.interface.fcsLength
    const origin = this.#origin
    origin.interface = packet.interface.name
    origin.buffer = packet.buffer
    origin.start = packet.start
    origin.length = length
    let target = -1
    if (length < ETHERNET_HEADER_LENGTH) return this.#skip('noFrame')
    if (direction !== 'any' && packet.flags !== 0 && opposite(packet, direction)) return this.#skip('direction')
    if (wanted !== null && !wanted(packet)) return this.#skip('filtered')
    target = mapping.targetOf(origin)
    if (target < 0) return this.#skip('unmapped')
    if (isShort && short === 'skip') return this.#skip('short')
    const full = isShort && short === 'pad' ? packet.originalLength - packet.interface.fcsLength : length
    if (full > this.#scratch.length - 8) return this.#skip('tooLong')
    const { kind, mtu } = outlets[target]
    // A tag that the rewriting puts there always has room.
    const longest = longestFor(kind, mtu, origin)
    if (full > longest) {
      if (!this.#options.cut) return this.#skip('tooLong')
      return this.#takeLong(packet, full, target, longest)
    }
    const at = this.#ring.begin(full)
    if (at < 0) return false
    const { bytes, view } = this.#ring
    bytes.set(packet.buffer.subarray(packet.start, packet.start + length), at)
    if (full > length) bytes.fill(0, at + length, at + full)
    this.#put(bytes, view, at, full, target, packet.isTimed, packet.seconds, packet.nanoseconds)
    this.packets++
    return true
  }

  /** Cut into several, which all go at once. */
  #takeLong(packet: TracePacket, length: number, target: number, longest: number): boolean {
    const scratch = this.#scratch
    scratch.set(packet.buffer.subarray(packet.start, packet.start + packet.length), 4)
    scratch.fill(0, 4 + packet.length, 4 + length)
    const cutter = this.#cutter
    const { mtu } = this.#options.outlets[target]
    // Tags that have no room beside the MTU take it from each piece.
    const most = Math.min(mtu, longest - (afterTags(scratch, 4, length) - 4))
    if (!cutter.begin(this.#scratchView, scratch, 4, length, most)) return this.#skip('tooLong')
    const room = this.#ring.begin(cutter.pieces * (mtu + 128))
    if (room < 0) return false
    while (cutter.more) {
      const at = this.#ring.begin(mtu + ETHERNET_HEADER_LENGTH + 2 * VLAN_TAG_LENGTH)
      const pieceLength = cutter.next(this.#ring.view, this.#ring.bytes, at)
      const { view, bytes } = this.#ring
      this.#put(bytes, view, at, pieceLength, target, packet.isTimed, packet.seconds, packet.nanoseconds)
      this.pieces++
    }
    this.packets++
    return true
  }

  #put(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    target: number,
    isTimed: boolean,
    seconds: number,
    nanoseconds: number,
  ): void {
    const rewriter = this.#rewriter
    let start = at
    let sent = length
    if (rewriter !== null) {
      rewriter.rewrite(bytes, view, at, length)
      start = rewriter.start
      sent = rewriter.length
    }
    if (this.#options.checksums) {
      this.#headers.read(view, bytes, start, sent)
      completeChecksums(view, this.#headers)
    }
    const due = this.schedule.next(isTimed, seconds, nanoseconds, sent)
    this.#ring.commit(start, sent, target, this.#options.outlets[target].number, due)
    this.frames++
  }

  #skip(why: keyof Skipped): true {
    this.packets++
    this.skipped[why]++
    return true
  }
}

function opposite(packet: TracePacket, direction: 'inbound' | 'outbound'): boolean {
  const found = packet.direction
  return found !== 'unknown' && found !== direction
}

/**
 * The longest frame with this outermost tag that a target takes. A port takes what a bridge's does: what has at most
 * MTU, header and one tag without its outermost tag. A device takes what the kernel takes from a packet socket: MTU and
 * header, and a tag more where the outermost is of 802.1Q (packet_snd in net/packet/af_packet.c).
 */
function longestFor(kind: Target['kind'], mtu: number, { buffer, start }: Origin): number {
  const type = (buffer[start + 12] << 8) | buffer[start + 13]
  const most = mtu + ETHERNET_HEADER_LENGTH
  if (kind === 'device') return type === EtherType.VLAN ? most + VLAN_TAG_LENGTH : most
  const isTagged = type === EtherType.VLAN || type === EtherType.SERVICE_VLAN
  return most + VLAN_TAG_LENGTH + (isTagged ? VLAN_TAG_LENGTH : 0)
}
