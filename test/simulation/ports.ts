// The ports of a host: each NIC's TAP is there on every host, so a port only comes and goes.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { PortEntry, PortRequest } from '../../switch/ports/table.js'
import { FreePorts } from '../switch/free-ports.js'
import type { Daemon } from './daemon.js'
import type { Nic } from './guest.js'
import { networkName } from './networks.js'
import { PLAIN_PORT, trunkPort, UPLINK_PORT } from './trunk.js'

export function requestFor({ index, network, guest }: Nic): PortRequest {
  const names = { name: `p${index}`, network: networkName(network), device: `tap${index}`, vm: guest.name }
  return { ...names, kind: 'member' }
}

export class VirtualPorts extends FreePorts {
  readonly #daemon: Daemon

  constructor(daemon: Daemon) {
    super()
    this.#daemon = daemon
    const { world, host } = daemon
    const enter = (index: number, network: number, kind: PortEntry['kind']) =>
      this.enter({ name: `p${index}`, network: networkName(network), device: `dev${index}`, kind, vm: null }, index)
    for (const network of world.networks)
      for (const peer of world.peersOf(host.index, network)) enter(trunkPort(network, peer), network, 'trunk')
    if (world.scenario.lan !== null) enter(UPLINK_PORT, 0, 'uplink')
    if (world.scenario.outside.includes(host.index)) enter(PLAIN_PORT, 0, 'plain')
  }

  /** Those of NICs that the daemon begins with. */
  open(names: readonly string[]): void {
    for (const nic of this.#daemon.world.nics) if (names.includes(`p${nic.index}`)) this.#enterNic(nic)
  }

  nics(): Nic[] {
    return this.#daemon.world.nics.filter(({ index }) => this.get(`p${index}`) !== undefined)
  }

  async add({ name, network }: PortRequest, epoch: number, _owns?: boolean, gated = false): Promise<PortEntry> {
    const nic = this.#daemon.world.nics[Number(name.slice(1))]
    const entry = this.#enterNic(nic)
    await this.#daemon.datapath.addPort(network, nic, epoch, gated)
    return entry
  }

  async remove(name: string): Promise<void> {
    const entry = this.get(name)
    if (entry === undefined) return
    this.entries.delete(name)
    await this.#daemon.datapath.call('removePort', { network: entry.network, index: entry.index })
  }

  /** Trunks whose device is away. */
  override problemsOf(network: string): SnapswitchError[] {
    const { worker } = this.#daemon
    return this.all()
      .filter((port) => port.network === network && port.kind === 'trunk' && worker?.ingress[port.index] === undefined)
      .map(({ name }) => new SnapswitchError('DEVICE_MISSING', `the device of port ${name} is gone`, 'None.'))
  }

  #enterNic(nic: Nic): PortEntry {
    return this.enter(requestFor(nic), nic.index)
  }
}
