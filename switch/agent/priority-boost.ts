// While guests stand still the daemon runs ahead of everything, for a bounded time. Work that can wait, waits: writing
// files, and telling others. libuv's threads, which do that work, are ordinary ones, and share locks with this one:
// measured, it waited 10 ms for one of them that had got no core to let go.

import type { Host } from './host.js'

/** How long the daemon may run ahead, waiting for TAKE and then for the cuts of all machines. */
const TAKE_LEAD_MS = 3000
const CUT_LEAD_MS = 300

export class PriorityBoost {
  readonly #host: Pick<Host, 'clock' | 'processor'>
  #boosted = false
  /** Each ends a lead that this thread or the datapath's has. */
  readonly #leads: (() => void)[] = []
  readonly #postponed: (() => void)[] = []

  constructor(host: Pick<Host, 'clock' | 'processor'>) {
    this.#host = host
  }

  /** All is prepared: TAKE may come, and is not to wait. */
  expectTake(): void {
    this.#leads.push(this.#host.processor.runAhead([process.pid], TAKE_LEAD_MS))
  }

  begin(datapathThread: number): void {
    this.#boosted = true
    const { clock, processor } = this.#host
    const end = processor.runAhead([process.pid, datapathThread], CUT_LEAD_MS)
    this.#leads.push(
      end,
      clock.after(CUT_LEAD_MS, () => this.end()),
    )
  }

  end(): void {
    for (const end of this.#leads.splice(0)) end()
    this.#boosted = false
    for (const work of this.#postponed.splice(0)) work()
  }

  /** Does the work now, or when the boost is over. */
  afterwards(work: () => void): void {
    if (this.#boosted) this.#postponed.push(work)
    else work()
  }
}
