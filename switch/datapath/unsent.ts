// Which ports have been given frames since the last flush: only these are flushed.

import { MAX_PORTS } from '../forwarding/counters.js'
import type { Port } from './port/port.js'

export class Unsent {
  #ports: Port[] = []
  #count = 0
  /** By index. */
  readonly #isNoted = new Uint8Array(MAX_PORTS)

  note(port: Port): void {
    if (this.#isNoted[port.index] === 1) return
    this.#isNoted[port.index] = 1
    this.#ports[this.#count++] = port
  }

  flush(): void {
    for (let i = 0; i < this.#count; i++) {
      const port = this.#ports[i]
      this.#isNoted[port.index] = 0
      port.flush()
    }
    this.#count = 0
  }

  /** The port is going, and everything has been flushed. */
  forget(): void {
    this.#ports = []
  }
}
