// How far the files of a restore have come, all together, told several times a second and no oftener.

import type { Transfer } from './sequence/restore/plan.js'
import type { OnProgress } from './sequence-runner.js'

const everyMs = 250

export class Copying {
  readonly #progress: OnProgress
  readonly #now: () => { readonly ms: number; readonly wallUs: number }
  #ofBytes = 0
  #ofFiles = 0
  #bytes = 0
  #files = 0
  #toldAtMs = Number.NEGATIVE_INFINITY

  constructor(progress: OnProgress, now: () => { readonly ms: number; readonly wallUs: number }) {
    this.#progress = progress
    this.#now = now
  }

  begin(transfers: readonly Transfer[]): void {
    this.#ofFiles = transfers.length
    this.#ofBytes = transfers.reduce((sum, { file }) => sum + file.bytes, 0)
  }

  /** Of one transfer: what it adds can be taken back should it fail. */
  account(): { add(bytes: number): void; done(): void; takeBack(): void } {
    let own = 0
    return {
      add: (bytes) => {
        own += bytes
        this.#bytes += bytes
        this.#tell(false)
      },
      done: () => {
        this.#files++
        this.#tell(this.#files === this.#ofFiles)
      },
      takeBack: () => {
        this.#bytes -= own
        own = 0
      },
    }
  }

  #tell(always: boolean): void {
    const { ms, wallUs } = this.#now()
    if (!always && ms - this.#toldAtMs < everyMs) return
    this.#toldAtMs = ms
    const copied = { bytes: this.#bytes, ofBytes: this.#ofBytes, files: this.#files, ofFiles: this.#ofFiles }
    this.#progress({ text: 'copying files', copied, atUs: wallUs })
  }
}
