// One network in the forwarding thread: its forwarder, its ports, and the recorder that all goes through while a run is
// recorded. Without one, frames and time go to the forwarder directly.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { Frame } from '../../src/frame/frame.js'
import { RingWriter } from '../capture/record-ring.js'
import type { DropReason } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import { type InputName, type Inputs, performInput } from '../forwarding/inputs.js'
import type { Output } from '../forwarding/port-state.js'
import { checkpointOf, Recorder } from '../recording/recorder.js'
import { RingSink } from '../recording/sink.js'
import type { Port } from './port/port.js'
import type { Commands } from './protocol.js'
import type { Unsent } from './unsent.js'

/** Who is handed the frames and the time of a network. */
export type Forwarding = Pick<Forwarder, 'receive' | 'tick' | 'isCalm' | 'snapshots'>

/** Who wants every frame. */
const RECORDING = 'a recording'

/** Where the forwarder's frames for a port go. */
class PortOutput implements Output {
  readonly index: number
  readonly port: Port
  recorder: Recorder | null
  readonly #unsent: Unsent

  constructor(index: number, port: Port, recorder: Recorder | null, unsent: Unsent) {
    this.index = index
    this.port = port
    this.recorder = recorder
    this.#unsent = unsent
  }

  get refusal(): DropReason {
    return this.port.refusal ?? 'tx-error'
  }

  send(frame: Frame, serviceTci: number): boolean {
    const { recorder } = this
    this.#unsent.note(this.port)
    return recorder === null
      ? this.port.send(frame, serviceTci)
      : recorder.send(this.index, this.port, frame, serviceTci)
  }
}

export class Core {
  readonly forwarder: Forwarder
  readonly ports = new Map<number, Port>()
  readonly #outputs = new Map<number, PortOutput>()
  readonly #unsent: Unsent
  #recorder: Recorder | null = null

  constructor(forwarder: Forwarder, unsent: Unsent) {
    this.forwarder = forwarder
    this.#unsent = unsent
  }

  get forwarding(): Forwarding {
    return this.#recorder ?? this.forwarder
  }

  /** Before the forwarder is told of it. */
  add(index: number, port: Port): void {
    this.ports.set(index, port)
    this.#outputs.set(index, new PortOutput(index, port, this.#recorder, this.#unsent))
  }

  remove(index: number): void {
    this.ports.delete(index)
    this.#outputs.delete(index)
  }

  perform<Name extends InputName>(
    name: Name,
    args: Inputs[Name]['args'],
    events: SharedArrayBuffer | null = null,
  ): Inputs[Name]['result'] {
    const at = { outputOf: this.#outputOf, events }
    return this.#recorder === null
      ? performInput(this.forwarder, name, args, at)
      : this.#recorder.perform(name, args, at)
  }

  readonly #outputOf = (index: number): Output => this.#outputs.get(index)!

  /** The forwarder has said something of its own accord. */
  said(event: unknown): void {
    this.#recorder?.said(event)
  }

  /** `withKey`: the network's key may be in it. Throws RECORDING_BUSY, RECORDING_KEY. */
  record(memory: SharedArrayBuffer, withKey: boolean): Commands['startRecording']['result'] {
    const { network, snapshots } = this.forwarder
    const why = this.#recorder === null ? snapshots.unsaved : 'a recording of it runs already'
    if (why !== null) {
      throw new SnapswitchError(
        'RECORDING_BUSY',
        `network ${network.options.network} cannot be recorded now: ${why}`,
        'Begin before it or after it: a recording that has begun goes on through snapshots and restores.',
      )
    }
    if (network.options.controlKey !== null && !withKey) {
      throw new SnapswitchError(
        'RECORDING_KEY',
        `the control frames of network ${network.options.network} cannot be replayed without its key, which would be in the file`,
        '--with-key allows it: keep the file as you keep the key.',
      )
    }
    network.wantEveryFrame(RECORDING, true)
    const result = { options: network.options, checkpoint: checkpointOf(this.forwarder) }
    this.#use(new Recorder(this.forwarder, new RingSink(new RingWriter(memory))))
    return result
  }

  /**
   * After something found no room: the recording goes on in the same memory, from the state on that is the result.
   * Null: not now, or there is none that has to.
   */
  continueRecording(memory: SharedArrayBuffer): Commands['continueRecording']['result'] {
    const before = this.#recorder
    const { network, snapshots } = this.forwarder
    if (before === null || !before.isFull || snapshots.unsaved !== null) return null
    const { missed, frames } = before
    const result = { options: network.options, checkpoint: checkpointOf(this.forwarder), missed }
    this.#use(new Recorder(this.forwarder, new RingSink(new RingWriter(memory)), frames))
    return result
  }

  /** Ends the recording, if there is one. */
  endRecording(): Commands['endRecording']['result'] {
    const recorder = this.#recorder
    recorder?.mark()
    this.#use(null)
    this.forwarder.network.wantEveryFrame(RECORDING, false)
    return { frames: recorder?.frames ?? 0, isFull: recorder?.isFull ?? false }
  }

  #use(recorder: Recorder | null): void {
    this.#recorder = recorder
    for (const output of this.#outputs.values()) output.recorder = recorder
  }
}
