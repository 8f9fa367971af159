// The machines that a restore brings to this host: what is known of each, who of them runs, and how those that must not
// are ended.

import type { RestoreResumed } from '../../../src/api/schemas.js'
import type { LoadedMachine } from '../../../src/hypervisor/hypervisor.js'
import type { PortEntry } from '../../ports/table.js'
import { type GatesHost, release, releaseOthers } from '../gates.js'
import type { Host } from '../host.js'
import { AWAY_MS } from '../resume.js'
import { type Loading, startedLoad } from './load.js'

const INSPECT_MS = 10_000
const END_AGAIN_MS = 3000

export interface Member extends Loading {
  ports: readonly PortEntry[]
  machine: LoadedMachine | null
  /** When it was seen to run; null: not yet. */
  resumedAtUs: number | null
}

type Resumed = RestoreResumed['resumed']

type MembersHost = GatesHost & Pick<Host, 'disks' | 'machines' | 'store'>

export class RestoreMembers {
  readonly all: Member[] = []
  readonly #host: MembersHost
  readonly #network: string
  /** Where disks of machines that run are from now on. */
  readonly #disks = new Map<string, { name: string; file: string }[]>()

  constructor(host: MembersHost, network: string) {
    this.#host = host
    this.#network = network
  }

  running(): Resumed {
    return this.all.flatMap(({ part, resumedAtUs }) => {
      const disks = this.#disks.get(part.vm)
      return resumedAtUs === null ? [] : [{ vm: part.vm, atUs: resumedAtUs, ...(disks === undefined ? {} : { disks }) }]
    })
  }

  async release({ ports }: Member): Promise<void> {
    const own = ports.filter((port) => port.network === this.#network)
    const indexes = own.map((port) => port.index)
    await release(this.#host, this.#network, indexes)
    await releaseOthers(
      this.#host,
      ports.filter((port) => !own.includes(port)),
    )
  }

  /** What runs now is on the disks that were loaded; what it was on before is left behind. */
  async learnDisks(): Promise<void> {
    for (const { part, machine, resumedAtUs } of this.all) {
      if (resumedAtUs === null) continue
      try {
        const { disks } = await machine!.control.inspect(this.#host.clock.now().ms + INSPECT_MS)
        await this.#host.disks.replace(part.vm, Object.fromEntries(disks.map((one) => [one.name, one.layers])))
        const files = disks.flatMap(({ name, layers: [top] }) => (top === undefined ? [] : [{ name, file: top.file }]))
        this.#disks.set(part.vm, files)
      } catch (thrown) {
        this.#host.log.error({ err: thrown, vm: part.vm }, 'cannot tell which disks it is on')
      }
    }
  }

  /** Answers with those that may still be there. `mayRun`: they have been told to run; those that do stay. */
  async end(mayRun: boolean, recorded: boolean): Promise<Member[]> {
    const ended = await Promise.all(this.all.map((member) => this.#endOne(member, mayRun, recorded)))
    return this.all.filter((_, at) => !ended[at])
  }

  /** False when it may still be there. One that runs stays. */
  async #endOne(member: Member, mayRun: boolean, recorded: boolean): Promise<boolean> {
    const host = this.#host
    const { part, machine } = member
    const deadline = host.clock.now().ms + AWAY_MS
    try {
      if (machine === null) {
        if (!recorded) return true
        // Its driver has tried to end it already.
        await host.machines.endLoad(startedLoad(member), false, host.clock.now().ms + END_AGAIN_MS)
        return true
      }
      if (mayRun && (await this.#runs(member, machine, deadline))) {
        await this.learnDisks()
        await this.release(member)
        return true
      }
      if (host.machines.spec(part.vm) === machine.spec) host.machines.delete(part.vm)
      await machine.control.destroy(deadline)
      return true
    } catch (thrown) {
      host.log.warn({ err: thrown, vm: part.vm }, 'while undoing a restore')
      return member.resumedAtUs !== null
    } finally {
      await machine?.control.close().catch(() => undefined)
    }
  }

  /** An answer that did not come in time does not mean that the guest stands still. */
  async #runs(member: Member, machine: LoadedMachine, deadline: number): Promise<boolean> {
    if (member.resumedAtUs !== null) return true
    const info = await machine.control.inspect(deadline).catch(() => null)
    if (info?.state !== 'running') return false
    member.resumedAtUs = this.#host.clock.now().wallUs
    return true
  }
}
