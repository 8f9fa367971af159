// When frames that the daemon has sent on are through: later ones of their pairs may be fast then. What is sent to a TAP
// lies in the order of its queue. What is sent to a veth waits, under load, in a queue of the processor on which the
// daemon ran, while a fast frame comes by another one.

import { Backlogs } from '../../../src/linux/processors.js'
import type { Buckets } from './buckets.js'

/** So often it is looked, at most, while frames flow; and at every tick. There is a line to read of each processor. */
const LOOK_MS = 1
const PROCESSORS_PER_LOOK = 16

export class SentFrames {
  readonly #backlogs = new Backlogs()
  readonly #ports = new Set<Buckets>()
  readonly #veths = new Set<Buckets>()
  readonly #intervalMs: number
  #isAwaiting = false
  #nextLook = 0

  constructor(processors: number) {
    this.#intervalMs = LOOK_MS * Math.ceil(processors / PROCESSORS_PER_LOOK)
  }

  add(port: Buckets, isVeth: boolean): void {
    this.#ports.add(port)
    if (isVeth) this.#veths.add(port)
  }

  remove(port: Buckets): void {
    this.#ports.delete(port)
    this.#veths.delete(port)
  }

  /** More have been sent. */
  more(): void {
    const now = performance.now()
    if (now < this.#nextLook) return
    this.#nextLook = now + this.#intervalMs
    this.look()
  }

  look(): void {
    if (this.#isAwaiting) {
      if (!this.#backlogs.passed) return
      this.#through()
    }
    for (const port of this.#ports) port.await()
    if (this.#veths.size === 0 || this.#backlogs.mark()) this.#through()
    else this.#isAwaiting = true
  }

  close(): void {
    this.#backlogs.close()
  }

  #through(): void {
    this.#isAwaiting = false
    for (const port of this.#ports) port.through()
  }
}
