// What the forwarding thread writes into a ring, as a stream for a client of the API: nothing wakes the reader of a
// ring, so it is looked at from time to time, as long as the client takes what comes. A client that takes nothing for
// long, although there is something, has gone without a word: the stream is closed.

import { Readable } from 'node:stream'

/** How long what was written waits at most before it is looked for. */
const LOOK_MS = 10
/** Between two of what is said regularly. */
const REGULAR_MS = 1000
/** Bytes that are given out at once, about. */
export const PIECE = 256 * 1024

export interface PolledSource {
  /**
   * Called at each look, before `next`: what was written until then is given out yet. True: nothing more is written.
   * `now`: performance.now().
   */
  isOver(now: number): boolean
  /** What was written, some of it; null: nothing new. One piece at a time: others have something to do, too. */
  next(): Uint8Array | null
  /** Goes between the pieces, once a second. */
  regular(): Uint8Array
  /** What ends the stream. */
  last(): Uint8Array
  /** The stream is closed, at its end or before. */
  closed(): void
}

export class PolledStream extends Readable {
  readonly #source: PolledSource
  readonly #stalledMs: number
  #timer: NodeJS.Timeout | null = null
  /** Somebody takes what comes. */
  #wanted = false
  #wantedLast = performance.now()
  #nextRegular = 0
  #isAtEnd = false
  /** Bytes given out. */
  sent = 0

  /** `stalledMs`: a client that takes nothing for so long has gone. */
  constructor(source: PolledSource, stalledMs: number) {
    super({ highWaterMark: PIECE })
    this.#source = source
    this.#stalledMs = stalledMs
  }

  /** What comes before all pieces. */
  begin(head: Uint8Array): void {
    this.#send(head)
  }

  override _read(): void {
    this.#wanted = true
    this.look()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#source.closed()
    done(error)
  }

  /** Passes on what is there, as long as somebody takes it; looks again in a moment. */
  look(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    if (this.destroyed || this.#isAtEnd) return
    const now = performance.now()
    if (this.#wanted) this.#wantedLast = now
    else if (now - this.#wantedLast > this.#stalledMs) {
      this.destroy()
      return
    }
    const isOver = this.#source.isOver(now)
    if (this.#wanted && now >= this.#nextRegular) {
      this.#nextRegular = now + REGULAR_MS
      this.#send(this.#source.regular())
    }
    const piece = this.#wanted ? this.#source.next() : null
    if (piece !== null) this.#send(piece)
    else if (this.#wanted && isOver) {
      this.#send(this.#source.last())
      this.#isAtEnd = true
      this.push(null)
      return
    }
    // A piece that was taken at once has had _read called: it looks by itself.
    this.#timer ??= setTimeout(() => this.look(), piece === null || !this.#wanted ? LOOK_MS : 0)
  }

  #send(bytes: Uint8Array): void {
    this.sent += bytes.length
    this.#wanted = this.push(bytes)
  }
}
