// Two runs side by side: where what enters them differs first, and where what comes of it does.

import type { Frame } from '../../src/frame/frame.js'
import { type DropReason, dropReasons } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import type { FrameObserver } from '../forwarding/observer.js'
import type { PortState } from '../forwarding/port-state.js'
import type { Changes } from './changed.js'
import { RunDigest } from './digest.js'
import { Narrator } from './narrator.js'
import { Replay, type ReplayObserver } from './replay.js'
import type { Input } from './run-reader.js'

/** The pieces of a file, as often as they are asked for. */
export type Pieces = () => Iterable<Uint8Array>

export interface RunDifference {
  /** What entered differs; or the same has led to something else. */
  readonly kind: 'input' | 'outcome'
  readonly input: number
  readonly what: string
  /** What the input did in the one run and in the other, in lines. */
  readonly one: readonly string[]
  readonly other: readonly string[]
}

export interface Comparison {
  /** The first ones. */
  readonly differences: readonly RunDifference[]
  /** Inputs compared, and how many of them have led to something else. */
  readonly inputs: number
  readonly different: number
}

export interface ComparedRuns {
  readonly one: Pieces
  readonly other: Pieces
  /** Of the other one's configuration. */
  readonly changes: Changes | null
}

/** What one input does, as numbers. */
class Outcome implements ReplayObserver, FrameObserver {
  entered = new RunDigest()
  #outcome = new RunDigest()
  #frame: Uint8Array = new Uint8Array(0)
  /** Frames that came in a gap before the input. */
  missed: number | null = null
  #isNew = false

  begins({ network }: Forwarder, missed: number | null): void {
    network.observe(this)
    this.missed = missed
    this.#isNew = true
  }

  /** What entered, byte by byte, for a frame. */
  get frame(): Uint8Array {
    return this.#frame
  }

  get outcome(): string {
    return this.#outcome.hex()
  }

  coming({ kind, now, port, args }: Readonly<Input>, frame: Frame | null): void {
    this.entered = new RunDigest()
    this.#outcome = new RunDigest()
    if (!this.#isNew) this.missed = null
    this.#isNew = false
    this.entered.plain([kind, now, port, args, this.missed])
    if (frame === null) return
    this.entered.frame(frame)
    this.#frame = frame.bytes.slice(frame.start, frame.start + frame.length)
  }

  sending(port: number, frame: Frame, serviceTci: number, taken: boolean): void {
    this.#note(0, port, serviceTci, taken ? 1 : 0)
    this.#outcome.frame(frame)
  }

  skipped(): void {
    this.#note(6, 0, 0, 0)
  }

  said(event: object): void {
    this.#outcome.plain(event)
  }

  at(): void {}
  lies(): void {}
  gone(): void {}
  came(): void {}
  left(): void {}

  refused(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#note(1, port.index, dropReasons.indexOf(reason), 0)
  }

  unread(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#note(2, port.index, dropReasons.indexOf(reason), 0)
  }

  dropped(port: PortState, _frame: Frame, reason: DropReason): void {
    this.#note(3, port.index, dropReasons.indexOf(reason), 0)
  }

  leftOut(): void {
    // It leaves no trace in a network.
  }

  note(kind: number, port: PortState): void {
    this.#note(4, port.index, kind, 0)
  }

  mark(kind: number, port: PortState | null, epoch: number): void {
    this.#note(5, port?.index ?? -1, kind, epoch)
  }

  #note(...words: readonly number[]): void {
    for (const word of words) this.#outcome.word(word)
  }
}

/**
 * The first `most` differences. Ends at the first input that differs: then the runs are not comparable any more.
 * Throws what reading throws.
 */
export function compareRuns(runs: ComparedRuns, most: number, untilMs = Number.POSITIVE_INFINITY): Comparison {
  const [a, b] = [new Outcome(), new Outcome()]
  const one = new Replay(runs.one(), a)
  const other = new Replay(runs.other(), b, runs.changes)
  const found: { kind: RunDifference['kind']; input: number; what: string }[] = []
  let inputs = 0
  let different = 0
  while (one.nextMs() <= untilMs || other.nextMs() <= untilMs) {
    const [hasOne, hasOther] = [one.step(), other.step()]
    if (!hasOne && !hasOther) break
    inputs++
    if (!hasOne || !hasOther || a.entered.hex() !== b.entered.hex()) {
      const what =
        hasOne && hasOther ? enteredInWords(one, other, a, b) : `the ${hasOne ? 'second' : 'first'} run ends before it`
      found.push({ kind: 'input', input: inputs, what })
      break
    }
    if (a.outcome === b.outcome) continue
    different++
    if (found.length < most)
      found.push({ kind: 'outcome', input: inputs, what: 'the same has entered, and has led to something else' })
  }
  const shown = found.slice(0, Math.max(1, most))
  const numbers = shown.map(({ input }) => input)
  const [told, toldOther] = [narrate(runs.one, null, numbers), narrate(runs.other, runs.changes, numbers)]
  const differences = shown.map((difference, at) => ({ ...difference, one: told[at], other: toldOther[at] }))
  return { differences, inputs, different }
}

function enteredInWords(one: Replay, other: Replay, a: Outcome, b: Outcome): string {
  if (a.missed !== b.missed) {
    const inWords = ({ missed }: Outcome) => (missed === null ? 'no gap' : `a gap of ${missed} frames`)
    return `the first run has ${inWords(a)} before it, the second ${inWords(b)}`
  }
  if (one.input.kind !== 'frame' || other.input.kind !== 'frame') return 'something else enters'
  const where = one.portNames.get(one.input.port) ?? one.input.port
  const at = firstDifference(a.frame, b.frame)
  const what = `frame ${one.input.frame} at port ${where}`
  if (at >= 0) return `${what} differs from byte ${at} on`
  return one.input.now === other.input.now
    ? `${what} differs in its virtio-net header, tag or port`
    : `${what} comes at another time`
}

function firstDifference(one: Uint8Array, other: Uint8Array): number {
  const length = Math.min(one.length, other.length)
  for (let at = 0; at < length; at++) if (one[at] !== other[at]) return at
  return one.length === other.length ? -1 : length
}

/** The run once more, with words for some of its inputs, which are in order. */
export function narrate(pieces: Pieces, changes: Changes | null, numbers: readonly number[]): (readonly string[])[] {
  const told: (readonly string[])[] = []
  if (numbers.length === 0) return told
  const narrator = new Narrator((port) => replay.portNames.get(port) ?? `port ${port}`)
  let isNarrated = false
  const replay: Replay = new Replay(
    pieces(),
    {
      begins: (forwarder, missed) => {
        if (isNarrated) narrator.begins(forwarder, missed)
      },
      coming: (input, frame) => {
        narrator.starts(input)
        if (isNarrated) narrator.coming(input, frame)
      },
      sending: (port, frame, tci, taken) => isNarrated && narrator.sending(port, frame, tci, taken),
      said: (event) => isNarrated && narrator.said(event),
      skipped: () => isNarrated && narrator.skipped(),
    },
    changes,
  )
  for (const number of numbers) {
    while (replay.input.number < number - 1 && replay.step()) {}
    isNarrated = true
    replay.forwarder.network.observe(narrator)
    told.push(replay.step() ? narrator.lines : [])
    replay.forwarder.network.unobserve(narrator)
    isNarrated = false
  }
  return told
}
