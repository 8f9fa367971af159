// Does a restore's work as local-restore.ts decides it: one piece after the other, each answered once and for all who
// ask for it, and never at rest for longer than the coordinator may take.

import type { Clock } from '../../../src/runtime/clock.js'
import { restoreCalledOff } from '../refusals.js'
import { type RestoreRequested, type RestoreState, type RestoreWork, restoreStep } from './local-restore.js'

export class StepRunner {
  /** How long the coordinator may take to go on. */
  restMs: number
  readonly #clock: Clock
  readonly #works: Readonly<Record<RestoreWork, () => Promise<unknown>>>
  readonly #onLate: () => void
  #state: RestoreState = 'begun'
  /** The last work begun, and what comes of itself after it. Never rejects. */
  #underWay: Promise<unknown> = Promise.resolve()
  /** What was said, or will be, to each request. */
  readonly #answers = new Map<RestoreRequested, Promise<unknown>>()
  #stopTimer: () => void = () => undefined

  /** Undoing never rejects. `onLate`: called when nobody has gone on in time. */
  constructor(
    clock: Clock,
    works: Readonly<Record<RestoreWork, () => Promise<unknown>>>,
    restMs: number,
    onLate: () => void,
  ) {
    this.#clock = clock
    this.#works = works
    this.restMs = restMs
    this.#onLate = onLate
  }

  /** Does what the table says of it. */
  async ask(event: RestoreRequested): Promise<unknown> {
    for (;;) {
      const [next, effect] = restoreStep(this.#state, event)
      this.#state = next
      switch (effect) {
        case 'wait':
          await this.#underWay
          continue
        case 'repeat': {
          const answer = this.#answers.get(event)
          if (answer === undefined) throw restoreCalledOff
          return answer
        }
        case 'refuse':
          throw restoreCalledOff
        case 'rest':
        case null:
          return
        default: {
          const answer = this.#begin(effect)
          this.#answers.set(event, answer)
          return answer
        }
      }
    }
  }

  #begin(work: RestoreWork): Promise<unknown> {
    this.#stopTimer()
    const answer = this.#carryOut(work)
    this.#underWay = answer.catch(() => undefined)
    if (work === 'undo' || work === 'undoRest') this.#answers.set('abort', answer)
    return answer
  }

  async #carryOut(work: RestoreWork): Promise<unknown> {
    let result: unknown
    let failure: unknown = null
    try {
      result = await this.#works[work]()
    } catch (thrown) {
      failure = thrown
    }
    const [next, effect] = restoreStep(this.#state, failure === null ? 'ok' : 'failed')
    this.#state = next
    if (effect === 'rest') this.#stopTimer = this.#clock.after(this.restMs, this.#onLate)
    else if (effect === 'resume') return this.#begin(effect)
    else if (effect === 'undo' || effect === 'undoRest') {
      await this.#begin(effect)
      throw failure ?? restoreCalledOff
    }
    if (failure !== null) throw failure
    return result
  }
}
