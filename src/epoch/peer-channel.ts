// The channels between this switch and one peer switch, seen from here: what was sent, what was received, and when the
// incoming one is closed for a snapshot: when as many frames from before the peer's cut have come as its MARKER says it
// sent, or when the closure deadline has passed after the marker. Counts make closure exact even where the marker
// overtakes data; what stays missing is reported as lost.
//
// Both sides must count the same frames, whatever is restarted, taken away or plugged in elsewhere, and whatever
// overtakes what. So every frame carries a generation, which the receiver has chosen:
//
// - An end of a channel is a boot of a switch and a number, new with every PeerChannel, and when another boot is met:
//   then all that was agreed with it before is void. Numbers grow, so that a late HELLO of a former end is known.
// - Whoever hears of a new end over there chooses the generation (1 to 3; the one that is longest out of use, as far as
//   it knows), counts its frames from zero, and says so in every HELLO, which names the end it is for.
// - Whoever is named takes the generation on and counts from zero what it sends in it. Before, its frames have
//   generation 0. It refuses the one that its last frames for a former end had: then another one is chosen.
// - When the peer has said that it has taken it on, frames of all other generations are dropped: they were sent before,
//   and nobody has counted them. In a network that keeps the order there are none. A snapshot begins only after that.
//
// So per pair of ends and direction there is one generation, begun once by each side, and no frame but its sender's
// bears it (unless one is under way while three ends come and go).

import { ColorCounter } from './color-counter.js'
import type { StateExchange } from './state.js'

/** Milliseconds, on whatever clock the caller uses consistently. */
export type Milliseconds = number

export interface Closure {
  readonly expected: number
  readonly received: number
  readonly lost: number
  readonly byCount: boolean
}

/** One end of a channel. */
export interface End {
  /** 16 hex digits. */
  readonly bootId: string
  /** Grows from end to end of one host, over its boots. */
  readonly number: number
}

/** No end heard of yet. */
export const NO_END: End = { bootId: '0'.repeat(16), number: 0 }
/** The generation of what is not counted. */
export const UNCOUNTED = 0

/** What control frames say of a channel. */
export interface ChannelWords {
  readonly host: string
  /** The sender's end. */
  readonly bootId: string
  readonly number: number
  /** The end that it is for; NO_END: none was heard of. */
  readonly heard: End
  /** Generation in which the sender takes frames from that end. */
  readonly accepts: number
  /** Generation in which the sender has sent last, */
  readonly sends: number
  /** and whether it sends in it to that end. */
  readonly takes: boolean
  readonly count: number
}

/** What a HELLO was: of an end not heard of before; one that shows that the peer should hear of us now; or neither. */
export type Heard = 'new' | 'answer' | 'known'

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

/**
 * A HELLO's deficit counts as loss only after it has lasted this many HELLOs, so far apart: a frame in flight is not
 * lost.
 */
const DEFICITS_KEPT = 3
const DEFICIT_INTERVAL_MS = 900
const LAST_GENERATION = 3
/** Milliseconds without a HELLO after which even an older end is believed. */
const FORMER_TIMEOUT_MS = 3500

/** What all ends of one boot that lead to one host have in common. */
interface Past {
  /** To choose from: first the one for which it is longest ago that frames of it may have been sent to us. */
  readonly generations: number[]
  /** The one that we have sent in last. */
  sent: number
}

/** More hosts than a network has; a stranger without a key may make up as many as it likes. */
const PASTS_KEPT = 256

/** Numbers the ends of one boot: by the microsecond at which it began, and upward. */
export class Ends {
  readonly bootId: string
  #last: number
  readonly #pasts = new Map<string, Past>()

  /** `bootId`: 16 hex digits; `since`: Unix time in milliseconds. */
  constructor(bootId: string, since: number) {
    this.bootId = bootId
    this.#last = Math.floor(since * 1000)
  }

  next(): number {
    return ++this.#last
  }

  pastWith(host: string): Past {
    let past = this.#pasts.get(host)
    if (past === undefined) {
      // After a restart nothing is known of what came before: boots begin anywhere.
      const first = Math.floor(this.#last)
      past = { generations: [0, 1, 2].map((at) => 1 + ((first + at) % LAST_GENERATION)), sent: UNCOUNTED }
      this.#pasts.set(host, past)
      if (this.#pasts.size > PASTS_KEPT) this.#pasts.delete(this.#pasts.keys().next().value!)
    }
    return past
  }

  /** Of several alike the one that the others have, too: `past` when it was forgotten here. */
  knownPast(host: string, past: Past): Past {
    return this.#pasts.get(host) ?? past
  }

  /** Before the channels are, which have these in common. */
  exchangePasts(state: StateExchange): void {
    state.map('pasts', this.#pasts)
  }

  /** After the channels: each that is made takes a number. */
  exchangeNumber(state: StateExchange): void {
    this.#last = state.value('last', this.#last)
  }
}

export class PeerChannel {
  host: string | null = null
  bootId: string | null = null
  mac: Uint8Array | null = null
  lastHeard: Milliseconds = Number.NEGATIVE_INFINITY
  /** Frames of the generation that we send in, and of the one that we accept. */
  readonly sent = new ColorCounter()
  readonly received = new ColorCounter()
  /** Generation of what we send; UNCOUNTED until the peer has chosen one. */
  sends = UNCOUNTED
  /** The one that we have chosen; UNCOUNTED until a peer was heard of. */
  accepts = UNCOUNTED
  readonly #ends: Ends
  #number: number
  #peerNumber = 0
  /** The peer has taken on what we have chosen. */
  #agreed = false
  #past: Past | null = null
  /** The one that our last frames for a former end had. */
  #refused = UNCOUNTED
  #deficits: number[] = []
  #deficitAt = Number.NEGATIVE_INFINITY
  #marker: Marker | null = null
  #outgoing: OutgoingMarker | null = null

  constructor(ends: Ends) {
    this.#ends = ends
    this.#number = ends.next()
  }

  /** Both directions are counted. */
  get established(): boolean {
    return this.#agreed && this.sends !== UNCOUNTED
  }

  /** The number of the peer's end that is believed. */
  get peerNumber(): number {
    return this.#peerNumber
  }

  /** What control frames say of this end; the count is their own. */
  get words(): Omit<ChannelWords, 'host' | 'count' | 'bootId'> {
    const heard = this.bootId === null ? NO_END : { bootId: this.bootId, number: this.#peerNumber }
    const sends = this.#past?.sent ?? UNCOUNTED
    return { number: this.#number, heard, accepts: this.accepts, sends, takes: this.sends !== UNCOUNTED }
  }

  /** `isExact`: no frame is in our count that came behind it, and would hide one that is lost. */
  hello(words: ChannelWords, mac: Uint8Array, now: Milliseconds, isExact = true): Heard {
    const isSameBoot = this.bootId === words.bootId && this.host === words.host
    // A late one of an end that is no more; unless it goes on: then a clock was set back.
    const isOlder = words.host === this.host && words.number < this.#peerNumber
    if (isOlder && now - this.lastHeard < FORMER_TIMEOUT_MS) return 'known'
    this.lastHeard = now
    this.mac = mac
    const isNew = !isSameBoot || words.number !== this.#peerNumber
    if (isNew) this.#meet(words)
    const isForUs = this.#isNamed(words)
    const isOffer = isForUs && words.accepts !== UNCOUNTED && words.accepts !== this.#refused
    const adopts = isOffer && words.accepts !== this.sends
    if (adopts) this.#adopt(words.accepts)
    const isTaken = this.#isTaken(words)
    if (isForUs && !words.takes && words.sends === this.accepts) this.#choose(words.sends)
    else if (isTaken) {
      this.#agreed = true
      if (isExact) this.#noteDeficit(words.count, now)
    }
    if (isNew) return 'new'
    return adopts || !isTaken ? 'answer' : 'known'
  }

  /**
   * A colored frame has come (`frames`: how many it is on the wire). False: it is of another generation, and to be
   * dropped.
   */
  take(generation: number, color: number, frames: number): boolean {
    if (generation !== this.accepts) return !this.#agreed
    this.received.add(color, frames)
    return true
  }

  /** Frames this trunk has lost in ordinary running, before any cut: they must not delay a closure. */
  get lostInRunning(): number {
    return this.#deficits.length < DEFICITS_KEPT ? 0 : Math.min(...this.#deficits)
  }

  /** A MARKER; false when what it counts is not what we count: it is of another end, or for another one. */
  takeMarker(words: ChannelWords, epoch: number, now: Milliseconds): boolean {
    if (!this.isOfPeer(words) || !this.#isTaken(words)) return false
    this.#agreed = true
    if (this.#marker === null || epoch > this.#marker.epoch) this.#marker = { epoch, sentBelow: words.count, at: now }
    return true
  }

  hasMarker(epoch: number): boolean {
    return this.#marker !== null && this.#marker.epoch >= epoch
  }

  /** The closure of the incoming channel for the snapshot of `epoch`, or null while it is open. */
  closure(epoch: number, closureDeadline: Milliseconds, now: Milliseconds): Closure | null {
    const marker = this.#marker
    if (marker === null || marker.epoch < epoch) return null
    const expected = Math.max(0, marker.sentBelow - this.lostInRunning)
    const received = this.received.below(epoch)
    if (received >= expected) return { expected, received, lost: 0, byCount: true }
    if (now - marker.at < closureDeadline) return null
    return { expected, received, lost: expected - received, byCount: false }
  }

  /** Our side has cut: from now on the peer is told, until it acknowledges or `until` passes. */
  startMarker(epoch: number, now: Milliseconds, until: Milliseconds): void {
    this.#outgoing = { epoch, sentBelow: this.sent.below(epoch), nextAt: now, until }
  }

  acknowledged(words: ChannelWords, epoch: number): void {
    if (!this.isBetweenUs(words)) return
    if (this.#outgoing !== null && epoch >= this.#outgoing.epoch) this.#outgoing = null
  }

  /** The marker to send now, if one is due; the next repeat is scheduled. */
  dueMarker(now: Milliseconds, repeat: Milliseconds): { epoch: number; sentBelow: number } | null {
    const outgoing = this.#outgoing
    if (outgoing === null || now < outgoing.nextAt) return null
    if (now >= outgoing.until) {
      this.#outgoing = null
      return null
    }
    outgoing.nextAt = now + repeat
    return outgoing
  }

  exchange(state: StateExchange): void {
    this.host = state.value('host', this.host)
    this.bootId = state.value('bootId', this.bootId)
    this.mac = state.value('mac', this.mac)
    this.lastHeard = state.value('lastHeard', this.lastHeard)
    state.part('sent', (part) => this.sent.exchange(part))
    state.part('received', (part) => this.received.exchange(part))
    this.sends = state.value('sends', this.sends)
    this.accepts = state.value('accepts', this.accepts)
    this.#number = state.value('number', this.#number)
    this.#peerNumber = state.value('peerNumber', this.#peerNumber)
    this.#agreed = state.value('agreed', this.#agreed)
    this.#past = state.value('past', this.#past)
    // What all ends that lead to one host have in common is common again.
    if (state.isLoading && this.#past !== null && this.host !== null)
      this.#past = this.#ends.knownPast(this.host, this.#past)
    this.#refused = state.value('refused', this.#refused)
    this.#deficits = state.value('deficits', this.#deficits)
    this.#deficitAt = state.value('deficitAt', this.#deficitAt)
    this.#marker = state.value('marker', this.#marker)
    this.#outgoing = state.value('outgoing', this.#outgoing)
  }

  /** Whether the peer's present end has said it. */
  isOfPeer(words: ChannelWords): boolean {
    return words.bootId === this.bootId && words.number === this.#peerNumber
  }

  /** And to our present end. */
  isBetweenUs(words: ChannelWords): boolean {
    return this.isOfPeer(words) && this.#isNamed(words)
  }

  #noteDeficit(sent: number, now: Milliseconds): void {
    if (now - this.#deficitAt < DEFICIT_INTERVAL_MS) return
    this.#deficitAt = now
    this.#deficits.push(Math.max(0, sent - this.received.total))
    if (this.#deficits.length > DEFICITS_KEPT) this.#deficits.shift()
  }

  #isNamed({ heard }: ChannelWords): boolean {
    return heard.bootId === this.#ends.bootId && heard.number === this.#number
  }

  #isTaken(words: ChannelWords): boolean {
    return words.takes && words.sends === this.accepts && this.#isNamed(words)
  }

  #meet(words: ChannelWords): void {
    // What the new peer may have agreed with us when it was here before is void: it shall hear of a new end.
    if (this.bootId !== null && this.bootId !== words.bootId) this.#number = this.#ends.next()
    this.host = words.host
    this.bootId = words.bootId
    this.#peerNumber = words.number
    this.sends = UNCOUNTED
    this.#outgoing = null
    this.#past = this.#ends.pastWith(words.host)
    this.#refused = this.#past.sent
    this.#choose(words.sends)
  }

  /** `avoided`: frames of it may be under way for an end that was here before us, as those of the one chosen before. */
  #choose(avoided: number): void {
    const { generations } = this.#past!
    const leaveLast = (generation: number) => {
      generations.splice(generations.indexOf(generation), 1)
      generations.push(generation)
    }
    for (const generation of [this.accepts, avoided]) if (generation !== UNCOUNTED) leaveLast(generation)
    this.accepts = generations[0]
    leaveLast(this.accepts)
    this.#agreed = false
    this.received.reset()
    this.#deficits = []
    this.#deficitAt = Number.NEGATIVE_INFINITY
    this.#marker = null
  }

  #adopt(generation: number): void {
    this.sends = generation
    this.#past!.sent = generation
    this.sent.reset()
    this.#outgoing = null
  }
}
