// How many frames of each color went one way over one channel. Colors in use are few (mostly one, two around a cut), so
// older ones are folded into a base and the current one is counted without a table look-up.

import type { StateExchange } from './state.js'

const KEPT_COLORS = 8

export class ColorCounter {
  /** Frames of any color. */
  total = 0
  #current = -1
  #currentCount = 0
  readonly #others = new Map<number, number>()

  /** `frames`: how many they are on the wire. */
  add(color: number, frames = 1): void {
    this.total += frames
    if (color !== this.#current) this.#switchTo(color)
    this.#currentCount += frames
  }

  /** Frames of colors below `epoch`. Exact for the last few colors. */
  below(epoch: number): number {
    let rest = this.total
    if (this.#current >= epoch) rest -= this.#currentCount
    for (const [color, count] of this.#others) if (color >= epoch) rest -= count
    return rest
  }

  reset(): void {
    this.total = 0
    this.#current = -1
    this.#currentCount = 0
    this.#others.clear()
  }

  exchange(state: StateExchange): void {
    this.total = state.value('total', this.total)
    this.#current = state.value('current', this.#current)
    this.#currentCount = state.value('currentCount', this.#currentCount)
    state.map('others', this.#others)
  }

  #switchTo(color: number): void {
    if (this.#current >= 0) this.#others.set(this.#current, this.#currentCount)
    this.#currentCount = this.#others.get(color) ?? 0
    this.#others.delete(color)
    this.#current = color
    // Folding into the base needs no more than forgetting the key: `total` holds the sum.
    if (this.#others.size > KEPT_COLORS) this.#others.delete(Math.min(...this.#others.keys()))
  }
}
