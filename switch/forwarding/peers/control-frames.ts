// Control frames between switches, made and read: with the network's key they are sealed, and those of peers are
// believed by the rules in handshake.ts. What they mean is for trunks.ts and uplink.ts.

import { NO_END, UNCOUNTED } from '../../../src/epoch/peer-channel.js'
import type { StateExchange } from '../../../src/epoch/state.js'
import { appendAgreement } from '../../../src/frame/agreement.js'
import { type ControlMessage, ControlType, decodeControl, encodeControl } from '../../../src/frame/control.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { decodeSealed, encodeSealed } from '../../../src/frame/sealed-control.js'
import { Drop, type DropReason } from '../counters.js'
import type { Network } from '../network.js'
import type { PortState } from '../port-state.js'
import { Handshake, Sequence } from './handshake.js'

/** Of what is said to all switches on a LAN: it is about no channel. */
const NO_CHANNEL = { heard: NO_END, accepts: UNCOUNTED, sends: UNCOUNTED, takes: false }

/** What a control frame is to say. */
export interface Words {
  readonly type: ControlType
  readonly destination: Uint8Array
  readonly epoch: number
  readonly count: number
  /** To a boot that is not believed yet. */
  readonly answering?: boolean
  readonly agreement?: Uint8Array
  /** Of what is said to all: the sender's ends on this LAN have higher ones. */
  readonly number?: number
}

export class ControlFrames {
  readonly #network: Network
  readonly #refused: (port: number, reason: DropReason) => void
  readonly #frame = new Frame()
  readonly #sequence = new Sequence()
  /** Of trunks, in networks with a key. */
  readonly #handshakes = new WeakMap<PortState, Handshake>()
  /** What was told of refused frames already. */
  readonly #told = new Set<string>()

  /** `refused`: told once per port and reason, of what a person should know. */
  constructor(network: Network, refused: (port: number, reason: DropReason) => void) {
    this.#network = network
    this.#refused = refused
  }

  /** The frame that says these words at a port; good until the next one is made. */
  compose(port: PortState, words: Words, now: number): Frame {
    const { network, host, bootId, controlKey } = this.#network.options
    const { type, destination, epoch, count, answering = false, agreement, number = 0 } = words
    const message = { type, network, host, bootId, epoch, count, ...(port.channel?.words ?? { ...NO_CHANNEL, number }) }
    const source = port.spec.mac
    const sealed = () => ({
      message,
      sequence: this.#sequence.next(now),
      heard: this.#handshake(port).heard(answering),
    })
    const head =
      controlKey === null
        ? encodeControl(message, destination, source)
        : encodeSealed(sealed(), controlKey, destination, source)
    const body = agreement === undefined ? head : appendAgreement(head, agreement, controlKey)
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    return this.#frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR })
  }

  /**
   * What a control frame from a LAN says, whoever sent it; with a key, somebody who has it. Null: refused and counted.
   */
  read(port: PortState, frame: Frame, now: number): ControlMessage | null {
    const { controlKey } = this.#network.options
    const sealed = controlKey === null ? decodeControl(bytesOf(frame)) : decodeSealed(bytesOf(frame), controlKey)
    if (typeof sealed === 'string') return this.refuse(port, frame, sealed, now)
    return 'message' in sealed ? sealed.message : sealed
  }

  /**
   * The message of a frame from a peer that is to be believed. 'answer': it is not yet, but to be answered with a
   * HELLO. Null: refused and counted, or a step of a handshake.
   */
  open(port: PortState, frame: Frame, now: number): ControlMessage | 'answer' | null {
    const bytes = bytesOf(frame)
    const { controlKey, network, bootId } = this.#network.options
    const sealed = controlKey === null ? null : decodeSealed(bytes, controlKey)
    if (typeof sealed === 'string') return this.refuse(port, frame, sealed, now)
    const message = sealed === null ? decodeControl(bytes) : sealed.message
    if (typeof message === 'string') return this.refuse(port, frame, message, now)
    if (message.network !== network || message.bootId === bootId)
      return this.refuse(port, frame, 'control-unexpected', now)
    if (sealed === null) return message
    const judgement = this.#handshake(port).judge(sealed, message.type === ControlType.HELLO, now)
    switch (judgement) {
      case 'believed':
        return message
      case 'answer':
        return judgement
      case 'ignore':
        return null
      default:
        return this.refuse(port, frame, judgement, now)
    }
  }

  refuse(port: PortState, frame: Frame, reason: DropReason, now: number): null {
    this.#network.counters[port.row + Drop[reason]]++
    this.#network.observer?.unread(port, frame, reason, now)
    const key = `${port.index} ${reason}`
    // Single copies and strays are no news; another version or key is, for then the hosts do not hear one another.
    if ((reason === 'control-version' || reason === 'control-unauthenticated') && !this.#told.has(key)) {
      this.#told.add(key)
      this.#refused(port.spec.index, reason)
    }
    return null
  }

  exchange(state: StateExchange): void {
    this.#sequence.exchange(state)
    const told = state.value('told', [...this.#told])
    if (state.isLoading) for (const key of told) this.#told.add(key)
  }

  /** What is known of the boots behind one port. */
  exchangePort(port: PortState, state: StateExchange): void {
    if (state.value('hasHandshake', this.#handshakes.has(port)))
      state.part('handshake', (part) => this.#handshake(port).exchange(part))
  }

  #handshake(port: PortState): Handshake {
    let handshake = this.#handshakes.get(port)
    if (handshake === undefined) {
      handshake = new Handshake(this.#network.options.bootId, this.#sequence)
      this.#handshakes.set(port, handshake)
    }
    return handshake
  }
}

export function bytesOf(frame: Frame): Uint8Array {
  return frame.bytes.subarray(frame.start, frame.start + frame.length)
}
