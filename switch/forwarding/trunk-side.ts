// A forwarder's dealings with peer switches: HELLO for discovery and liveness, MARKER and MARKER_ACK for closing channels.

import { NO_END, UNCOUNTED } from '../../src/epoch/peer-channel.js'
import { appendAgreement } from '../../src/frame/agreement.js'
import {
  CONTROL_GROUP,
  type ControlMessage,
  ControlType,
  decodeControl,
  encodeControl,
} from '../../src/frame/control.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { decodeSealed, encodeSealed } from '../../src/frame/sealed-control.js'
import { Drop, type DropReason } from './counters.js'
import type { Forwarder } from './forwarder.js'
import { Handshake, Sequence } from './handshake.js'
import type { Output, PortState } from './port-state.js'
import type { ForwarderEvents } from './snapshot-side.js'

const HELLO_INTERVAL = 1000
/** While a peer that is heard has not agreed on how frames are counted; and, for FIRST_HELLOS, after a port was added. */
const HURRIED_INTERVAL = 100
const FIRST_HELLOS = 3000
/** Most HELLOs that HELLOs are answered with in HURRIED_INTERVAL: two are needed, and nobody shall make us talk. */
const MAX_ANSWERS = 4
/** Three HELLOs missed, with some slack. */
const PEER_TIMEOUT = 3500
const MARKER_REPEAT = 20

/** When HELLOs are due on one port. */
interface Pace {
  readonly since: number
  nextHello: number
  answersUntil: number
  answers: number
}

export class TrunkSide {
  private readonly forwarder: Forwarder
  private readonly events: ForwarderEvents
  private readonly frame = new Frame()
  private readonly paces = new WeakMap<PortState, Pace>()
  private readonly sequence = new Sequence()
  /** Of trunks, in networks with a key. */
  private readonly handshakes = new WeakMap<PortState, Handshake>()
  /** What was told of refused frames already. */
  private readonly told = new Set<string>()

  constructor(forwarder: Forwarder, events: ForwarderEvents) {
    this.forwarder = forwarder
    this.events = events
  }

  /** The peer answers, and both sides count the same frames. */
  isAlive(port: PortState, now: number): boolean {
    const { lastHeard, established } = port.channel!
    return now - lastHeard < PEER_TIMEOUT && established && (port.peer === null || port.peer.established)
  }

  tick(now: number): void {
    for (const port of this.forwarder.ports) {
      const channel = port.channel
      if (channel === null) continue
      const pace = this.pace(port, now)
      if (now >= pace.nextHello) {
        this.hello(port, now)
        const isHeard = now - channel.lastHeard < PEER_TIMEOUT
        const hurries = !channel.established && (isHeard || now - pace.since < FIRST_HELLOS)
        pace.nextHello = now + (hurries ? HURRIED_INTERVAL : HELLO_INTERVAL)
      }
      const marker = channel.dueMarker(now, MARKER_REPEAT)
      if (marker !== null) this.send(port, ControlType.MARKER, marker.epoch, marker.sentBelow, now)
    }
  }

  /** A control frame has come in at a trunk. Nothing in it is believed before it is decoded and its network is ours. */
  control(port: PortState, frame: Frame, now: number): void {
    const message = this.open(port, bytesOf(frame), now)
    if (message === null) return
    const channel = port.channel!
    switch (message.type) {
      case ControlType.HELLO: {
        const mac = frame.bytes.slice(frame.start + 6, frame.start + 12)
        const wasKnown = channel.host !== null
        const heard = channel.hello(message, mac, now)
        // It is to know of us, or of what we have just heard, before the next interval.
        if (heard !== 'known') this.answer(port, now)
        if (heard === 'new') {
          if (wasKnown) this.forwarder.snapshots.channelBroke(port)
          this.events.peer(port.spec.index, message.host, message.bootId, message.epoch)
        }
        if (port.peer !== null) this.forwarder.uplink!.heard(port, now)
        return
      }
      case ControlType.MARKER:
        if (!channel.takeMarker(message, message.epoch, now)) {
          this.refuse(port, 'control-unexpected')
          return
        }
        this.send(port, ControlType.MARKER_ACK, message.epoch, 0, now)
        this.forwarder.snapshots.markerCame(port, message.epoch, now)
        return
      case ControlType.MARKER_ACK:
        channel.acknowledged(message, message.epoch)
        return
      case ControlType.AGREEMENT:
        if (port.peer === null) this.refuse(port, 'control-unexpected')
        else if (!this.forwarder.uplink!.agree(port, bytesOf(frame), message.bootId, now))
          this.refuse(port, 'control-malformed')
    }
  }

  /** What a control frame from a LAN says, whoever sent it; with a key, somebody who has it. Null: refused and counted. */
  read(port: PortState, frame: Frame): ControlMessage | null {
    const { controlKey } = this.forwarder.options
    const sealed = controlKey === null ? decodeControl(bytesOf(frame)) : decodeSealed(bytesOf(frame), controlKey)
    if (typeof sealed === 'string') return this.refuse(port, sealed)
    return 'message' in sealed ? sealed.message : sealed
  }

  /** Says on a LAN that we are there. */
  discover(uplink: PortState, device: Output, now: number): void {
    const { epoch } = this.forwarder
    const words = { type: ControlType.HELLO, destination: CONTROL_GROUP, epoch, count: 0, answering: false }
    device.send(this.compose(uplink, words, now), -1)
  }

  /** A HELLO at once: on a port that is new, or to a switch on a LAN that may become a peer. */
  greet(port: PortState, now: number): void {
    this.hello(port, now)
  }

  agree(port: PortState, agreement: Uint8Array, now: number): void {
    const { epoch } = this.forwarder
    const destination = port.peer!.mac
    const words = { type: ControlType.AGREEMENT, destination, epoch, count: 0, answering: false, agreement }
    port.output.send(this.compose(port, words, now), -1)
  }

  /** The message of a frame that is to be believed; null: refused and counted, or a step of a handshake. */
  private open(port: PortState, bytes: Uint8Array, now: number): ControlMessage | null {
    const { controlKey, network, bootId } = this.forwarder.options
    const sealed = controlKey === null ? null : decodeSealed(bytes, controlKey)
    if (typeof sealed === 'string') return this.refuse(port, sealed)
    const message = sealed === null ? decodeControl(bytes) : sealed.message
    if (typeof message === 'string') return this.refuse(port, message)
    if (message.network !== network || message.bootId === bootId) return this.refuse(port, 'control-unexpected')
    if (sealed === null) return message
    const judgement = this.handshake(port).judge(sealed, message.type === ControlType.HELLO, now)
    switch (judgement) {
      case 'believed':
        return message
      case 'answer':
        this.hello(port, now, true)
        return null
      case 'ignore':
        return null
      default:
        return this.refuse(port, judgement)
    }
  }

  private refuse(port: PortState, reason: DropReason): null {
    this.forwarder.counters[port.row + Drop[reason]]++
    const key = `${port.index} ${reason}`
    // Single copies and strays are no news; another version or key is, for then the hosts do not hear one another.
    if ((reason === 'control-version' || reason === 'control-unauthenticated') && !this.told.has(key)) {
      this.told.add(key)
      this.events.refused?.(port.spec.index, reason)
    }
    return null
  }

  private handshake(port: PortState): Handshake {
    let handshake = this.handshakes.get(port)
    if (handshake === undefined) {
      handshake = new Handshake(this.forwarder.options.bootId, this.sequence)
      this.handshakes.set(port, handshake)
    }
    return handshake
  }

  /** `answering`: to a boot that is not believed yet. */
  private hello(port: PortState, now: number, answering = false): void {
    this.send(port, ControlType.HELLO, this.forwarder.epoch, port.channel!.sent.total, now, answering)
  }

  private send(port: PortState, type: ControlType, epoch: number, count: number, now: number, answering = false): void {
    const toAll = type === ControlType.HELLO ? CONTROL_GROUP : (port.channel!.mac ?? CONTROL_GROUP)
    const words: Words = { type, destination: port.peer?.mac ?? toAll, epoch, count, answering }
    port.output.send(this.compose(port, words, now), -1)
  }

  private pace(port: PortState, now: number): Pace {
    let pace = this.paces.get(port)
    if (pace === undefined) {
      pace = { since: now, nextHello: now, answersUntil: now, answers: 0 }
      this.paces.set(port, pace)
    }
    return pace
  }

  private answer(port: PortState, now: number): void {
    const pace = this.pace(port, now)
    if (now >= pace.answersUntil) {
      pace.answersUntil = now + HURRIED_INTERVAL
      pace.answers = 0
    }
    if (pace.answers++ < MAX_ANSWERS) this.hello(port, now)
    else pace.nextHello = Math.min(pace.nextHello, pace.answersUntil)
  }

  private compose(port: PortState, words: Words, now: number): Frame {
    const { network, host, bootId, controlKey } = this.forwarder.options
    const { type, destination, epoch, count, answering, agreement } = words
    const message = { type, network, host, bootId, epoch, count, ...(port.channel?.words ?? NO_CHANNEL) }
    const source = port.spec.mac
    const sealed = () => ({ message, sequence: this.sequence.next(now), heard: this.handshake(port).heard(answering) })
    const head =
      controlKey === null
        ? encodeControl(message, destination, source)
        : encodeSealed(sealed(), controlKey, destination, source)
    const body = agreement === undefined ? head : appendAgreement(head, agreement, controlKey)
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    return this.frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR })
  }
}

/** Of what is said to all switches on a LAN: it is about no channel. */
const NO_CHANNEL = { number: 0, heard: NO_END, accepts: UNCOUNTED, sends: UNCOUNTED, takes: false }

/** What a control frame is to say. */
interface Words {
  readonly type: ControlType
  readonly destination: Uint8Array
  readonly epoch: number
  readonly count: number
  /** To a boot that is not believed yet. */
  readonly answering: boolean
  readonly agreement?: Uint8Array
}

function bytesOf(frame: Frame): Uint8Array {
  return frame.bytes.subarray(frame.start, frame.start + frame.length)
}
