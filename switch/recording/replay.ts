// The same forwarder again, on the time and with all that a recording has of what entered it. Deterministic: from the
// file and nothing else. At every mark it is proved that the same has come out. After a gap in the recording, another
// forwarder goes on from the state that the file has there.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { Frame } from '../../src/frame/frame.js'
import { createCounters, ROW } from '../forwarding/counters.js'
import { eventsTo, Forwarder, type ForwarderEvent } from '../forwarding/forwarder.js'
import { type InputName, type Inputs, performInput } from '../forwarding/inputs.js'
import type { Output } from '../forwarding/port-state.js'
import type { Beginning } from './beginning.js'
import { damaged } from './blocks.js'
import { type Changes, changeAll, changedArgs } from './changed.js'
import { RunDigest } from './digest.js'
import type { RecordingEnd, RecordingHead } from './format.js'
import { type Input, RunReader } from './run-reader.js'
import { Witness } from './witness.js'

const NO_FRAME = -1

/** Who looks on while a run is replayed. Frames are good until the call returns. */
export interface ReplayObserver {
  /** A forwarder takes up the run, at its beginning or (`missed` not null) after a gap in which so many frames came. */
  begins?(forwarder: Forwarder, missed: number | null): void
  /** An input is about to be performed; `frame` if it is one. */
  coming?(input: Readonly<Input>, frame: Frame | null): void
  /** It is not performed: it is of a port that the other configuration does not have. */
  skipped?(): void
  /** A frame leaves by a port, or (`taken` false) would have if the port had taken it. */
  sending?(port: number, frame: Frame, serviceTci: number, taken: boolean): void
  /** The forwarder tells something of its own accord. */
  said?(event: ForwarderEvent): void
}

export interface Difference {
  /** The inputs from here to there have led to something else. */
  readonly after: number
  readonly until: number
  readonly untilMs: number
  readonly offset: number
}

/** Something found no room while the run was recorded. */
export interface Gap {
  /** The last input before it. */
  readonly after: number
  readonly now: number
  /** Frames that came in it. */
  readonly missed: number
}

export class Replay {
  readonly head: RecordingHead
  /** Another one after a gap. */
  forwarder!: Forwarder
  /** The last input performed; one object, changed in place. */
  readonly input: Input = { kind: 'tick', number: 0, frame: NO_FRAME, now: 0, port: -1, args: null, offset: 0 }
  /** Where the recording and the replay differ first. */
  difference: Difference | null = null
  marks = 0
  frames = 0
  /** Restores in the run: their fences. */
  readonly restores: { readonly epoch: number; readonly now: number }[] = []
  /** Cuts in the run, of its snapshots: when the first machine made it, and the last one. */
  readonly cuts: { readonly epoch: number; readonly now: number; until: number }[] = []
  readonly gaps: Gap[] = []
  readonly #reader: RunReader
  #witness = new Witness(() => this.forwarder)
  readonly #observer: ReplayObserver
  readonly #changes: Changes | null
  readonly #outputs = new Map<number, Output>()
  readonly #digest = new Uint8Array(16)
  readonly #digestView = new DataView(this.#digest.buffer)
  /** Of what came out before the last gap. */
  #digestBefore: string | null = null
  /** An input has been read: the one that comes next. */
  #isLoaded = false
  /** It is the first one after a gap. */
  #comingBeginning: Beginning | null = null
  /** Frames that the next input has sent and their ports have not taken. */
  readonly #refused: number[] = []
  /** The input up to which the last mark was right. */
  #alikeUntil = 0

  /** Throws TRACE_INVALID when it is no recording, RECORDING_VERSION when another version has made it. */
  constructor(pieces: Iterable<Uint8Array>, observer: ReplayObserver = {}, changes: Changes | null = null) {
    this.#reader = new RunReader(pieces)
    this.#observer = observer
    this.#changes = changes
    const beginning = this.#reader.begin()
    this.head = beginning.head
    this.#begin(beginning, null)
  }

  /** Names by index, also of ports that have left. */
  get portNames(): ReadonlyMap<number, string> {
    return this.#reader.portNames
  }

  /** The first checksum that is not the file's. */
  get damagedBefore(): number | null {
    return this.#reader.damagedBefore
  }

  get end(): RecordingEnd | null {
    return this.#reader.end
  }

  /** Performs the next input; false when there is none any more. Throws TRACE_INVALID where the file is damaged. */
  step(): boolean {
    if (!this.#load()) return false
    this.#isLoaded = false
    if (this.#comingBeginning !== null) this.#goOn(this.#comingBeginning)
    this.#refused.length = 0
    const reader = this.#reader
    while (reader.peek() === 'refused') this.#refused.push(reader.takeRefused())
    Object.assign(this.input, reader.input)
    const { input } = this
    input.number++
    if (input.kind === 'frame') input.frame = this.frames++
    this.#observer.coming?.(input, input.kind === 'frame' ? reader.arrived.frame : null)
    this.#witness.begin()
    try {
      this.#perform(input)
    } catch (error) {
      if (error instanceof SnapswitchError) throw error
      throw damaged(input.offset, `${input.kind} leads to ${(error as Error).message}`)
    }
    // Marks are of the state that this has led to.
    while (reader.peek() === 'mark') this.#checkMark()
    return true
  }

  /** Performs inputs up to `untilMs`, or all. */
  run(untilMs = Number.POSITIVE_INFINITY): void {
    while (this.nextMs() <= untilMs && this.step()) {}
  }

  /** When the next input comes; Infinity: there is none. */
  nextMs(): number {
    return this.#load() ? this.#reader.input.now : Number.POSITIVE_INFINITY
  }

  /** The file ended without saying so. */
  get isTruncated(): boolean {
    return this.#reader.isAtEnd && this.end === null
  }

  /** Of all that came out, and of the file itself as far as it was read. */
  digest(): string {
    return `${this.#outcome()}${this.#reader.crc().toString(16).padStart(8, '0')}`
  }

  #outcome(): string {
    const own = this.#witness.digest.hex()
    if (this.#digestBefore === null) return own
    const both = new RunDigest()
    both.plain([this.#digestBefore, own])
    return both.hex()
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

  #begin(beginning: Beginning, missed: number | null): void {
    try {
      this.forwarder = this.#begun(beginning)
      if (this.#changes !== null) changeAll(this.forwarder, this.#changes, this.#outputOf)
    } catch (error) {
      if (error instanceof SnapswitchError) throw error
      throw damaged(this.#reader.offset, `its checkpoint leads to ${(error as Error).message}`)
    }
    const { portNames } = this.#reader
    for (const { spec, peer } of this.forwarder.ports) if (peer === null) portNames.set(spec.index, spec.name)
    this.#observer.begins?.(this.forwarder, missed)
  }

  #begun({ head, checkpoint }: Beginning): Forwarder {
    const counters = createCounters()
    const forwarder = new Forwarder(
      head.options,
      counters,
      eventsTo((event) => this.#said(event)),
    )
    for (const [port, row] of checkpoint.counters) {
      if (row.length !== ROW * 8 || port < 0 || (port + 1) * ROW > counters.length)
        throw damaged(0, 'a row of counters')
      counters.set(new Float64Array(row.slice().buffer), port * ROW)
    }
    forwarder.load(checkpoint.state, this.#outputOf)
    return forwarder
  }

  #goOn(beginning: Beginning): void {
    const { missed = 0 } = beginning.head
    this.#comingBeginning = null
    this.#digestBefore = this.#outcome()
    this.#witness = new Witness(() => this.forwarder)
    this.gaps.push({ after: this.input.number, now: this.input.now, missed })
    this.#alikeUntil = this.input.number
    this.#begin(beginning, missed)
  }

  /** Reads the next input, with the marks before it; false at the end. */
  #load(): boolean {
    const reader = this.#reader
    while (!this.#isLoaded) {
      switch (reader.peek()) {
        case null:
          return false
        case 'input':
          reader.takeInput()
          this.#isLoaded = true
          break
        case 'mark':
          this.#checkMark()
          break
        case 'beginning': {
          // Nothing was recorded since the gap before: it is one.
          const { head, checkpoint } = reader.takeBeginning()
          const missed = (head.missed ?? 0) + (this.#comingBeginning?.head.missed ?? 0)
          this.#comingBeginning = { head: { ...head, missed }, checkpoint }
          break
        }
        case 'refused':
          throw damaged(reader.offset, 'a refusal of no input')
      }
    }
    return true
  }

  #perform(input: Input): void {
    const { forwarder } = this
    if (input.kind === 'frame') {
      if (forwarder.byIndex[input.port] !== undefined)
        forwarder.receive(input.port, this.#reader.arrived.frame, input.now)
      else if (this.#changes !== null) this.#observer.skipped?.()
      else throw damaged(input.offset, 'a frame of a port that has left')
    } else if (input.kind === 'tick') forwarder.tick(input.now)
    else this.#command(input.kind, input.args as never)
  }

  #command<Name extends InputName>(name: Name, recorded: Inputs[Name]['args']): void {
    const args = this.#changes === null ? recorded : changedArgs(this.forwarder, name, recorded, this.#changes)
    if (name === 'addPort') {
      const { spec } = recorded as Inputs['addPort']['args']
      this.#reader.portNames.set(spec.index, spec.name)
      // As whoever adds a port to a datapath does.
      this.forwarder.counters.fill(0, spec.index * ROW, (spec.index + 1) * ROW)
    }
    if (name === 'flip') this.#noteCut(recorded as Inputs['flip']['args'])
    if (name === 'fence') this.restores.push(recorded as Inputs['fence']['args'])
    if (args === null) this.#observer.skipped?.()
    else this.#witness.said(performInput(this.forwarder, name, args, { outputOf: this.#outputOf }))
  }

  #noteCut({ epoch, now }: Inputs['flip']['args']): void {
    const last = this.cuts.at(-1)
    if (last?.epoch === epoch) last.until = now
    else this.cuts.push({ epoch, now, until: now })
  }

  #checkMark(): void {
    this.marks++
    this.#witness.mark()
    this.#witness.digest.write(this.#digestView, 0)
    const isAlike = this.#reader.takeMark(this.#digest)
    const { number, now } = this.input
    if (!isAlike)
      this.difference ??= { after: this.#alikeUntil, until: number, untilMs: now, offset: this.#reader.offset }
    this.#alikeUntil = number
  }
}
