// When each frame of a capture is to be sent: capture times and options in, send times out. Every time counts from the
// first frame of the play and never from the frame before, so that no error adds up however long it goes on. Pure.

export type Pace =
  /** As captured, `speed` times as fast. */
  | { readonly kind: 'captured'; readonly speed: number }
  | { readonly kind: 'frames'; readonly perSecond: number }
  /** Bits of the frames as they are sent, from the destination address to the last byte: no preamble, FCS or gap. */
  | { readonly kind: 'bits'; readonly perSecond: number }
  | { readonly kind: 'top' }

export interface ScheduleOptions {
  readonly pace: Pace
  /** Longer silences of the capture are made so short; null: none is. Nanoseconds, before `speed`. */
  readonly maxGapNs: number | null
}

const SECOND_NS = 1e9
/** Frames out of order are nearer to one another. Farther back, the clock was set. */
const STEP_NS = 1e9

export class Schedule {
  /** Frames whose time was before that of a frame that came before them: they are sent right after it. */
  backward = 0
  /** Nanoseconds of silence that were left out, before `speed`. */
  cutNs = 0
  readonly #pace: Pace
  readonly #maxGapNs: number
  /** In the capture's time: nanoseconds since the first timed frame of this pass, of the frame before. */
  #atNs = 0
  /** Where in the play the pass begins, in the capture's time, less what was cut since. */
  #baseNs = 0
  #timed = 0
  #originSeconds = 0
  #originNanoseconds = 0
  /** How much later the origin was before the capture's clock was set back; 0: it was not, or is right again. */
  #setBackNs = 0
  #sent = 0
  #bits = 0

  constructor({ pace, maxGapNs }: ScheduleOptions) {
    this.#pace = pace
    this.#maxGapNs = maxGapNs ?? Number.POSITIVE_INFINITY
  }

  /**
   * The next frame's time in nanoseconds since the play began; never less than that of the frame before. A frame
   * without a time goes with the one before. `length`: bytes as they will be sent.
   */
  next(isTimed: boolean, seconds: number, nanoseconds: number, length: number): number {
    const pace = this.#pace
    const sent = this.#sent++
    const bits = this.#bits
    this.#bits += length * 8
    if (pace.kind === 'frames') return (sent * SECOND_NS) / pace.perSecond
    if (pace.kind === 'bits') return (bits * SECOND_NS) / pace.perSecond
    if (pace.kind === 'top') return 0
    if (isTimed) this.#move(seconds, nanoseconds)
    return (this.#baseNs + this.#atNs) / pace.speed
  }

  /**
   * The capture begins anew. Its first frame follows the last one by the mean gap of the pass that is over, as in a
   * capture that had gone on.
   */
  nextPass(): void {
    const gap = this.#timed > 1 ? this.#atNs / (this.#timed - 1) : 0
    this.#baseNs += this.#atNs + gap
    this.#atNs = 0
    this.#timed = 0
    this.#setBackNs = 0
  }

  #move(seconds: number, nanoseconds: number): void {
    if (this.#timed++ === 0) {
      this.#originSeconds = seconds
      this.#originNanoseconds = nanoseconds
      return
    }
    let at = (seconds - this.#originSeconds) * SECOND_NS + (nanoseconds - this.#originNanoseconds)
    const setBackNs = this.#setBackNs
    if (setBackNs > 0 && at - this.#atNs > STEP_NS && at - this.#atNs > setBackNs - STEP_NS) {
      // The clock is right again, or one frame alone had a wrong time: this is no silence.
      this.#moveOrigin(setBackNs)
      this.#setBackNs = 0
      at -= setBackNs
    }
    const gap = at - this.#atNs
    if (gap < 0) {
      this.backward++
      if (gap >= -STEP_NS) return
      // All that follows counts from here: else it would be due at once, until the capture's clock has caught up.
      this.#moveOrigin(gap)
      this.#setBackNs -= gap
      return
    }
    const left = Math.min(gap, this.#maxGapNs)
    if (left < gap) {
      // The origin moves with what is left out, in whole nanoseconds: times still count from it.
      const cut = Math.floor(gap - left)
      this.cutNs += cut
      this.#moveOrigin(cut)
      this.#atNs = at - cut
    } else this.#atNs = at
  }

  /** In whole seconds and the rest, so that no digit of a nanosecond is lost. */
  #moveOrigin(ns: number): void {
    const seconds = Math.floor(ns / SECOND_NS)
    this.#originSeconds += seconds
    this.#originNanoseconds += ns - seconds * SECOND_NS
  }
}
