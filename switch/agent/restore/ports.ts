// The ports of the machines that a restore places on this host: those that are here are taken, the others are made,
// with their TAPs, and go again when the restore is called off. Gates are closed from the beginning, but for ports
// whose machine runs.

import type { MemberPart, PortRecord, RestoreRequest } from '../../../src/api/schemas.js'
import type { PortEntry } from '../../ports/table.js'
import { type GatesHost, gateOthers } from '../gates.js'
import type { Host } from '../host.js'
import type { RestoreRecord } from '../journal.js'
import { hasQueues } from './taps.js'

/** A bridge's port whose device is no machine's now: a machine that had it may have it again. */
export const isFree = ({ bridge, vm, kind }: PortEntry) => bridge !== undefined && vm === null && kind === 'plain'

type PortsHost = GatesHost & Pick<Host, 'epochs'>

export class RestorePorts {
  readonly #host: PortsHost
  readonly #network: string
  readonly #added: { readonly name: string; readonly vm: string }[] = []
  /** Made for ports that were here and had lost theirs, or that no port owns yet. */
  readonly #madeTaps: { readonly device: string; readonly vm: string }[] = []

  constructor(host: PortsHost, network: string) {
    this.#host = host
    this.#network = network
  }

  /** What `take` will make: to be on record before it is there. */
  planned(request: RestoreRequest): Pick<RestoreRecord, 'ports' | 'taps'> {
    const { ports } = this.#host
    const all = request.members.flatMap((member) => member.ports.map((port) => ({ ...port, vm: member.vm })))
    const toAdd = all.filter(({ name }) => ports.get(name) === undefined)
    return {
      ports: toAdd.map(({ name, vm }) => ({ name, vm })),
      taps: all.filter(({ device }) => !ports.hasDevice(device)).map(({ device, vm }) => ({ device, vm })),
    }
  }

  /** All ports of a machine, in whatever network. What it throws leaves what was made to `giveBack`. */
  async take(part: MemberPart, runs: boolean): Promise<PortEntry[]> {
    const { ports, epochs } = this.#host
    const entries: PortEntry[] = []
    for (const record of part.ports) {
      const network = record.network ?? this.#network
      const made = this.#ensureTap(part.vm, record, hasQueues(part, record.device))
      const there = await this.#madeMember(part.vm, record)
      if (there === undefined) entries.push(await this.#makePort(part.vm, record, made))
      else {
        // It may have waited for its device, which the machine's end had taken along.
        const back = (await ports.takeBack(record.name, epochs.get(network))) ?? there
        if (!runs) await gateOthers(this.#host, [back])
        entries.push(back)
      }
    }
    return entries
  }

  /** On a bridge that was taken over, the port of a machine that has ended is a plain one. */
  async #madeMember(vm: string, { name, network = this.#network }: PortRecord): Promise<PortEntry | undefined> {
    const { ports, epochs } = this.#host
    const there = ports.get(name)
    if (there === undefined || !isFree(there)) return there
    const { device, bridge, rules } = there
    const request = { name, network, device, kind: 'member' as const, vm, bridge: bridge! }
    await ports.change(rules === undefined ? request : { ...request, rules }, epochs.get(network))
    return ports.get(name)
  }

  #ensureTap(vm: string, { device, mtu }: PortRecord, several: boolean): boolean {
    const made = this.#host.ports.ensureTap(device, mtu, several)
    if (made) this.#madeTaps.push({ device, vm })
    return made
  }

  /** Removes what was made, but for machines that run. */
  async giveBack(running: ReadonlySet<string>): Promise<void> {
    const { ports, log } = this.#host
    for (const { name, vm } of this.#added.splice(0)) {
      if (running.has(vm)) continue
      await ports.remove(name).catch((thrown) => log.warn({ err: thrown, port: name }, 'cannot remove a port'))
    }
    for (const { device, vm } of this.#madeTaps.splice(0)) {
      if (running.has(vm)) continue
      try {
        ports.removeTap(device)
      } catch (thrown) {
        log.warn({ err: thrown, tap: device }, 'cannot remove a TAP')
      }
    }
  }

  async #makePort(vm: string, record: PortRecord, owns: boolean): Promise<PortEntry> {
    const { ports, epochs } = this.#host
    const network = record.network ?? this.#network
    const { name, device, rules } = record
    const request = { name, network, device, kind: 'member' as const, vm, ...(rules === undefined ? {} : { rules }) }
    const entry = await ports.add(request, epochs.get(network), owns, true)
    this.#added.push({ name: record.name, vm })
    return entry
  }
}
