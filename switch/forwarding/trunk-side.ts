// A forwarder's dealings with peer switches: HELLO for discovery and liveness, MARKER and MARKER_ACK for closing channels.

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
/** Three HELLOs missed, with some slack. */
const PEER_TIMEOUT = 3500
const MARKER_REPEAT = 20

export class TrunkSide {
  private readonly forwarder: Forwarder
  private readonly events: ForwarderEvents
  private readonly frame = new Frame()
  private nextHello = Number.NEGATIVE_INFINITY
  private readonly sequence = new Sequence()
  /** Of trunks, in networks with a key. */
  private readonly handshakes = new WeakMap<PortState, Handshake>()
  /** What was told of refused frames already. */
  private readonly told = new Set<string>()

  constructor(forwarder: Forwarder, events: ForwarderEvents) {
    this.forwarder = forwarder
    this.events = events
  }

  isAlive(port: PortState, now: number): boolean {
    return now - port.channel!.lastHeard < PEER_TIMEOUT && (port.peer === null || port.peer.established)
  }

  tick(now: number): void {
    const helloDue = now >= this.nextHello
    if (helloDue) this.nextHello = now + HELLO_INTERVAL
    for (const port of this.forwarder.ports) {
      const channel = port.channel
      if (channel === null) continue
      if (helloDue) this.hello(port, now)
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
        if (channel.hello(message.host, message.bootId, mac, message.count, now)) {
          // New to us, so we may be new to it: answer at once instead of at the next interval.
          this.hello(port, now)
          this.events.peer(port.spec.index, message.host, message.bootId, message.epoch)
        }
        if (port.peer !== null) this.forwarder.uplink!.heard(port, now)
        return
      }
      case ControlType.MARKER:
        if (!channel.takeMarker(message.bootId, message.epoch, message.count, now)) {
          this.refuse(port, 'control-unexpected')
          return
        }
        this.send(port, ControlType.MARKER_ACK, message.epoch, 0, now)
        this.forwarder.snapshots.markerCame(port, message.epoch, now)
        return
      case ControlType.MARKER_ACK:
        if (message.bootId === channel.bootId) channel.acknowledged(message.epoch)
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

  /** A HELLO to one switch on a LAN that may become a peer. */
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

  private compose(port: PortState, words: Words, now: number): Frame {
    const { network, host, bootId, controlKey } = this.forwarder.options
    const { type, destination, epoch, count, answering, agreement } = words
    const message = { type, network, host, bootId, epoch, count }
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
