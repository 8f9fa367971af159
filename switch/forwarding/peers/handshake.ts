// Which sealed control frames of a trunk's peer are believed (networks with a `controlKey`). The key says that a switch
// of the network has made a frame; this says that it made it now, for us, and that it has not been seen before:
//
// - A frame must name our boot (`heard`), or it was made for another switch or for a former run of this one.
// - A boot's frames are taken in growing sequence only.
// - A boot that is new to us is believed only by a HELLO that names a frame which we sent within FRESH: whoever sends
//   it has the key and has listened to us just now. An old boot's recorded HELLOs name older frames, or none of ours.
// - A port that is new believes nobody yet, whatever its peer remembers of the port before it. So each tells the other
//   that it has heard it: the peer when it is named nobody, and the new port when what is named is too old.
//
// Our own sequence is the time in microseconds, made to grow: so a frame's age can be told from what it names, and a
// clock set back costs nothing within a boot. Deterministic: time is an input.

import type { StateExchange } from '../../../src/epoch/state.js'
import { type BootSequence, NOBODY, type SealedMessage } from '../../../src/frame/sealed-control.js'

/** Milliseconds within which a HELLO of ours must be answered by a boot that is new to us. */
const FRESH = 3500
/** At most one answer per so many milliseconds to boots that are not believed: a recording must not make us talk. */
const ANSWER_INTERVAL_MS = 20
/** Boots whose sequence is remembered; anything older fails by freshness. */
const BOOTS_KEPT = 8

export type Judgement = 'believed' | 'answer' | 'ignore' | 'control-replayed' | 'control-unexpected'

/** One per network: the sequence is common to all trunks. */
export class Sequence {
  #last = 0

  next(now: number): number {
    this.#last = Math.max(this.#last + 1, Math.floor(now * 1000))
    return this.#last
  }

  exchange(state: StateExchange): void {
    this.#last = state.value('sequence', this.#last)
  }

  /** Whether `sequence` is of a frame that was sent within FRESH. */
  isFresh(sequence: number, now: number): boolean {
    return sequence <= this.#last && sequence >= (Math.min(now, this.#last / 1000) - FRESH) * 1000
  }
}

/** One per trunk. */
export class Handshake {
  readonly #bootId: string
  readonly #own: Sequence
  readonly #sequences = new Map<string, number>()
  #believed: BootSequence | null = null
  #candidate: BootSequence = NOBODY
  #nextAnswer = Number.NEGATIVE_INFINITY

  constructor(bootId: string, own: Sequence) {
    this.#bootId = bootId
    this.#own = own
  }

  /** What our next frame names: the peer; in an answer to a boot that is not believed yet, that boot. */
  heard(answering: boolean): BootSequence {
    return answering ? this.#candidate : (this.#believed ?? this.#candidate)
  }

  /** `isHello`: only a HELLO can make a boot known. */
  judge({ message, sequence, heard }: SealedMessage, isHello: boolean, now: number): Judgement {
    const { bootId } = message
    if (sequence <= (this.#sequences.get(bootId) ?? -1)) return 'control-replayed'
    const isPeer = bootId === this.#believed?.bootId
    if (heard.bootId !== this.#bootId) {
      if (!isHello || (isPeer && heard.bootId !== NOBODY.bootId)) return 'control-unexpected'
      return this.#answer({ bootId, sequence }, now)
    }
    if (!isPeer) {
      if (!isHello) return 'control-unexpected'
      if (!this.#own.isFresh(heard.sequence, now))
        return this.#believed === null ? this.#answer({ bootId, sequence }, now) : 'control-replayed'
    }
    this.#believed = { bootId, sequence }
    this.#sequences.delete(bootId)
    this.#sequences.set(bootId, sequence)
    if (this.#sequences.size > BOOTS_KEPT) this.#sequences.delete(this.#sequences.keys().next().value!)
    return 'believed'
  }

  exchange(state: StateExchange): void {
    state.map('sequences', this.#sequences)
    this.#believed = state.value('believed', this.#believed)
    this.#candidate = state.value('candidate', this.#candidate)
    this.#nextAnswer = state.value('nextAnswer', this.#nextAnswer)
  }

  #answer(candidate: BootSequence, now: number): Judgement {
    this.#candidate = candidate
    if (now < this.#nextAnswer) return 'ignore'
    this.#nextAnswer = now + ANSWER_INTERVAL_MS
    return 'answer'
  }
}
