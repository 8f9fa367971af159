// A forwarder on a bench: ports that write down what they are given, events written down, frames made of a few words.

import type { PortRules } from '../../src/api/schemas.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Counter, createCounters, Drop, ROW } from '../../switch/forwarding/counters.js'
import { Forwarder, type ForwarderEvent } from '../../switch/forwarding/forwarder.js'
import type { NetworkOptions } from '../../switch/forwarding/network.js'
import type { Output } from '../../switch/forwarding/port-state.js'

export const GROUP = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
export const mac = (n: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, n >> 8, n & 0xff)

export interface FrameWords {
  readonly to?: Uint8Array
  readonly from?: Uint8Array
  readonly type?: number
  /** What tells frames apart: the first four bytes of the payload. */
  readonly id?: number
  /** A tag beside the frame, as the kernel gives it. */
  readonly tag?: readonly [tpid: number, tci: number]
  readonly payload?: Uint8Array
  readonly gso?: boolean
}

export function frame(words: FrameWords): Frame {
  const { to = GROUP, from = mac(1), type = EtherType.IPV4, id = 0, tag, payload = new Uint8Array(46), gso } = words
  const bytes = new Uint8Array(VNET_HEADER_LENGTH + 14 + payload.length)
  if (gso) bytes[1] = 1
  bytes.set(to, VNET_HEADER_LENGTH)
  bytes.set(from, VNET_HEADER_LENGTH + 6)
  const view = new DataView(bytes.buffer)
  view.setUint16(VNET_HEADER_LENGTH + 12, type)
  bytes.set(payload, VNET_HEADER_LENGTH + 14)
  if (words.payload === undefined) view.setUint32(VNET_HEADER_LENGTH + 14, id)
  return new Frame().pointAt({ bytes, tagTpid: tag?.[0] ?? 0, tagTci: tag?.[1] ?? 0, color: 12345 })
}

export interface Sent {
  readonly id: number
  /** From the destination address on; the tag beside the frame is not in it. */
  readonly bytes: Uint8Array
  readonly tagTpid: number
  readonly tagTci: number
  /** The service tag pushed, or -1. */
  readonly serviceTci: number
  /** The virtio-net header. */
  readonly vnet: Uint8Array
}

export class RecordingOutput implements Output {
  sent: Sent[] = []
  /** When set, every frame is refused, as by a port whose device is gone. */
  refuses = false
  /** Where the frames of this batch lie: a port sends them from there when the batch is flushed. */
  readonly #lying: { readonly bytes: Uint8Array; readonly asSent: Uint8Array }[] = []

  /** Ends a batch. False: a frame has been changed where it lay, after it was handed to the port. */
  flush(): boolean {
    const whole = this.#lying.every(({ bytes, asSent }) => bytes.every((byte, at) => byte === asSent[at]))
    this.#lying.length = 0
    return whole
  }

  send(sending: Frame, serviceTci: number): boolean {
    if (this.refuses) return false
    // With a tag to be put in, the head is copied at once.
    if (sending.tagTpid === 0 && serviceTci < 0) {
      const lies = sending.bytes.subarray(sending.vnet, sending.start + sending.length)
      this.#lying.push({ bytes: lies, asSent: lies.slice() })
    }
    const bytes = sending.bytes.slice(sending.start, sending.start + sending.length)
    const id = bytes.length < 18 ? -1 : new DataView(bytes.buffer).getUint32(14)
    const vnet = sending.bytes.slice(sending.vnet, sending.vnet + VNET_HEADER_LENGTH)
    this.sent.push({ id, vnet, bytes, tagTpid: sending.tagTpid, tagTci: sending.tagTci, serviceTci })
    return true
  }

  /** What was sent since the last call. */
  take(): Sent[] {
    const sent = this.sent
    this.sent = []
    return sent
  }

  ids(): number[] {
    return this.take().map(({ id }) => id)
  }
}

/** Refusals are in `refused`. */
export type RigEvent = Exclude<ForwarderEvent, { readonly kind: 'refused' }>

export const defaults: NetworkOptions = {
  network: 'lab0',
  host: 'a',
  bootId: 'aaaaaaaaaaaaaaaa',
  bootedAt: 1_700_000_000_000,
  linkLocal: 'forward',
  pause: 'drop',
  transit: false,
  fdb: { capacity: 1024, perPort: 512, ageing: 300 },
  hold: { frames: 1000, bytes: 1 << 20 },
  networkHold: { frames: 1e6, bytes: 1e9 },
  record: { frames: 1000, bytes: 1 << 20 },
  closureDeadline: 200,
  controlKey: null,
}

export type Kind = 'member' | 'plain' | 'trunk' | 'host'

export class Rig {
  readonly forwarder: Forwarder
  readonly counters = createCounters()
  readonly outputs: RecordingOutput[] = []
  readonly events: RigEvent[] = []
  /** What the forwarder has said of control frames that it refused. */
  readonly refused: string[] = []
  now = 1_700_000_000_000

  /** Ports get the indexes 0, 1, …; every member belongs to a VM of its own, `vm<index>`. */
  constructor(kinds: readonly Kind[], options: Partial<NetworkOptions> = {}, epoch = 0) {
    this.forwarder = new Forwarder({ ...defaults, ...options }, this.counters, {
      early: (port, epoch) => this.events.push({ kind: 'early', port, epoch }),
      peer: (port, host, bootId, epoch) => this.events.push({ kind: 'peer', port, host, bootId, epoch }),
      closed: (epoch, closures) => this.events.push({ kind: 'closed', epoch, closures }),
      broken: (epoch, port, host) => this.events.push({ kind: 'broken', epoch, port, host }),
      refused: (port, reason) => this.refused.push(`${port} ${reason}`),
    })
    this.forwarder.network.raiseEpoch(epoch)
    for (const [index, kind] of kinds.entries()) this.add(index, kind, epoch)
  }

  add(index: number, kind: Kind, epoch = 0, rules: PortRules = {}): void {
    const output = new RecordingOutput()
    this.outputs[index] = output
    const vm = kind === 'member' ? `vm${index}` : null
    const spec = { index, name: `p${index}`, kind, vm, epoch, mac: mac(0xff00 + index), rules }
    this.forwarder.addPort(spec, output)
  }

  receive(port: number, words: FrameWords): void {
    this.#receive(port, frame(words))
  }

  #receive(port: number, made: Frame): void {
    this.forwarder.receive(port, made, this.now)
    for (const [index, output] of this.outputs.entries()) {
      if (output?.flush() === false)
        throw new Error(`a frame that port ${index} was given has been changed where it lay`)
    }
  }

  /** The same, its checksum left to be finished from `checksum` on, and headers up to there and 4 more with `gso`. */
  receiveWith(port: number, words: FrameWords, { checksum, gso }: { checksum?: number; gso?: boolean }): void {
    const made = frame(words)
    const header = new DataView(made.bytes.buffer)
    if (checksum !== undefined) {
      made.bytes[0] = 1
      header.setUint16(6, checksum, true)
    }
    if (gso === true && checksum !== undefined) {
      made.bytes[1] = 3
      header.setUint16(2, checksum + 4, true)
    }
    this.#receive(port, made)
  }

  /** Ids sent to each port since the last call. */
  ids(): number[][] {
    return this.outputs.map((output) => output.ids())
  }

  clear(): void {
    for (const output of this.outputs) output.take()
    this.events.length = 0
  }

  tick(after = 0): void {
    this.now += after
    this.forwarder.tick(this.now)
  }

  drops(port: number, reason: keyof typeof Drop): number {
    return this.counters[port * ROW + Drop[reason]]
  }

  count(port: number, field: keyof typeof Counter): number {
    return this.counters[port * ROW + Counter[field]]
  }
}
