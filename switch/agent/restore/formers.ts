// The former selves of a restore's machines on this host: paused behind closed gates, then resumed when the restore is
// called off, or ended when the new ones take their places.

import { asSnapswitchError, SnapswitchError } from '../../../src/errors/errors.js'
import type { MachineControl } from '../../../src/hypervisor/hypervisor.js'
import type { PortEntry } from '../../ports/table.js'
import { allOf } from '../all-of.js'
import { type GatesHost, gateOthers, releaseOthers } from '../gates.js'
import type { Host } from '../host.js'
import type { RestoreRecord } from '../journal.js'
import { AWAY_MS, hasEnded, resumeMachine } from '../resume.js'

interface Former {
  readonly vm: string
  readonly control: MachineControl
  readonly ports: readonly PortEntry[]
  /** It ran when it was told to stop. */
  readonly ran: boolean
  ended: boolean
}

type FormersHost = GatesHost & Pick<Host, 'machines'>

export class Formers {
  readonly #host: FormersHost
  readonly #found = new Map<string, Former>()

  constructor(host: FormersHost) {
    this.#host = host
  }

  /** Connects to those that are here; nothing is touched. Throws MACHINE_RUNNING when none may be. */
  async find(machines: readonly string[], replace: boolean, deadline: number): Promise<void> {
    const host = this.#host
    for (const vm of machines) {
      if (this.#found.has(vm) || !(await host.machines.isThere(vm))) continue
      if (!replace) {
        throw new SnapswitchError(
          'MACHINE_RUNNING',
          `${vm} has been started meanwhile`,
          'Shut it down, or give --replace to end it.',
        )
      }
      const control = await host.machines.attach(vm, deadline)
      try {
        const ran = (await control.inspect(deadline)).state === 'running'
        this.#found.set(vm, { vm, control, ports: host.ports.ofMachine(vm), ran, ended: false })
      } catch (thrown) {
        await control.close().catch(() => undefined)
        throw thrown
      }
    }
  }

  /** What it takes to resume them should this daemon be killed, or not be able to. */
  record(vms: readonly string[] = this.names()): NonNullable<RestoreRecord['formers']> {
    return [...this.#found.values()].flatMap(({ vm, control, ran }) => {
      const spec = this.#host.machines.spec(vm)
      return spec === undefined || !ran || !vms.includes(vm) ? [] : [{ vm, incarnation: control.incarnation, spec }]
    })
  }

  /** On return none of them sends, and what is sent to them waits. When it throws, no pause is under way any more. */
  async pause(deadline: number): Promise<void> {
    await allOf(
      [...this.#found.values()].map(async ({ control, ports, ran, ended }) => {
        if (ended) return
        await gateOthers(this.#host, ports)
        if (ran) await control.pause(deadline)
      }),
    )
  }

  names(): string[] {
    return [...this.#found.keys()]
  }

  /** They go on as if nothing had been. Never rejects; those that stand still are named. */
  async resume(): Promise<string[]> {
    const host = this.#host
    const stuck: string[] = []
    await Promise.all(
      [...this.#found.values()].map(async ({ vm, control, ports, ran, ended }) => {
        if (ended) return
        try {
          if (ran) await resumeMachine(host, vm, control, host.clock.now().ms + AWAY_MS)
        } catch (thrown) {
          host.log.error({ err: thrown, vm }, 'cannot resume a machine that a restore has paused')
          if (!hasEnded(asSnapswitchError(thrown))) stuck.push(vm)
        }
        await releaseOthers(
          host,
          ports.filter(({ name }) => host.ports.get(name) !== undefined),
        ).catch((thrown) => host.log.warn({ err: thrown, vm }, 'cannot open the gates of a machine'))
      }),
    )
    return stuck
  }

  /** Past the barrier. May be asked again. */
  async end(deadline: number): Promise<void> {
    await allOf(
      [...this.#found.values()].map(async (former) => {
        if (former.ended) return
        await former.control.destroy(deadline)
        former.ended = true
      }),
    )
  }

  /** Whether one was here that has not been ended. */
  isHere(vm: string): boolean {
    return this.#found.get(vm)?.ended === false
  }

  async close(): Promise<void> {
    await Promise.all([...this.#found.values()].map(({ control }) => control.close().catch(() => undefined)))
    this.#found.clear()
  }
}
