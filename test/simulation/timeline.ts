// Virtual time: a queue of what is to happen, in order of time and, within an instant, of entry. Nothing waits for
// real.

export interface Entry {
  readonly at: number
  readonly order: number
  act: (() => void) | null
}

export class Timeline {
  /** Virtual milliseconds. */
  now = 0
  /** A promise was answered: what waits for it goes on before time does. */
  promised = false
  readonly #heap: Entry[] = []
  #entered = 0

  get pending(): number {
    return this.#heap.length
  }

  after(ms: number, act: () => void): Entry {
    return this.#enter({ at: this.now + ms, order: this.#entered++, act })
  }

  at(time: number, act: () => void): Entry {
    return this.#enter({ at: Math.max(time, this.now), order: this.#entered++, act })
  }

  /** Before anything else that is due now: a crash strikes between two steps. */
  next(act: () => void): Entry {
    return this.#enter({ at: this.now, order: -1, act })
  }

  /** Lets the next thing happen; false when nothing is to come. */
  step(): boolean {
    const entry = this.#take()
    if (entry === undefined) return false
    this.now = entry.at
    const act = entry.act
    if (act !== null) act()
    return true
  }

  #enter(entry: Entry): Entry {
    const heap = this.#heap
    let at = heap.length
    heap.push(entry)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(entry, heap[parent])) break
      heap[at] = heap[parent]
      at = parent
    }
    heap[at] = entry
    return entry
  }

  #take(): Entry | undefined {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++
      if (!before(heap[child], last)) break
      heap[at] = heap[child]
      at = child
    }
    heap[at] = last
    return first
  }
}

function before(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}
