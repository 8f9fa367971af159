// From the fast path to the slow one: generations have changed, and from when `wait` returns no frame is under way by
// those of before. Three things follow one another in the kernel, and each is waited for:
//
// - A program reads a generation and ends: it counts itself in and out on its processor, and counting in is a full
//   fence.
// - What it has redirected is handed to the other device, on the same processor, with softirqs off.
// - Where that device is a veth, its other end receives it from a queue of a processor.

import type { Waiting } from './kernel.js'
import type { Shared } from './layout.js'

/** Programs take a microsecond; one that is interrupted, by a hypervisor that has other guests, say, takes longer. */
const PROGRAM_LIMIT_MS = 5
const BACKLOG_LIMIT_MS = 5

export class Barrier {
  /** Times that it was not sure that the order of frames is kept: queues of processors did not become empty. */
  unsure = 0
  readonly #shared: Shared
  /** By processor: programs that had begun there at the last `wait`. */
  readonly #entered: Int32Array
  readonly #targets: Int32Array
  /** By processor, at the last `haveRun`. */
  readonly #seen: Int32Array
  readonly #backlogs: Waiting

  constructor(shared: Shared) {
    this.#shared = shared
    this.#backlogs = shared.kernel.waiting()
    this.#entered = new Int32Array(shared.processors)
    this.#targets = new Int32Array(shared.processors)
    this.#seen = new Int32Array(shared.processors)
  }

  /** Whether any program has begun since the last call. */
  haveRun(): boolean {
    let any = false
    for (let i = 0; i < this.#shared.processors; i++) {
      const entered = this.#shared.entered(i)
      if (entered !== this.#seen[i]) any = true
      this.#seen[i] = entered
    }
    return any
  }

  /** Programs that have begun by now have ended within `limitMs`. */
  programsEnd(limitMs: number): boolean {
    const shared = this.#shared
    const { processors, kernel } = shared
    for (let i = 0; i < processors; i++) this.#targets[i] = shared.entered(i)
    const until = kernel.now() + limitMs
    for (let i = 0; i < processors; i++) {
      while (((shared.left(i) - this.#targets[i]) | 0) < 0) if (kernel.now() > until) return false
    }
    return true
  }

  /** False: the kernel does not let us be sure. */
  wait(): boolean {
    const { kernel } = this.#shared
    const ended = this.programsEnd(PROGRAM_LIMIT_MS)
    const visited: number[] = []
    for (let i = 0; i < this.#shared.processors; i++) {
      if (this.#targets[i] !== this.#entered[i]) visited.push(i)
      this.#entered[i] = this.#targets[i]
    }
    if (visited.length === 0 && ended) return true
    if (!(ended && kernel.visit(visited)) && !kernel.waitForReaders()) return false
    if (!this.#backlogs.drained(BACKLOG_LIMIT_MS)) this.unsure++
    return true
  }
}
