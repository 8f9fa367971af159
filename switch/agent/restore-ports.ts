// The ports of the machines that a restore places on this host: those that are here are taken, the others are made, with their
// TAPs, and go again when the restore is called off.

import type { MemberPart, PortRecord, RestoreRequest } from '../../src/api/schemas.js'
import type { PortEntry } from '../port-table.js'
import type { Host } from './host.js'
import type { RestoreRecord } from './journal.js'

export class RestorePorts {
  private readonly host: Host
  private readonly network: string
  private readonly added: { readonly name: string; readonly vm: string }[] = []
  /** TAPs that no port takes along when it goes. */
  private readonly madeTaps: { readonly device: string; readonly vm: string }[] = []

  constructor(host: Host, network: string) {
    this.host = host
    this.network = network
  }

  /** What `take` will make: to be on record before it is there. */
  planned(request: RestoreRequest): Pick<RestoreRecord, 'ports' | 'taps'> {
    const { ports } = this.host
    const all = request.members.flatMap((member) => member.ports.map((port) => ({ ...port, vm: member.vm })))
    const toAdd = all.filter(({ name }) => ports.get(name) === undefined)
    return {
      ports: toAdd.map(({ name, vm }) => ({ name, vm })),
      taps: all.filter(({ device }) => !ports.hasDevice(device)).map(({ device, vm }) => ({ device, vm })),
    }
  }

  /** All ports of a machine, in whatever network. What it throws leaves what was made to `giveBack`. */
  async take(part: MemberPart): Promise<PortEntry[]> {
    const entries: PortEntry[] = []
    for (const record of part.ports) {
      const here = this.host.ports.get(record.name)
      if (here === undefined) entries.push(await this.makePort(part.vm, record))
      else entries.push(await this.withDevice(part.vm, here, record))
    }
    return entries
  }

  /** Removes what was made, but for the ports of machines that run. */
  async giveBack(running: ReadonlySet<string>): Promise<void> {
    const { ports, log } = this.host
    for (const { name, vm } of this.added.splice(0)) {
      if (running.has(vm)) continue
      await ports.remove(name).catch((thrown) => log.warn({ err: thrown, port: name }, 'cannot remove a port'))
    }
    for (const { device: tap, vm } of this.madeTaps.splice(0)) {
      if (running.has(vm)) continue
      try {
        ports.removeTap(tap)
      } catch (thrown) {
        log.warn({ err: thrown, tap }, 'cannot remove a TAP')
      }
    }
  }

  /** A port may wait for its device: after a reboot no TAP is there. */
  private async withDevice(vm: string, port: PortEntry, record: PortRecord): Promise<PortEntry> {
    const { ports, epochs } = this.host
    if (ports.ensureTap(port.device, record.mtu)) this.madeTaps.push({ device: port.device, vm })
    return ports.bringBack(port.name, epochs.get(port.network))
  }

  private async makePort(vm: string, record: PortRecord): Promise<PortEntry> {
    const { ports, epochs } = this.host
    const made = ports.ensureTap(record.device, record.mtu)
    if (made) this.madeTaps.push({ device: record.device, vm })
    const network = record.network ?? this.network
    const request = { name: record.name, network, device: record.device, kind: 'member' as const, vm }
    const entry = await ports.add(request, epochs.get(network), made)
    this.added.push({ name: record.name, vm })
    // From now on the port owns the TAP and takes it along when it goes.
    if (made) this.madeTaps.pop()
    return entry
  }
}
