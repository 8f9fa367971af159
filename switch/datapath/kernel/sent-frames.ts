// When frames that the daemon has sent on are through: later ones of their pairs may be fast then. Frames to a TAP lie
// in its queue in their order. Frames to a veth wait, under load, in a queue of the processor on which the daemon ran,
// while a fast frame comes by another one.

import type { Kernel, Waiting } from './kernel.js'

/** Frames of a port that were sent on. */
export interface Sent {
  /** It is waited for what was sent by now; what is sent from now on is not among it. */
  await(): void
  /** What was waited for is through. */
  through(): void
}

/** So often it is looked, at most, while frames flow; and at every tick. There is a line to read of each processor. */
const LOOK_MS = 1
const PROCESSORS_PER_LOOK = 16

export class SentFrames {
  readonly #kernel: Kernel
  readonly #backlogs: Waiting
  readonly #ports = new Set<Sent>()
  readonly #veths = new Set<Sent>()
  readonly #intervalMs: number
  #isAwaiting = false
  #nextLook = 0
  /** Something was sent since the last look. */
  #hasMore = false

  constructor(kernel: Kernel) {
    this.#kernel = kernel
    this.#backlogs = kernel.waiting()
    this.#intervalMs = LOOK_MS * Math.ceil(kernel.processors / PROCESSORS_PER_LOOK)
  }

  add(port: Sent, isVeth: boolean): void {
    this.#ports.add(port)
    if (isVeth) this.#veths.add(port)
  }

  remove(port: Sent): void {
    this.#ports.delete(port)
    this.#veths.delete(port)
  }

  /** More have been sent. */
  more(): void {
    this.#hasMore = true
    const now = this.#kernel.now()
    if (now < this.#nextLook) return
    this.#nextLook = now + this.#intervalMs
    this.look()
  }

  look(): void {
    if (this.#isAwaiting) {
      if (!this.#backlogs.passed) return
      this.#through()
    }
    if (!this.#hasMore) return
    this.#hasMore = false
    for (const port of this.#ports) port.await()
    if (this.#veths.size === 0 || this.#backlogs.mark()) this.#through()
    else this.#isAwaiting = true
  }

  #through(): void {
    this.#isAwaiting = false
    for (const port of this.#ports) port.through()
  }
}
