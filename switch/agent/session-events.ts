// The events of a session, for all who listen: from its beginning, however late they come.

import type { LocalEvent } from '../../src/api/schemas.js'

export class SessionEvents {
  readonly #listeners = new Set<(event: LocalEvent) => void>()
  readonly #past: LocalEvent[] = []
  /** How many of them the listeners have heard. */
  #told = 0

  /** Nobody hears it before `tell`. */
  add(event: LocalEvent): void {
    this.#past.push(event)
  }

  tell(): void {
    while (this.#told < this.#past.length) {
      const event = this.#past[this.#told++]
      for (const listener of this.#listeners) listener(event)
    }
  }

  /** Returns how to stop. */
  listen(listener: (event: LocalEvent) => void): () => void {
    for (const event of this.#past.slice(0, this.#told)) listener(event)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}
