// The channels between this switch and one peer switch, seen from here: what was sent, what was received, and when the
// incoming one is closed for a snapshot: when as many frames from before the peer's cut have come as its MARKER says it
// sent, or when the closure deadline has passed after the marker. Counts make closure exact even where the marker
// overtakes data; what stays missing is reported as lost.

import { ColorCounter } from './color-counter.js'

/** Milliseconds, on whatever clock the caller uses consistently. */
export type Milliseconds = number

export interface Closure {
  readonly expected: number
  readonly received: number
  readonly lost: number
  readonly byCount: boolean
}

interface Marker {
  readonly epoch: number
  readonly sentBelow: number
  readonly at: Milliseconds
}

interface OutgoingMarker {
  readonly epoch: number
  readonly sentBelow: number
  nextAt: Milliseconds
  readonly until: Milliseconds
}

/** A HELLO's deficit counts as loss only after it has lasted this many HELLOs: a frame in flight is not lost. */
const DEFICITS_KEPT = 3

export class PeerChannel {
  host: string | null = null
  bootId: string | null = null
  mac: Uint8Array | null = null
  lastHeard: Milliseconds = Number.NEGATIVE_INFINITY
  readonly sent = new ColorCounter()
  readonly received = new ColorCounter()
  /** The peer's count when its current boot was first heard of; what it sent before that is nobody's loss. */
  private sentAtFirstHello = 0
  private deficits: number[] = []
  private marker: Marker | null = null
  private outgoing: OutgoingMarker | null = null

  /** Takes note of a HELLO; true when this is a new peer or a new boot of it. */
  hello(host: string, bootId: string, mac: Uint8Array, sentTotal: number, now: Milliseconds): boolean {
    this.lastHeard = now
    this.mac = mac
    if (this.bootId !== bootId || this.host !== host) {
      this.host = host
      this.bootId = bootId
      this.sentAtFirstHello = sentTotal
      this.received.reset()
      this.deficits = []
      this.marker = null
      return true
    }
    this.deficits.push(Math.max(0, sentTotal - this.sentAtFirstHello - this.received.total))
    if (this.deficits.length > DEFICITS_KEPT) this.deficits.shift()
    return false
  }

  /** Frames this trunk has lost in ordinary running, before any cut: they must not delay a closure. */
  get lostInRunning(): number {
    return this.deficits.length < DEFICITS_KEPT ? 0 : Math.min(...this.deficits)
  }

  /** A MARKER from `bootId`; false when it is from a boot not heard of, and so cannot be compared with our counts. */
  takeMarker(bootId: string, epoch: number, sentBelow: number, now: Milliseconds): boolean {
    if (bootId !== this.bootId) return false
    if (this.marker === null || epoch > this.marker.epoch) this.marker = { epoch, sentBelow, at: now }
    return true
  }

  hasMarker(epoch: number): boolean {
    return this.marker !== null && this.marker.epoch >= epoch
  }

  /** The closure of the incoming channel for the snapshot of `epoch`, or null while it is open. */
  closure(epoch: number, closureDeadline: Milliseconds, now: Milliseconds): Closure | null {
    const marker = this.marker
    if (marker === null || marker.epoch < epoch) return null
    const expected = Math.max(0, marker.sentBelow - this.sentAtFirstHello - this.lostInRunning)
    const received = this.received.below(epoch)
    if (received >= expected) return { expected, received, lost: 0, byCount: true }
    if (now - marker.at < closureDeadline) return null
    return { expected, received, lost: expected - received, byCount: false }
  }

  /** Our side has cut: from now on the peer is told, until it acknowledges or `until` passes. */
  startMarker(epoch: number, now: Milliseconds, until: Milliseconds): void {
    this.outgoing = { epoch, sentBelow: this.sent.below(epoch), nextAt: now, until }
  }

  acknowledged(epoch: number): void {
    if (this.outgoing !== null && epoch >= this.outgoing.epoch) this.outgoing = null
  }

  /** The marker to send now, if one is due; the next repeat is scheduled. */
  dueMarker(now: Milliseconds, repeat: Milliseconds): { epoch: number; sentBelow: number } | null {
    const outgoing = this.outgoing
    if (outgoing === null || now < outgoing.nextAt) return null
    if (now >= outgoing.until) {
      this.outgoing = null
      return null
    }
    outgoing.nextAt = now + repeat
    return outgoing
  }
}
