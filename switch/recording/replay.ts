// The same forwarder again, on the time and with all that a recording has of what entered it. Deterministic: from the
// file and nothing else. At every mark it is proved that the same has come out.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { Frame } from '../../src/frame/frame.js'
import { BLOCK, OPTION } from '../../src/trace/pcapng.js'
import { createCounters, ROW } from '../forwarding/counters.js'
import { eventsTo, Forwarder, type ForwarderEvent } from '../forwarding/forwarder.js'
import { type InputName, type Inputs, inputNames, performInput } from '../forwarding/inputs.js'
import type { NetworkSettings } from '../forwarding/network.js'
import type { Output, PortSpec } from '../forwarding/port-state.js'
import { ArrivedFrame } from './arrived.js'
import { jsonOf, readCheckpoint, readHead } from './beginning.js'
import { Blocks, damaged } from './blocks.js'
import { type Checkpoint, Kind, PORT_OPTION, type RecordingEnd, type RecordingHead } from './format.js'
import { Witness } from './witness.js'

const NO_FRAME = -1

/** Who looks on while a run is replayed. Frames are good until the call returns. */
export interface ReplayObserver {
  /** An input is about to be performed; `frame` if it is one. */
  coming?(input: Readonly<Input>, frame: Frame | null): void
  /** A frame leaves by a port, or (`taken` false) would have if the port had taken it. */
  sending?(port: number, frame: Frame, serviceTci: number, taken: boolean): void
  /** The forwarder tells something of its own accord. */
  said?(event: ForwarderEvent): void
}

/** What is to be otherwise than it was when the run was recorded. */
export interface Changes {
  settings(settings: NetworkSettings): NetworkSettings
  port(spec: PortSpec): PortSpec
}

/** An input as it is about to be performed, or was. */
export interface Input {
  /** 'frame', 'tick', or which command. */
  kind: 'frame' | 'tick' | InputName
  /** From 1 on. */
  number: number
  /** Of a frame, from 0 on; else of the last one. */
  frame: number
  /** Unix time in milliseconds; of an input without a time, that of the one before. */
  now: number
  /** Of a frame: where it came in; else -1. */
  port: number
  args: Record<string, unknown> | null
  /** Where in the file. */
  offset: number
}

export interface Difference {
  /** The inputs from here to there have led to something else. */
  readonly after: number
  readonly until: number
  readonly untilMs: number
  readonly offset: number
}

export class Replay {
  readonly head: RecordingHead
  readonly forwarder: Forwarder
  /** The last input performed; one object, changed in place. */
  readonly input: Input = { kind: 'tick', number: 0, frame: NO_FRAME, now: 0, port: -1, args: null, offset: 0 }
  /** Names by index, also of ports that have left. */
  readonly portNames = new Map<number, string>()
  /** Where the recording and the replay differ first. */
  difference: Difference | null = null
  /** The first checksum that is not the file's. */
  damagedBefore: number | null = null
  end: RecordingEnd | null = null
  marks = 0
  frames = 0
  /** Restores in the run: their fences. */
  readonly restores: { readonly epoch: number; readonly now: number }[] = []
  readonly #blocks: Blocks
  readonly #witness: Witness
  readonly #observer: ReplayObserver
  readonly #changes: Changes | null
  readonly #outputs = new Map<number, Output>()
  /** By interface: the index of its port. */
  readonly #ports: number[] = []
  #interfaceName = ''
  readonly #arrived = new ArrivedFrame()
  readonly #digest = new Uint8Array(16)
  readonly #digestView = new DataView(this.#digest.buffer)
  /** A block has been read and not yet looked at. */
  #isPeeked = false
  /** An input has been read: the one that comes next. */
  #isLoaded = false
  readonly #coming: Pick<Input, 'kind' | 'now' | 'port' | 'args' | 'offset'> = {
    kind: 'tick',
    now: 0,
    port: -1,
    args: null,
    offset: 0,
  }
  /** Frames that the next input has sent and their ports have not taken. */
  readonly #refused: number[] = []
  /** The input up to which the last mark was right. */
  #alikeUntil = 0
  #isAtEnd = false

  /** Throws TRACE_INVALID when it is no recording, RECORDING_VERSION when another version has made it. */
  constructor(pieces: Iterable<Uint8Array>, observer: ReplayObserver = {}, changes: Changes | null = null) {
    this.#blocks = new Blocks(pieces)
    this.#observer = observer
    this.#changes = changes
    this.head = readHead(this.#blocks)
    const checkpoint = readCheckpoint(this.#blocks)
    this.#witness = new Witness(() => this.forwarder)
    try {
      this.forwarder = this.#begun(checkpoint)
      if (changes !== null) this.#change(changes)
    } catch (error) {
      if (error instanceof SnapswitchError) throw error
      throw damaged(this.#blocks.offset, `its checkpoint leads to ${(error as Error).message}`)
    }
  }

  #begun(checkpoint: Checkpoint): Forwarder {
    const { options } = this.head
    const counters = createCounters()
    const forwarder = new Forwarder(
      options,
      counters,
      eventsTo((event) => this.#said(event)),
    )
    for (const [port, row] of checkpoint.counters) {
      if (row.length !== ROW * 8 || port < 0 || (port + 1) * ROW > counters.length)
        throw damaged(0, 'a row of counters')
      counters.set(new Float64Array(row.slice().buffer), port * ROW)
    }
    forwarder.load(checkpoint.state, this.#outputOf)
    for (const { spec, peer } of forwarder.ports) if (peer === null) this.portNames.set(spec.index, spec.name)
    return forwarder
  }

  /** Performs the next input; false when there is none any more. Throws TRACE_INVALID where the file is damaged. */
  step(): boolean {
    if (!this.#load()) return false
    this.#isLoaded = false
    this.#refused.length = 0
    while (this.#peek() && this.#blocks.kind === Kind.REFUSED) this.#takeRefused()
    Object.assign(this.input, this.#coming)
    const { input } = this
    input.number++
    if (input.kind === 'frame') input.frame = this.frames++
    this.#observer.coming?.(input, input.kind === 'frame' ? this.#arrived.frame : null)
    this.#witness.begin()
    try {
      this.#perform(input)
    } catch (error) {
      if (error instanceof SnapswitchError) throw error
      throw damaged(input.offset, `${input.kind} leads to ${(error as Error).message}`)
    }
    // Marks are of the state that this has led to.
    while (this.#peek() && (this.#blocks.kind === Kind.MARK || this.#blocks.kind === Kind.CHECKSUM)) this.#pass()
    return true
  }

  /** Performs inputs up to `untilMs`, or all. */
  run(untilMs = Number.POSITIVE_INFINITY): void {
    while (this.nextMs() <= untilMs && this.step()) {}
  }

  /** When the next input comes; Infinity: there is none. */
  nextMs(): number {
    return this.#load() ? this.#coming.now : Number.POSITIVE_INFINITY
  }

  /** The file ended without saying so. */
  get isTruncated(): boolean {
    return this.#isAtEnd && this.end === null
  }

  /** Of all that came out, and of the file itself as far as it was read. */
  digest(): string {
    return `${this.#witness.digest.hex()}${this.#blocks.crcBefore().toString(16).padStart(8, '0')}`
  }

  readonly #outputOf = (port: number): Output => {
    let output = this.#outputs.get(port)
    if (output === undefined) {
      output = {
        send: (frame, serviceTci) => {
          const number = this.#witness.sending(port, frame, serviceTci)
          const taken = !this.#refused.includes(number)
          if (!taken) this.#witness.refused()
          this.#observer.sending?.(port, frame, serviceTci, taken)
          return taken
        },
      }
      this.#outputs.set(port, output)
    }
    return output
  }

  #said(event: ForwarderEvent): void {
    this.#witness.said(event)
    this.#observer.said?.(event)
  }

  /** The next block; false at the end. */
  #peek(): boolean {
    if (this.#isPeeked) return true
    this.#isPeeked = this.#blocks.next()
    if (!this.#isPeeked) this.#isAtEnd = true
    return this.#isPeeked
  }

  /** Reads the next input, with the marks before it; false at the end. */
  #load(): boolean {
    while (!this.#isLoaded) {
      if (!this.#peek()) return false
      this.#pass()
    }
    return true
  }

  /** The block that was peeked at. */
  #pass(): void {
    const blocks = this.#blocks
    this.#isPeeked = false
    switch (blocks.kind) {
      case Kind.TICK:
        this.#need(8)
        this.#come('tick', blocks.view.getFloat64(blocks.from, true), -1, null)
        return
      case Kind.INPUT:
        this.#readInput()
        return
      case Kind.MARK:
        this.#checkMark()
        return
      case Kind.CHECKSUM: {
        this.#need(4)
        const isRight = blocks.view.getUint32(blocks.from, true) === blocks.crcBefore()
        if (!isRight) this.damagedBefore ??= blocks.offset
        return
      }
      case Kind.REFUSED:
        throw damaged(blocks.offset, 'a refusal of no input')
      case Kind.END:
        this.end = jsonOf(this.#blocks) as RecordingEnd
        return
      default:
        if (blocks.type === BLOCK.enhancedPacket) {
          this.#arrived.read(blocks, this.#ports)
          this.#come('frame', this.#arrived.now, this.#arrived.port, null)
        } else if (blocks.type === BLOCK.interface) this.#readInterface()
        else if (blocks.type === BLOCK.section) throw damaged(blocks.offset, 'another section begins')
    }
  }

  #come(kind: Input['kind'], now: number, port: number, args: Input['args']): void {
    const coming = this.#coming
    coming.kind = kind
    coming.now = now
    coming.port = port
    coming.args = args
    coming.offset = this.#blocks.offset
    this.#isLoaded = true
  }

  #need(length: number): void {
    const { from, to, offset } = this.#blocks
    if (to - from < length) throw damaged(offset, 'a record is too short')
  }

  #readInput(): void {
    const found = jsonOf(this.#blocks)
    const [name, args] = Array.isArray(found) ? (found as unknown[]) : []
    if (!inputNames.includes(name as InputName) || typeof args !== 'object' || args === null)
      throw damaged(this.#blocks.offset, `${String(name)} is no input`)
    const fields = args as Record<string, unknown>
    const now = typeof fields.now === 'number' ? fields.now : this.#coming.now
    this.#come(name as InputName, now, -1, fields)
  }

  #readInterface(): void {
    const blocks = this.#blocks
    let port: number | null = null
    for (const { code, value } of blocks.options(blocks.from + 8)) {
      if (code === PORT_OPTION && value.length === 4) port = value[0] | (value[1] << 8)
      if (code === OPTION.interfaceName && port === null) this.#interfaceName = new TextDecoder().decode(value)
    }
    if (port === null) throw damaged(blocks.offset, 'an interface that is no port')
    this.portNames.set(port, this.#interfaceName)
    this.#ports.push(port)
  }

  #takeRefused(): void {
    this.#need(4)
    this.#isPeeked = false
    this.#refused.push(this.#blocks.view.getUint32(this.#blocks.from, true))
  }

  #perform(input: Input): void {
    const { forwarder } = this
    if (input.kind === 'frame') {
      if (forwarder.byIndex[input.port] === undefined) throw damaged(input.offset, 'a frame of a port that has left')
      forwarder.receive(input.port, this.#arrived.frame, input.now)
    } else if (input.kind === 'tick') forwarder.tick(input.now)
    else this.#command(input.kind, input.args as never)
  }

  #command<Name extends InputName>(name: Name, recorded: Inputs[Name]['args']): void {
    const args = this.#changes === null ? recorded : changed(name, recorded, this.#changes)
    if (name === 'addPort') this.#clearCounters((args as Inputs['addPort']['args']).spec.index)
    if (name === 'fence') this.restores.push(args as Inputs['fence']['args'])
    this.#witness.said(performInput(this.forwarder, name, args, { outputOf: this.#outputOf }))
    if (name !== 'addPort') return
    const { spec } = args as Inputs['addPort']['args']
    this.portNames.set(spec.index, spec.name)
  }

  /** As whoever adds a port to a datapath does. */
  #clearCounters(port: number): void {
    this.forwarder.counters.fill(0, port * ROW, (port + 1) * ROW)
  }

  #checkMark(): void {
    this.#need(20)
    const { bytes, from, offset } = this.#blocks
    this.marks++
    this.#witness.mark()
    this.#witness.digest.write(this.#digestView, 0)
    const isAlike = this.#digest.every((byte, i) => byte === bytes[from + 4 + i])
    const { number, now } = this.input
    if (!isAlike) this.difference ??= { after: this.#alikeUntil, until: number, untilMs: now, offset }
    this.#alikeUntil = number
  }

  /** What is there already is changed as a running switch would be. */
  #change(changes: Changes): void {
    const { forwarder } = this
    forwarder.network.configure(changes.settings(forwarder.network.options))
    for (const { peer, spec } of [...forwarder.ports])
      if (peer === null) forwarder.setRules(spec.index, changes.port(spec).rules ?? {})
  }
}

function changed<Name extends InputName>(
  name: Name,
  args: Inputs[Name]['args'],
  changes: Changes,
): Inputs[Name]['args'] {
  if (name === 'configure') {
    const { settings } = args as Inputs['configure']['args']
    return { settings: changes.settings(settings) } as Inputs[Name]['args']
  }
  if (name !== 'addPort' && name !== 'changePort') return args
  const { spec, now } = args as Inputs['addPort']['args']
  return { spec: changes.port(spec), now } as Inputs[Name]['args']
}
