// What is expected to come out while a capture is played: reads it from a file as far ahead as a comparison has room,
// and sees at devices what comes.

import { setTimeout as pause } from 'node:timers/promises'
import { PacketWatch } from '../linux/packet-watch.js'
import { openTrace } from '../trace/source.js'
import { Comparison, type Difference, type Differences } from './comparison.js'
import type { Mapping, Target } from './mapping.js'
import { Schedule } from './schedule.js'

/** A place where frames come out: a device that receives them, or one that a port of the switch sends them to. */
export interface Outcome extends Target {
  readonly device: { readonly index: number; readonly name: string }
}

export interface ExpectationOptions {
  /** A path. */
  readonly file: string
  /** Of packets of the file to `outcomes`, by number. */
  readonly mapping: Mapping
  readonly outcomes: readonly Outcome[]
  /** The file's times are divided by it. */
  readonly speed: number
  readonly lateNs: number | null
  /** How long a frame may yet come when the play is over, since the last one came. */
  readonly settleMs: number
}

export interface OutcomeReport extends Differences {
  readonly kind: Target['kind']
  readonly name: string
  /** Frames that came and could not be looked at: the machine was too busy. */
  readonly missed: number
  readonly told: readonly Difference[]
}

const LOOK_MS = 2
/** Batches in a row, so that the reading of captures gets its turn. */
const MOST_BATCHES = 64
const ROOM_LOOK_MS = 2

interface Watched {
  readonly outcome: Outcome
  readonly watch: PacketWatch
  readonly comparison: Comparison
}

export class Expectation {
  readonly #options: ExpectationOptions
  readonly #watched: Watched[] = []
  readonly #timer: NodeJS.Timeout
  readonly #reading: Promise<void>
  #isRead = false
  #isFull = false
  #failure: unknown = null
  #isOver = false
  #lastCameAt = 0
  #first: { seconds: number; nanoseconds: number } | null = null

  /** Looks from now on. @throws SnapswitchError SYSCALL, PERMISSION */
  constructor(options: ExpectationOptions) {
    this.#options = options
    try {
      for (const outcome of options.outcomes) {
        const watch = new PacketWatch(outcome.device, outcome.kind === 'port')
        this.#watched.push({ outcome, watch, comparison: new Comparison({ lateNs: options.lateNs }) })
      }
    } catch (error) {
      for (const { watch } of this.#watched) watch.close()
      throw error
    }
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    this.#reading = this.#read().catch((error) => {
      this.#failure = error
      this.#isRead = true
    })
  }

  /** As much is expected as there is room for. @throws SnapswitchError what is wrong with the file */
  async ready(): Promise<void> {
    while (!this.#isRead && !this.#isFull) await pause(ROOM_LOOK_MS)
    if (this.#failure !== null) throw this.#failure
  }

  /** The play is over. `patient`: what is missing may come yet. @throws SnapswitchError what is wrong with the file */
  async finish(patient: boolean): Promise<OutcomeReport[]> {
    const { settleMs } = this.#options
    this.#lastCameAt = performance.now()
    while (patient && !this.#isComplete && performance.now() - this.#lastCameAt < settleMs) await pause(LOOK_MS)
    this.#isOver = true
    await this.#reading
    if (this.#failure !== null) throw this.#failure
    return this.#watched.map(({ outcome: { kind, name }, watch, comparison }) => {
      watch.housekeeping()
      comparison.end()
      return { kind, name, ...comparison.counts, missed: watch.missed, told: comparison.told }
    })
  }

  close(): void {
    this.#isOver = true
    clearInterval(this.#timer)
    for (const { watch } of this.#watched) watch.close()
  }

  get #isComplete(): boolean {
    return this.#isRead && this.#watched.every(({ comparison }) => comparison.waiting === 0)
  }

  #look(): void {
    for (const { watch, comparison } of this.#watched) {
      const take = (bytes: Uint8Array, seconds: number, nanoseconds: number) => {
        this.#first ??= { seconds, nanoseconds }
        comparison.came(bytes, (seconds - this.#first.seconds) * 1e9 + nanoseconds - this.#first.nanoseconds)
      }
      for (let batch = 0; batch < MOST_BATCHES && watch.read(take) > 0; batch++) this.#lastCameAt = performance.now()
    }
  }

  async #read(): Promise<void> {
    const { file, mapping, speed } = this.#options
    let packet = 0
    // As a play of the file would send them: a clock that was set back makes nothing late.
    const schedule = new Schedule({ pace: { kind: 'captured', speed }, maxGapNs: null })
    for await (const cursor of openTrace(file)) {
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
        if (kind !== 'packet') continue
        const { buffer, start, length, interface: from, direction, isTimed, seconds, nanoseconds } = cursor.packet
        packet++
        const target = mapping.targetOf({ interface: from.name, buffer, start, length })
        const watched = this.#watched[target]
        // What went into a port's device came out of the switch; what came in there did not.
        if (watched === undefined || (watched.outcome.kind === 'port' && direction === 'inbound')) continue
        const { comparison } = watched
        while (!comparison.hasRoom && !this.#isOver) {
          this.#isFull = true
          await pause(ROOM_LOOK_MS)
        }
        const atNs = schedule.next(isTimed, seconds, nanoseconds, length)
        comparison.expect(packet, Uint8Array.from(buffer.subarray(start, start + length)), atNs)
      }
    }
    this.#isRead = true
  }
}
