// Rounds over subjects in turn: what the machine does slowly hits all of them alike. A run that has only so much time
// makes as many rounds as fit.

import { busyCores, load } from './machine.js'
import type { Row } from './rows.js'

const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** Fills in figures as it goes: those that were measured before a failure stay. */
export type Measure<S> = (subject: S, figures: Record<string, number>) => Promise<void>

/** `cost`: how long one takes compared with others; 1 unless said. */
export interface Subject {
  readonly id: string
  readonly title: string
  readonly cost?: number
}

export interface Part {
  readonly part: string
  /** Rounds wanted, at most. */
  readonly rounds: number
  /** When it must end, as performance.now() tells it; left out: when all is done. */
  readonly untilMs?: number
}

/** What became of a part. */
export interface PartNote {
  readonly part: string
  readonly wanted: number
  /** Whole rounds that were made. */
  readonly rounds: number
  readonly minutes: number
  /** Before it: the load of the last minute, and cores that others kept busy while the bench did nothing. */
  readonly load: number
  readonly busyCores: number
  /** Subjects without a row, for want of time. */
  readonly missing: readonly string[]
}

export interface Course {
  /** Milliseconds; performance.now() unless said. */
  now?(): number
  say(line: string): void
  /** Called after each row, with all rows and notes so far: a run that is killed has them. */
  save(rows: readonly Row[], notes: readonly PartNote[]): void
}

/** Keeps the rows of a run over all its parts. */
export class Rounds {
  readonly rows: Row[] = []
  readonly notes: PartNote[] = []
  readonly #course: Course

  constructor(course: Course) {
    this.#course = course
  }

  /**
   * Rounds over all subjects in turn, each round beginning with another one. Time is asked before each round, and in
   * the first before each subject: put those first that must not be missing.
   */
  async inTurn<S extends Subject>(
    { part, rounds, untilMs = Number.POSITIVE_INFINITY }: Part,
    subjects: readonly S[],
    measure: Measure<S>,
  ): Promise<void> {
    const now = () => this.#course.now?.() ?? performance.now()
    const began = now()
    const before = { load: load(), busyCores: await busyCores() }
    const missing: string[] = []
    let [made, done, roundMs] = [0, 0, 0]
    const note = (): PartNote => ({
      part,
      wanted: rounds,
      rounds: made,
      minutes: Number(((now() - began) / 60_000).toFixed(1)),
      ...before,
      missing,
    })
    for (let round = 1; round <= rounds && subjects.length > 0; round++) {
      const from = now()
      let spent = 0
      if (round > 1 && from + roundMs > untilMs) break
      for (let turn = 0; turn < subjects.length; turn++) {
        const subject = subjects[(turn + round - 1) % subjects.length]!
        // A subject takes about as long as those before it did.
        const usual = spent === 0 ? 0 : ((now() - from) / spent) * (subject.cost ?? 1)
        if (round === 1 && now() + usual > untilMs) {
          missing.push(subject.title)
          continue
        }
        spent += subject.cost ?? 1
        const row = await measured(part, round, subject, measure)
        this.rows.push(row)
        done++
        this.#course.save(this.rows, [...this.notes, note()])
        const { error, figures } = row
        const all = rounds * subjects.length
        const left = Math.min(((now() - began) / done) * (all - done), untilMs - now())
        const told = error === null ? `${Object.keys(figures).length} figures` : `FAILED: ${error.split('\n')[0]}`
        const toGo = `(${Math.max(0, Math.ceil(left / 1e3))} s to go)`
        this.#course.say(`${part}, round ${round}/${rounds}  ${subject.title.padEnd(24)} ${told}  ${toGo}`)
      }
      if (missing.length === 0) made = round
      roundMs = Math.max(roundMs, now() - from)
      if (missing.length > 0) break
    }
    if (missing.length > 0) this.#course.say(`${part}: no time for ${missing.join(', ')}`)
    this.notes.push(note())
    this.#course.save(this.rows, this.notes)
  }
}

async function measured<S extends { readonly id: string }>(
  part: string,
  round: number,
  subject: S,
  measure: Measure<S>,
): Promise<Row> {
  const figures: Record<string, number> = {}
  let error: string | null = null
  try {
    await measure(subject, figures)
  } catch (thrown) {
    error = message(thrown)
  }
  return { part, round, subject: subject.id, figures, error }
}
