// The ways to peer switches, each by a link of its own or over a LAN (uplink.ts): colors are read off what comes in,
// HELLOs say who is there, MARKERs and MARKER_ACKs close channels.

import type { StateExchange } from '../../../src/epoch/state.js'
import { epochOfVid, generationOfVid, LAST_VID, UNCOLORED_VID } from '../../../src/frame/color-tag.js'
import { CONTROL_GROUP, type ControlMessage, ControlType } from '../../../src/frame/control.js'
import { EtherType, innerEtherType } from '../../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../../src/frame/frame.js'
import { segmentsOf } from '../../../src/frame/segments.js'
import { Drop, type DropReason } from '../counters.js'
import type { Network } from '../network.js'
import type { PortState } from '../port-state.js'
import { ControlFrames } from './control-frames.js'

const HELLO_INTERVAL_MS = 1000
/**
 * While a peer that is heard has not agreed on how frames are counted; and, for FIRST_HELLOS, after a port was added.
 */
const HURRIED_INTERVAL_MS = 100
const FIRST_HELLOS = 3000
/** Longer than a fast path leaves its counters alone. */
const POSTPONED_MS = 600
/** Most HELLOs that HELLOs are answered with in HURRIED_INTERVAL: two are needed, and nobody shall make us talk. */
const MAX_ANSWERS = 4
/** Three HELLOs missed, with some slack. */
const PEER_TIMEOUT_MS = 3500
const MARKER_REPEAT = 20

/** What the agent is told of peers without being asked. */
export interface PeerEvents {
  /** A peer switch was heard of for the first time, or has restarted. `epoch`: the highest it knows of. */
  peer(port: number, host: string, bootId: string, epoch: number): void
  /** A peer's control frame was refused for a reason that a person should know of. Once per port and reason. */
  refused?(port: number, reason: DropReason): void
}

/** Who is to know what becomes of the channels from peers: snapshots. */
export interface ChannelListener {
  markerCame(trunk: PortState, epoch: number, now: number): void
  /** It has ended or begun anew. */
  channelBroke(trunk: PortState): void
}

/** When HELLOs are due on one port. */
interface Pace {
  readonly since: number
  nextHello: number
  answersUntil: number
  answers: number
}

export class Trunks {
  readonly frames: ControlFrames
  readonly #network: Network
  readonly #listener: ChannelListener
  readonly #events: PeerEvents
  readonly #paces = new WeakMap<PortState, Pace>()

  constructor(network: Network, listener: ChannelListener, events: PeerEvents) {
    this.#network = network
    this.#listener = listener
    this.#events = events
    this.frames = new ControlFrames(network, (port, reason) => this.#events.refused?.(port, reason))
  }

  /** The peer answers, and both sides count the same frames. */
  isAlive(port: PortState, now: number): boolean {
    const { lastHeard, established } = port.channel!
    return now - lastHeard < PEER_TIMEOUT_MS && established && (port.peer === null || port.peer.established)
  }

  /** A way to a peer goes, and what was still to come over it. */
  remove(port: PortState): void {
    this.#listener.channelBroke(port)
    this.#network.remove(port)
  }

  tick(now: number): void {
    for (const port of this.#network.ports) {
      const channel = port.channel
      if (channel === null) continue
      const pace = this.#pace(port, now)
      if (now >= pace.nextHello && this.#network.fast?.postpones(port.index)) pace.nextHello = now + POSTPONED_MS
      if (now >= pace.nextHello) {
        this.greet(port, now)
        const isHeard = now - channel.lastHeard < PEER_TIMEOUT_MS
        const hurries = !channel.established && (isHeard || now - pace.since < FIRST_HELLOS)
        pace.nextHello = now + (hurries ? HURRIED_INTERVAL_MS : HELLO_INTERVAL_MS)
      }
      const marker = channel.dueMarker(now, MARKER_REPEAT)
      if (marker !== null) this.#send(port, ControlType.MARKER, marker.epoch, marker.sentBelow, now)
    }
  }

  /** Takes the color off a frame that came over a link of its own. False: it was a control frame or is dropped. */
  enter(port: PortState, frame: Frame, now: number): boolean {
    if (frame.tagTpid === EtherType.SERVICE_VLAN) {
      const vid = frame.tagTci & 0xfff
      if (vid > LAST_VID) {
        return this.#refuse(port, frame, 'tag-unknown', now)
      }
      frame.color = vid === UNCOLORED_VID ? NO_COLOR : epochOfVid(vid, this.#network.epoch)
      frame.tagTpid = 0
      frame.tagTci = 0
      if (vid === UNCOLORED_VID || port.channel!.take(generationOfVid(vid), frame.color, segmentsOf(frame))) return true
      return this.#refuse(port, frame, 'other-generation', now)
    }
    frame.color = NO_COLOR
    if (frame.tagTpid !== 0 || innerEtherType(frame) !== EtherType.CONTROL) return true
    const message = this.control(port, frame, now)
    // Nothing is agreed with a peer that has a link of its own.
    if (message?.type === ControlType.AGREEMENT) this.frames.refuse(port, frame, 'control-unexpected', now)
    return false
  }

  #refuse(port: PortState, frame: Frame, reason: DropReason, now: number): false {
    this.#network.counters[port.row + Drop[reason]]++
    this.#network.observer?.unread(port, frame, reason, now)
    return false
  }

  /**
   * A control frame has come from a peer. Returns what it says when it is believed; of its network and channel note is
   * taken.
   */
  control(port: PortState, frame: Frame, now: number): ControlMessage | null {
    const message = this.frames.open(port, frame, now)
    if (message === 'answer') {
      this.greet(port, now, true)
      return null
    }
    if (message === null) return null
    const channel = port.channel!
    switch (message.type) {
      case ControlType.HELLO: {
        const mac = frame.bytes.slice(frame.start + 6, frame.start + 12)
        const wasKnown = channel.host !== null
        const isExact = this.#network.fast?.count(port.index) ?? true
        const heard = channel.hello(message, mac, now, isExact)
        // Generations may be others by now.
        if (heard !== 'known') this.#network.fast?.outdated(port.index)
        // It is to know of us, or of what we have just heard, before the next interval.
        if (heard !== 'known') this.#answer(port, now)
        if (heard === 'new') {
          if (wasKnown) this.#listener.channelBroke(port)
          this.#events.peer(port.spec.index, message.host, message.bootId, message.epoch)
        }
        break
      }
      case ControlType.MARKER:
        if (!channel.takeMarker(message, message.epoch, now))
          return this.frames.refuse(port, frame, 'control-unexpected', now)
        this.#send(port, ControlType.MARKER_ACK, message.epoch, 0, now)
        this.#listener.markerCame(port, message.epoch, now)
        break
      case ControlType.MARKER_ACK:
        channel.acknowledged(message, message.epoch)
    }
    return message
  }

  /**
   * A HELLO at once: on a port that is new, or to a switch on a LAN. `answering`: to a boot that is not believed yet.
   */
  greet(port: PortState, now: number, answering = false): void {
    this.#network.fast?.pause(port.index)
    this.#send(port, ControlType.HELLO, this.#network.epoch, port.channel!.sent.total, now, answering)
  }

  #send(port: PortState, type: ControlType, epoch: number, count: number, now: number, answering = false): void {
    const toAll = type === ControlType.HELLO ? CONTROL_GROUP : (port.channel!.mac ?? CONTROL_GROUP)
    const words = { type, destination: port.peer?.mac ?? toAll, epoch, count, answering }
    port.output.send(this.frames.compose(port, words, now), -1)
  }

  exchange(state: StateExchange): void {
    this.frames.exchange(state)
  }

  /** How far HELLOs and handshakes have come at one port. */
  exchangePort(port: PortState, state: StateExchange): void {
    this.frames.exchangePort(port, state)
    const pace = state.value('pace', this.#paces.get(port) ?? null)
    if (state.isLoading && pace !== null) this.#paces.set(port, { ...pace })
  }

  #pace(port: PortState, now: number): Pace {
    let pace = this.#paces.get(port)
    if (pace === undefined) {
      pace = { since: now, nextHello: now, answersUntil: now, answers: 0 }
      this.#paces.set(port, pace)
    }
    return pace
  }

  #answer(port: PortState, now: number): void {
    const pace = this.#pace(port, now)
    if (now >= pace.answersUntil) {
      pace.answersUntil = now + HURRIED_INTERVAL_MS
      pace.answers = 0
    }
    if (pace.answers++ < MAX_ANSWERS) this.greet(port, now)
    else pace.nextHello = Math.min(pace.nextHello, pace.answersUntil)
  }
}
