// Writes down what enters a forwarder, in its place: whoever hands frames, time and commands to the forwarder hands
// them to this instead, which writes each down and passes it on. Nothing is allocated per frame. When something finds
// no room, nothing is written any more, and the frames pass all the same.

import type { Frame } from '../../src/frame/frame.js'
import { BLOCK, LINKTYPE_ETHERNET, OPTION, paddingOf } from '../../src/trace/pcapng.js'
import { ROW } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import { type InputName, type InputSurroundings, type Inputs, performInput } from '../forwarding/inputs.js'
import type { Output, PortSpec } from '../forwarding/port-state.js'
import {
  beginRecordBlock,
  type Checkpoint,
  frameBlockLength,
  Kind,
  PORT_OPTION,
  recordBlockLength,
  writeFrameBlock,
} from './format.js'
import { encodePlain } from './plain-json.js'
import type { RecordSink } from './sink.js'
import { Witness } from './witness.js'

/** Frames after which the digest is marked, at most; it is at every tick, too. */
const MARK_FRAMES = 1024
/** Room for a 64 KiB GSO frame. */
const SNAP_LENGTH = 262_144

export class Recorder {
  /** Frames written down, those before a gap among them. */
  frames: number
  /** Frames that came since something found no room. */
  missed = 0
  /** Something found no room: all before it is whole. */
  isFull = false
  readonly #forwarder: Forwarder
  readonly #sink: RecordSink
  readonly #witness: Witness
  /** By port: its interface. */
  readonly #interfaces: number[] = []
  #interfaceCount = 0
  #sinceMark = 0

  /** `frames`: written down before a gap. */
  constructor(forwarder: Forwarder, sink: RecordSink, frames = 0) {
    this.frames = frames
    this.#forwarder = forwarder
    this.#sink = sink
    this.#witness = new Witness(() => forwarder)
    for (const { peer, spec } of forwarder.ports) if (peer === null) this.#declare(spec)
  }

  get snapshots(): Forwarder['snapshots'] {
    return this.#forwarder.snapshots
  }

  receive(port: number, frame: Frame, now: number): void {
    if (!this.isFull) {
      const sink = this.#sink
      const at = sink.reserve(frameBlockLength(frame))
      if (at < 0) this.isFull = true
      else {
        writeFrameBlock(sink, at, this.#interfaces[port], frame, now, this.frames++)
        sink.commit()
      }
    }
    if (this.isFull) this.missed++
    this.#witness.begin()
    this.#forwarder.receive(port, frame, now)
    if (++this.#sinceMark >= MARK_FRAMES) this.mark()
  }

  /** What was recorded is marked at every tick. */
  get isCalm(): boolean {
    return false
  }

  tick(now: number): void {
    const sink = this.#sink
    const at = this.#begin(Kind.TICK, 8)
    if (at >= 0) {
      sink.view.setFloat64(at, now, true)
      sink.commit()
    }
    this.#witness.begin()
    this.#forwarder.tick(now)
    this.#sinceMark++
    this.mark()
  }

  perform<Name extends InputName>(
    name: Name,
    args: Inputs[Name]['args'],
    at: InputSurroundings,
  ): Inputs[Name]['result'] {
    if (name === 'addPort') this.#declare((args as Inputs['addPort']['args']).spec)
    this.#record(Kind.INPUT, encodePlain([name, args]))
    this.#witness.begin()
    const result = performInput(this.#forwarder, name, args, at)
    this.#witness.said(result)
    this.#sinceMark++
    return result
  }

  /** The forwarder has said something of its own accord. */
  said(event: unknown): void {
    this.#witness.said(event)
  }

  /** What a port's frames go through while they are recorded. */
  send(port: number, output: Output, frame: Frame, serviceTci: number): boolean {
    const number = this.#witness.sending(port, frame, serviceTci)
    if (output.send(frame, serviceTci)) return true
    this.#witness.refused()
    const at = this.#begin(Kind.REFUSED, 4)
    if (at >= 0) {
      this.#sink.view.setUint32(at, number, true)
      this.#sink.commit()
    }
    return false
  }

  /** Writes the digest so far, if there is anything new in it. */
  mark(): void {
    if (this.#sinceMark === 0) return
    this.#witness.mark()
    const at = this.#begin(Kind.MARK, 20)
    if (at >= 0) {
      this.#sink.view.setUint32(at, this.#sinceMark, true)
      this.#witness.digest.write(this.#sink.view, at + 4)
      this.#sink.commit()
    }
    this.#sinceMark = 0
  }

  #record(kind: number, payload: Uint8Array): void {
    const at = this.#begin(kind, payload.length)
    if (at < 0) return
    this.#sink.bytes.set(payload, at)
    this.#sink.commit()
  }

  #begin(kind: number, length: number): number {
    if (this.isFull) return -1
    const at = this.#sink.reserve(recordBlockLength(length))
    if (at >= 0) return beginRecordBlock(this.#sink, at, kind, length)
    this.isFull = true
    return -1
  }

  /** An interface block: ports that come later have theirs where they come. */
  #declare({ index, name, kind, vm }: PortSpec): void {
    if (this.isFull) return
    const text = new TextEncoder()
    const options: [code: number, value: Uint8Array][] = [
      [OPTION.interfaceName, text.encode(name)],
      [
        OPTION.interfaceDescription,
        text.encode(vm === null ? `${kind} port ${index}` : `${kind} port ${index} of ${vm}`),
      ],
      [OPTION.interfaceTimeResolution, Uint8Array.of(6)],
      [PORT_OPTION, Uint8Array.of(index & 0xff, index >> 8, 0, 0)],
    ]
    const sizes = options.map(([, value]) => 4 + value.length + paddingOf(value.length))
    const total = 20 + sizes.reduce((sum, size) => sum + size, 4)
    const sink = this.#sink
    const start = sink.reserve(total)
    if (start < 0) {
      this.isFull = true
      return
    }
    const { bytes, view } = sink
    bytes.fill(0, start, start + total)
    view.setUint32(start, BLOCK.interface, true)
    view.setUint32(start + 4, total, true)
    view.setUint16(start + 8, LINKTYPE_ETHERNET, true)
    view.setUint32(start + 12, SNAP_LENGTH, true)
    let at = start + 16
    for (const [i, [code, value]] of options.entries()) {
      view.setUint16(at, code, true)
      view.setUint16(at + 2, value.length, true)
      bytes.set(value, at + 4)
      at += sizes[i]
    }
    view.setUint32(start + total - 4, total, true)
    sink.commit()
    this.#interfaces[index] = this.#interfaceCount++
  }
}

/** What the forwarder is when a recording of it begins. */
export function checkpointOf(forwarder: Forwarder): Checkpoint {
  const counters = new Map<number, Uint8Array>()
  for (const { row, spec } of forwarder.ports)
    counters.set(spec.index, new Uint8Array(forwarder.counters.slice(row, row + ROW).buffer))
  return { state: forwarder.save(), counters: [...counters] }
}
