// What is under way in each network: one snapshot or restore at a time, and none while another network that shares a
// machine with it has one.

import { unknownNetwork } from '../../src/api/names.js'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type { WantedView } from '../wanted/wanted.js'
import type { Host } from './host.js'
import { networkBusy, stopping } from './refusals.js'
import type { RestoreSession } from './restore/session.js'
import type { SnapshotSession } from './snapshot/session.js'

/** A snapshot that is being prepared. */
export interface Preparation {
  readonly snapshot: string
  /** Aborted with what called it off. */
  readonly off: AbortController
  /** What keeps it from being whole. */
  broken: SnapswitchError | null
  /** Never rejects. */
  ended: Promise<unknown>
}

export type Work =
  | { readonly kind: 'preparation'; readonly preparation: Preparation }
  | { readonly kind: 'snapshot'; readonly snapshot: SnapshotSession }
  /** `others`: other networks that it brings ports to: they are busy before its machines are there. */
  | { readonly kind: 'restore'; readonly restore: RestoreSession; readonly others: ReadonlySet<string> }
  /** What a killed daemon has left is put right. `machines`: of a network, too, that is no more. */
  | { readonly kind: 'undoing'; readonly machines: ReadonlySet<string> }
  /** Its ports or settings change. */
  | { readonly kind: 'changing' }

export interface Session {
  readonly name: string
  work: Work
}

export class Sessions {
  readonly #host: Pick<Host, 'name' | 'ports'>
  readonly #wanted: Pick<WantedView, 'networks'>
  readonly #sessions = new Map<string, Session>()
  #closed = false
  /** Called when what was under way in a network has ended. */
  onEnd: () => void = () => undefined

  constructor(host: Pick<Host, 'name' | 'ports'>, wanted: Pick<WantedView, 'networks'>) {
    this.#host = host
    this.#wanted = wanted
  }

  of(network: string): Session | null {
    return this.#sessions.get(network) ?? null
  }

  all(): [network: string, Session][] {
    return [...this.#sessions]
  }

  preparationOf(network: string): Preparation | null {
    const work = this.#sessions.get(network)?.work
    return work?.kind === 'preparation' ? work.preparation : null
  }

  /** Null also while it is being prepared. */
  snapshotOf(network: string): SnapshotSession | null {
    const work = this.#sessions.get(network)?.work
    return work?.kind === 'snapshot' ? work.snapshot : null
  }

  restoreOf(network: string): RestoreSession | null {
    const work = this.#sessions.get(network)?.work
    return work?.kind === 'restore' ? work.restore : null
  }

  /** What is under way in the network, or in another one that shares a machine with it. */
  busy(network: string): string | null {
    const own = this.#sessions.get(network)?.name
    if (own !== undefined || this.#sessions.size === 0) return own ?? null
    const machines = new Set(this.#host.ports.machinesOf(network))
    for (const [other, { name, work }] of this.#sessions) {
      const shares = this.#machinesOf(other, work).some((vm) => machines.has(vm))
      const comes = work.kind === 'restore' && work.others.has(network)
      if (shares || comes) return `${name} of network ${other}`
    }
    return null
  }

  /** All machines that something is under way with. */
  machines(): ReadonlySet<string> {
    const vms = [...this.#sessions].flatMap(([network, { work }]) => [
      ...this.#machinesOf(network, work),
      ...(work.kind === 'restore' ? work.restore.machines : []),
    ])
    return new Set(vms)
  }

  #machinesOf(network: string, work: Work): string[] {
    return [...this.#host.ports.machinesOf(network), ...(work.kind === 'undoing' ? work.machines : [])]
  }

  /** Why nothing can begin in the network now; null when it can. */
  refusal(network: string): SnapswitchError | null {
    return this.#refused(network, (known) => this.busy(known))
  }

  /**
   * Why no port of a restored machine can come to another network of it now. What goes on with other machines there
   * may.
   */
  portRefusal(network: string): SnapswitchError | null {
    return this.#refused(network, (known) => this.#sessions.get(known)?.name ?? null)
  }

  #refused(network: string, busyWith: (known: string) => string | null): SnapswitchError | null {
    const unknown = this.#unknown(network)
    if (unknown !== null) return unknown
    const busy = busyWith(network)
    return busy === null ? null : networkBusy(this.#host.name, network, busy)
  }

  /** Throws NETWORK_UNKNOWN. */
  check(network: string): void {
    const unknown = this.#unknown(network)
    if (unknown !== null) throw unknown
  }

  /** Throws NETWORK_UNKNOWN, SNAPSHOT_BUSY; once the daemon is stopping, SNAPSHOT_DISCARDED. */
  begin(network: string, session: Session): Session {
    const refusal = this.#closed ? stopping : this.refusal(network)
    if (refusal !== null) throw refusal
    this.#sessions.set(network, session)
    return session
  }

  /** For what must be undone whatever else is under way: nothing begins meanwhile. */
  occupy(network: string, session: Session): void {
    this.#sessions.set(network, session)
  }

  /** Harmless when it has ended already. */
  end(network: string, session: Session): void {
    if (this.#sessions.get(network) !== session) return
    this.#sessions.delete(network)
    this.onEnd()
  }

  /** From now on nothing begins. */
  close(): void {
    this.#closed = true
  }

  #unknown(network: string): SnapswitchError | null {
    const known = this.#wanted.networks()
    return known.includes(network) ? null : unknownNetwork(`host ${this.#host.name}`, network, known)
  }
}
