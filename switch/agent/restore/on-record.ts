// What a restore has under way on this host, on disk (journal.ts): before anything is touched, until it is over. A
// network has one record, so what an earlier restore has left comes first.

import type { RestoreRecord } from '../journal.js'
import { type UndoHost, undoRestore } from '../leftovers.js'
import { type Loading, startedLoad } from './load.js'

/** What a restore is about to make. */
type Made = Pick<RestoreRecord, 'ports' | 'taps' | 'standIns'>
type FormerRecords = NonNullable<RestoreRecord['formers']>

export class OnRecord {
  readonly #host: UndoHost
  readonly #network: string
  readonly #snapshot: string
  #made: Made | null = null
  #isWritten = false

  constructor(host: UndoHost, network: string, snapshot: string) {
    this.#host = host
    this.#network = network
    this.#snapshot = snapshot
  }

  /** Something is on record that is to be undone should the daemon be killed. */
  get isWritten(): boolean {
    return this.#isWritten
  }

  /** Puts right what an earlier restore of the network has left. Throws when that cannot be done yet. */
  async clear(): Promise<void> {
    if (this.#isWritten) return
    for (const record of await this.#host.journal.restores()) {
      if (record.network !== this.#network) continue
      const failure = await undoRestore(this.#host, record)
      if (failure !== null) throw failure
    }
  }

  /** Makes durable what is to be undone should the daemon be killed (leftovers.ts). `made` is asked for once. */
  async write(resuming: boolean, members: readonly Loading[], formers: FormerRecords, made: () => Made): Promise<void> {
    if (members.length === 0 && formers.length === 0) return
    this.#isWritten = true
    this.#made ??= made()
    await this.#put(resuming, members, formers, this.#made)
  }

  /** The restore is called off: what could not be put right stays on record. The ports and TAPs are given back. */
  async keep(resuming: boolean, members: readonly Loading[], formers: FormerRecords): Promise<void> {
    if (members.length === 0 && formers.length === 0) await this.remove()
    else await this.#put(resuming, members, formers, { ports: [], taps: [] })
  }

  /** The restore is over. Never rejects. */
  async remove(): Promise<void> {
    if (!this.#isWritten) return
    const { journal, log } = this.#host
    await journal
      .removeRestore(this.#network)
      .catch((thrown) => log.error({ err: thrown, network: this.#network }, 'cannot remove a record'))
  }

  #put(resuming: boolean, members: readonly Loading[], formers: FormerRecords, made: Made): Promise<void> {
    const machines = members.map(startedLoad)
    const names = { network: this.#network, snapshot: this.#snapshot }
    return this.#host.journal.writeRestore({ ...names, resuming, machines, formers, ...made })
  }
}
