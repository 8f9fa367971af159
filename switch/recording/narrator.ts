// What an input of a run does, in words: the frame, and what became of it at each port, with the rule that decided it.

import { VLAN_TAG_LENGTH } from '../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../src/frame/frame.js'
import { frameInWords } from '../../src/frame/summary.js'
import { Event, eventKinds } from '../../src/trace/events.js'
import type { DropReason } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import type { FrameObserver } from '../forwarding/observer.js'
import type { PortState } from '../forwarding/port-state.js'
import type { ReplayObserver } from './replay.js'
import type { Input } from './run-reader.js'

const ADDRESSES = 12

/** Attached to one replay; asked for the lines of the input that was performed last. */
export class Narrator implements ReplayObserver, FrameObserver {
  readonly #nameOf: (port: number) => string
  #startMs = Number.NaN
  #lines: string[] = []
  /** Frames that came in a gap before the next input. */
  #missed: number | null = null

  constructor(nameOf: (port: number) => string) {
    this.#nameOf = nameOf
  }

  /** Of the last input, the input itself first. */
  get lines(): readonly string[] {
    return this.#lines
  }

  begins({ network }: Forwarder, missed: number | null): void {
    network.observe(this)
    this.#missed = missed
  }

  /** Times are told from the first input on: of each, whether it is told of or not. */
  starts(input: Readonly<Input>): void {
    if (Number.isNaN(this.#startMs)) this.#startMs = input.now
  }

  coming(input: Readonly<Input>, frame: Frame | null): void {
    this.starts(input)
    const at = `${((input.now - this.#startMs) / 1000).toFixed(6)} s`
    const what =
      frame === null
        ? `${input.kind}${input.args === null ? '' : ` ${brief(input.args)}`}`
        : `frame ${input.frame} at ${this.#nameOf(input.port)}: ${inWords(frame)}`
    const gap = this.#missed === null ? [] : [gapInWords(this.#missed)]
    this.#missed = null
    this.#lines = [...gap, `#${input.number} ${at} ${what}`]
  }

  skipped(): void {
    this.#say('is left out: the port is not there')
  }

  sending(port: number, frame: Frame, serviceTci: number, taken: boolean): void {
    const tag = serviceTci < 0 ? '' : `, color tag ${serviceTci & 0xfff}`
    this.#say(`${taken ? 'leaves by' : 'is not taken by'} ${this.#nameOf(port)}: ${inWords(frame)}${tag}`)
  }

  said(event: object): void {
    this.#say(`tells ${brief(event)}`)
  }

  at(): void {}
  lies(): void {}
  gone(): void {}

  came(port: PortState, frame: Frame): void {
    this.#say(`came from ${this.#of(port)} ${color(frame)}`)
  }

  refused(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#say(`is turned away at ${this.#of(port)}: ${reason}`)
  }

  unread(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#say(`is turned away at ${this.#of(port)}: ${reason}`)
  }

  left(): void {
    // `sending` has said it.
  }

  dropped(port: PortState, frame: Frame, reason: DropReason): void {
    this.#say(`is dropped at ${this.#of(port)}, ${color(frame)}, port at epoch ${port.epoch}: ${reason}`)
  }

  leftOut(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#say(`is not for ${this.#of(port)}: ${reason}`)
  }

  note(kind: number, port: PortState, frame: Frame): void {
    const gate = port.closed ? ', gate closed' : ''
    const where = `${this.#of(port)}, ${color(frame)}, port at epoch ${port.epoch}${gate}`
    this.#say(kind === Event.held ? `is held for ${where}` : `is ${eventKinds[kind]} at ${where}`)
  }

  mark(kind: number, port: PortState | null, epoch: number): void {
    this.#say(`${eventKinds[kind]}${port === null ? '' : ` ${this.#of(port)}`}, epoch ${epoch}`)
  }

  #of(port: PortState): string {
    const name = this.#nameOf(port.spec.index)
    return port.peer === null ? name : `${name} to ${port.channel?.host ?? 'a peer'}`
  }

  #say(line: string): void {
    this.#lines.push(`  ${line}`)
  }
}

/** `missed`: frames that came in it. */
export function gapInWords(missed: number): string {
  return `a gap: ${missed} frames were not recorded; from here on the run goes on with the switch as it was then`
}

function color(frame: Frame): string {
  return frame.color === NO_COLOR ? 'without a color' : `color ${frame.color}`
}

/** As it is on the wire, the tag that lies beside it in it. */
export function wireBytes({ bytes, start, length, tagTpid, tagTci }: Frame): Buffer {
  const own = Buffer.from(bytes.subarray(start, start + length))
  if (tagTpid === 0 || length < ADDRESSES) return own
  const tag = Buffer.alloc(VLAN_TAG_LENGTH)
  tag.writeUInt16BE(tagTpid, 0)
  tag.writeUInt16BE(tagTci, 2)
  return Buffer.concat([own.subarray(0, ADDRESSES), tag, own.subarray(ADDRESSES)])
}

function inWords(frame: Frame): string {
  const bytes = wireBytes(frame)
  return frameInWords(bytes, bytes.length)
}

const MOST = 160

/** Plain data, short; times and bytes are not what one looks for. */
function brief(value: object): string {
  const text = JSON.stringify(value, (name, found: unknown) => {
    if (name === 'now') return undefined
    return found instanceof Uint8Array ? Buffer.from(found).toString('hex') : found
  })
  return text.length > MOST ? `${text.slice(0, MOST)}…` : text
}
