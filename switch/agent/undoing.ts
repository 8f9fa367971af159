// Unfinished snapshots are undone: those of a killed daemon when the next one starts; and what could not be put right
// then, or when a snapshot failed or a restore was called off, again and again. A hypervisor may be away for longer
// than anybody waits for it, and until its machine is right all files that it may need stay.

import type { RestoreRecord, UnfinishedSnapshot } from './journal.js'
import { type UndoHost, undoRestore, undoSnapshot } from './leftovers.js'
import type { Session, Sessions } from './sessions.js'

/**
 * A QEMU that was killed lets go of its images within seconds. Its owner may start it again soon, on a disk that lacks
 * what an overlay has yet.
 */
const FIRST_WAIT_MS = 3000
const LONGEST_WAIT_MS = 600_000
/** A network is not kept busy for a hypervisor that does not answer. */
const ANSWER_MS = 5000

/** What is on record of a network, which may be one that this host has no more. */
interface Unfinished {
  readonly snapshots: readonly UnfinishedSnapshot[]
  readonly restores: readonly RestoreRecord[]
}

const countOf = ({ snapshots, restores }: Unfinished) => snapshots.length + restores.length

const networksOf = (records: readonly { readonly network: string }[]) => new Set(records.map(({ network }) => network))

const machinesOf = ({ snapshots, restores }: Unfinished) => [
  ...snapshots.flatMap(({ machines }) => machines.map(({ vm, record }) => ({ vm, spec: record.spec }))),
  ...restores.flatMap(({ formers }) => formers ?? []),
]

export class Undoing {
  readonly #host: UndoHost
  readonly #sessions: Pick<Sessions, 'busy' | 'occupy' | 'end'>
  readonly #letGo: (vms: Iterable<string>) => Promise<void>
  /** Whether there may be something to undo. */
  #left = false
  #under = false
  #waitMs = FIRST_WAIT_MS
  #notBeforeMs = 0

  constructor(
    host: UndoHost,
    sessions: Pick<Sessions, 'busy' | 'occupy' | 'end'>,
    letGo: (vms: Iterable<string>) => Promise<void>,
  ) {
    this.#host = host
    this.#sessions = sessions
    this.#letGo = letGo
  }

  /** What a killed daemon has left of snapshots; the networks concerned are busy meanwhile. */
  async recover(): Promise<void> {
    const unfinished = await this.#host.journal.unfinished()
    await Promise.all(
      [...networksOf(unfinished)].map((network) => {
        const snapshots = unfinished.filter((one) => one.network === network)
        return this.#undo(network, { snapshots, restores: [] })
      }),
    )
    // What it has left of restores was tried before the ports were there (leftovers.ts).
    if ((await this.#host.journal.restores()).length > 0) this.mayBeLeft()
  }

  /** Call when a snapshot has failed, or a restore has left something. */
  mayBeLeft(): void {
    this.#left = true
    this.#waitMs = FIRST_WAIT_MS
    this.#notBeforeMs = this.#host.clock.now().ms + this.#waitMs
  }

  /** Tries again what is left, if it is time. Call now and then. Never rejects. True when something was undone. */
  async again(): Promise<boolean> {
    const { clock, log, journal } = this.#host
    if (!this.#left || this.#under || clock.now().ms < this.#notBeforeMs) return false
    this.#under = true
    this.#left = false
    this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS)
    let undone = false
    try {
      const networks = networksOf([...(await journal.unfinished()), ...(await journal.restores())])
      for (const network of networks) if (await this.#againIn(network)) undone = true
    } catch (thrown) {
      this.#left = true
      log.error({ err: thrown }, 'cannot undo what is left of snapshots and restores')
    }
    this.#notBeforeMs = clock.now().ms + this.#waitMs
    this.#under = false
    return undone
  }

  async #againIn(network: string): Promise<boolean> {
    const left = await this.#onRecord(network)
    if (countOf(left) === 0) return false
    const answers = this.#sessions.busy(network) === null && (await this.#answer(left))
    // The one that is unfinished may be the one under way.
    if (!answers || this.#sessions.busy(network) !== null) {
      this.#left = true
      return false
    }
    // Asked for once more: the one of before may have come to its end.
    await this.#undo(network, left, () => this.#onRecord(network))
    return countOf(await this.#onRecord(network)) < countOf(left)
  }

  async #undo(network: string, left: Unfinished, which = async () => left): Promise<void> {
    const machines = new Set(machinesOf(left).map(({ vm }) => vm))
    const session: Session = { name: 'undoing an unfinished snapshot or restore', work: { kind: 'undoing', machines } }
    this.#sessions.occupy(network, session)
    try {
      const { snapshots, restores } = await which()
      for (const one of snapshots) {
        await this.#letGo(one.machines.map(({ vm }) => vm))
        await undoSnapshot(this.#host, one)
      }
      for (const one of restores) {
        await this.#letGo([...one.machines, ...(one.formers ?? [])].map(({ vm }) => vm))
        await undoRestore(this.#host, one)
      }
      if (countOf(await this.#onRecord(network)) > 0) this.#left = true
    } catch (thrown) {
      this.#left = true
      this.#host.log.error({ err: thrown, network }, 'cannot undo an unfinished snapshot or restore')
    } finally {
      this.#sessions.end(network, session)
    }
  }

  async #onRecord(network: string): Promise<Unfinished> {
    const { journal } = this.#host
    const isHere = (one: { readonly network: string }) => one.network === network
    const snapshots = (await journal.unfinished()).filter(isHere)
    return { snapshots, restores: (await journal.restores()).filter(isHere) }
  }

  /** Whether all machines that may stand still can be asked, or have ended. */
  async #answer(left: Unfinished): Promise<boolean> {
    const { machines, clock } = this.#host
    const deadline = clock.now().ms + ANSWER_MS
    const specs = new Map(machinesOf(left).map(({ vm, spec }) => [vm, machines.spec(vm) ?? spec]))
    const answers = await Promise.allSettled(
      [...specs].map(([vm, spec]) =>
        machines.knownAs(vm, spec, async () => {
          if (spec === undefined || !(await machines.isThere(vm))) return
          await machines.using(vm, deadline, (control) => control.inspect(deadline))
        }),
      ),
    )
    return answers.every(({ status }) => status === 'fulfilled')
  }
}
