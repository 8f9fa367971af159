// The end of a capture or recording that was asked for: the switch is told, and all that it has kept is written,
// however long that takes. A reader or a switch that stands still is not waited for.

import { asSnapswitchError } from '../errors/errors.js'

const LOOK_MS = 1000

export interface EndingOptions {
  /** Nothing has come and nothing was written for so long. */
  readonly stillMs: number
  /** Tells the switch; null: it cannot be told yet. */
  tell(): Promise<unknown> | null
  /** A disk is being written to: however slow it is, it takes everything in the end. */
  isAtDisk(): boolean
  giveUp(): void
}

export class Ending {
  readonly #options: EndingOptions
  #timer: NodeJS.Timeout | undefined
  #isTold = false
  #isOver = false
  #lastSign = 0

  constructor(options: EndingOptions) {
    this.#options = options
  }

  get hasBegun(): boolean {
    return this.#timer !== undefined
  }

  begin(): void {
    if (this.hasBegun) return
    this.sign()
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    this.#tell()
  }

  /** Something has come, or was written. */
  sign(): void {
    this.#lastSign = performance.now()
  }

  over(): void {
    this.#isOver = true
    clearInterval(this.#timer)
  }

  #look(): void {
    this.#tell()
    if (this.#options.isAtDisk()) this.sign()
    else if (performance.now() - this.#lastSign >= this.#options.stillMs) this.#options.giveUp()
  }

  #tell(): void {
    if (this.#isTold) return
    const told = this.#options.tell()
    if (told === null) return
    this.#isTold = true
    told.catch((error: unknown) => {
      // A switch that refuses has ended it already, and one that is gone breaks the stream off. One that does not
      // answer might send for ever.
      if (!this.#isOver && asSnapswitchError(error).code === 'REQUEST_TIMEOUT') this.#options.giveUp()
    })
  }
}
