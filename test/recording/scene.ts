// Two or more hosts in one process, each with a forwarder that may be recorded: members and plain ports, a trunk
// between any two, and a LAN that their uplinks are on. Traffic and time are of the caller's choosing, so that a scene
// is the same each time.

import type { PortRules } from '../../src/api/schemas.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { copyFrame, Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { eventsTo, Forwarder } from '../../switch/forwarding/forwarder.js'
import { type InputName, type Inputs, performInput } from '../../switch/forwarding/inputs.js'
import type { NetworkOptions } from '../../switch/forwarding/network.js'
import type { Output, PortSpec } from '../../switch/forwarding/port-state.js'
import { RecordingFile } from '../../switch/recording/file.js'
import { checkpointOf, Recorder } from '../../switch/recording/recorder.js'
import { GrowingSink } from '../../switch/recording/sink.js'
import { defaults, type FrameWords, frame, mac } from '../forwarding/rig.js'

type Give = (sent: FrameCopy) => void

class BoundedSink extends GrowingSink {
  isFull = false

  override reserve(length: number): number {
    return this.isFull ? -1 : super.reserve(length)
  }
}

export class SceneHost {
  readonly name: string
  readonly forwarder: Forwarder
  /** How many frames each port was given. */
  readonly given: number[] = []
  /** Every so many frames to a port are refused. */
  refusesEvery = 0
  readonly #scene: Scene
  readonly #outputs: Output[] = []
  #recorder: Recorder | null = null
  #sink = new BoundedSink()
  #file = new RecordingFile()
  #written: Uint8Array[] = []
  #sends = 0

  constructor(scene: Scene, name: string, options: Partial<NetworkOptions>) {
    this.#scene = scene
    this.name = name
    const said = eventsTo((event) => this.#recorder?.said(event))
    const own = { ...defaults, ...options, host: name, bootId: name.repeat(16) }
    this.forwarder = new Forwarder(own, createCounters(), said)
  }

  get now(): number {
    return this.#scene.now
  }

  port(index: number, kind: PortSpec['kind'], give: Give = () => undefined, rules: PortRules = {}, epoch = 0): this {
    const device: Output = {
      send: (sent, serviceTci) => {
        if (this.refusesEvery > 0 && ++this.#sends % this.refusesEvery === 0) return false
        this.given[index] = (this.given[index] ?? 0) + 1
        give(onTheWire(sent, serviceTci))
        return true
      },
    }
    this.#outputs[index] = {
      send: (sent, serviceTci) =>
        this.#recorder?.send(index, device, sent, serviceTci) ?? device.send(sent, serviceTci),
    }
    const vm = kind === 'member' ? `${this.name}${index}` : null
    const uplink = kind === 'uplink' ? { uplink: { mtu: 1500, color: 'dscp' as const } } : {}
    const own = mac(this.name.charCodeAt(0) * 256 + 200 + index)
    const spec = { index, name: `${this.name}${index}`, kind, vm, epoch, mac: own, rules, ...uplink }
    this.input('addPort', { spec, now: this.now })
    return this
  }

  input<Name extends InputName>(name: Name, args: Inputs[Name]['args']): Inputs[Name]['result'] {
    const at = { outputOf: (port: number) => this.#outputs[port] }
    if (this.#recorder === null) return performInput(this.forwarder, name, args, at)
    return this.#recorder.perform(name, args, at)
  }

  receive(port: number, came: Frame): void {
    ;(this.#recorder ?? this.forwarder).receive(port, came, this.now)
  }

  /** A guest behind a port sends. */
  send(port: number, words: FrameWords): void {
    this.receive(port, frame({ from: this.macOf(port), ...words }))
  }

  macOf(port: number): Uint8Array {
    return mac(this.name.charCodeAt(0) * 256 + port)
  }

  tick(): void {
    ;(this.#recorder ?? this.forwarder).tick(this.now)
  }

  record(): void {
    this.#file = new RecordingFile()
    this.#sink = new BoundedSink()
    const { options } = this.forwarder.network
    this.#written = [this.#file.begin({ version: 'test', options }, checkpointOf(this.forwarder))]
    this.#recorder = new Recorder(this.forwarder, this.#sink)
  }

  /** From now on nothing finds room, until `goOn`. */
  fill(): void {
    this.#sink.isFull = true
  }

  /** There is room again: as `Core.continueRecording` and who has asked for it. */
  goOn(): void {
    const { missed, frames } = this.#recorder!
    const { options } = this.forwarder.network
    this.#written.push(
      this.#file.blocks(this.#sink.written()),
      this.#file.begin({ version: 'test', options, missed }, checkpointOf(this.forwarder)),
    )
    this.#sink = new BoundedSink()
    this.#recorder = new Recorder(this.forwarder, this.#sink, frames)
  }

  /** Ends the recording: its file. */
  recorded(): Uint8Array {
    const recorder = this.#recorder!
    recorder.mark()
    this.#recorder = null
    const blocks = this.#file.blocks(this.#sink.written())
    const end = [this.#file.checksum(), this.#file.end({ reason: 'asked', frames: recorder.frames })]
    // No Buffer, whose slices are no copies.
    return new Uint8Array(Buffer.concat([...this.#written, blocks, ...end]))
  }
}

export class Scene {
  now = 1_700_000_000_000
  readonly hosts: SceneHost[] = []
  /** What is on its way. */
  readonly #wire: (() => void)[] = []
  readonly #lan: { readonly name: string; readonly receive: Give }[] = []

  host(name: string, options: Partial<NetworkOptions> = {}): SceneHost {
    const host = new SceneHost(this, name, options)
    this.hosts.push(host)
    return host
  }

  trunk(a: SceneHost, portA: number, b: SceneHost, portB: number): void {
    a.port(portA, 'trunk', (sent) => this.#put(() => b.receive(portB, new Frame().pointAt(sent))))
    b.port(portB, 'trunk', (sent) => this.#put(() => a.receive(portA, new Frame().pointAt(sent))))
  }

  uplink(host: SceneHost, port: number): void {
    const give = (sent: FrameCopy) => host.receive(port, new Frame().pointAt({ ...sent, bytes: sent.bytes.slice() }))
    this.#lan.push({ name: host.name, receive: give })
    host.port(port, 'uplink', (sent) => this.broadcast(host.name, sent))
  }

  /** Somebody on the LAN sends, and all others hear it. */
  broadcast(from: string, sent: FrameCopy): void {
    for (const { name, receive } of this.#lan) if (name !== from) this.#put(() => receive(sent))
  }

  #put(arrive: () => void): void {
    this.#wire.push(arrive)
  }

  /** All that is on its way arrives, and what comes of it. */
  run(): void {
    for (let arrive = this.#wire.shift(); arrive !== undefined; arrive = this.#wire.shift()) arrive()
  }

  /** Frames stay on their way for as long as `act` takes. */
  pass(ms: number, step = 100): void {
    for (const end = this.now + ms; this.now < end; ) {
      // Not a whole number: times are given to the last bit.
      this.now += step + 0.0078125
      for (const host of this.hosts) host.tick()
      this.run()
    }
  }
}

/** As the kernel gives it to the next one: the outer tag beside the frame, an inner one in it. */
function onTheWire(sent: Frame, serviceTci: number): FrameCopy {
  const copy = copyFrame(sent)
  if (serviceTci < 0) return copy
  const tag = { tagTpid: EtherType.SERVICE_VLAN, tagTci: serviceTci, color: 0 }
  if (sent.tagTpid === 0) return { bytes: copy.bytes, ...tag }
  const at = VNET_HEADER_LENGTH + 12
  const inner = Uint8Array.of(sent.tagTpid >> 8, sent.tagTpid & 255, sent.tagTci >> 8, sent.tagTci & 255)
  return { bytes: Buffer.concat([copy.bytes.subarray(0, at), inner, copy.bytes.subarray(at)]), ...tag }
}

/** Numbers that are the same each time (xorshift32). */
export function dice(seed: number): (sides: number) => number {
  let state = seed | 1
  return (sides) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % sides
  }
}
