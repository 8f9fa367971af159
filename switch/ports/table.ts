// Which ports this host has: names, devices and indexes, by machine and network.

import type { PortKind, PortRules } from '../../src/api/schemas.js'
import type { Link } from '../../src/linux/link-message.js'
import type { UplinkColor } from '../config.js'

export interface PortRequest {
  readonly name: string
  readonly network: string
  readonly device: string
  readonly kind: PortKind
  readonly vm: string | null
  /** Of an uplink: how members' frames to peers are colored. */
  readonly color?: UplinkColor
  /** What it lets in and out; left out: all. */
  readonly rules?: PortRules
  /** Index of the bridge that its device stays in: others see to what of it the bridge gets. */
  readonly bridge?: number
}

export interface PortEntry extends PortRequest {
  readonly index: number
  readonly ifindex: number
  /** What the device is called now; it may be renamed, and `device` be one of its other names. */
  readonly ifname: string
  readonly mtu: number
  readonly mac: string | null
  /** Frames that may wait in it for its reader. */
  readonly queueLength: number
  /** Made by this daemon for a restored machine, so removed with the port. */
  readonly ownsDevice: boolean
}

/** What a port takes over from its device, and follows when it changes. */
export type DeviceFields = Pick<PortEntry, 'ifindex' | 'ifname' | 'mtu' | 'mac' | 'queueLength'>

export function fieldsOf(link: Link): DeviceFields {
  const { index, name, mtu, mac, queueLength } = link
  return { ifindex: index, ifname: name, mtu, mac, queueLength }
}

/** All of a port but what was asked for. */
export function deviceOf(entry: PortEntry): Omit<PortEntry, keyof PortRequest> {
  const { index, ifindex, ifname, mtu, mac, queueLength, ownsDevice } = entry
  return { index, ifindex, ifname, mtu, mac, queueLength, ownsDevice }
}

export class PortTable {
  protected readonly entries = new Map<string, PortEntry>()

  all(): PortEntry[] {
    return [...this.entries.values()]
  }

  get count(): number {
    return this.entries.size
  }

  get(name: string): PortEntry | undefined {
    return this.entries.get(name)
  }

  byIndex(index: number): PortEntry | undefined {
    return this.all().find((port) => port.index === index)
  }

  /** Member ports of a machine; in one network when `network` is given. */
  ofMachine(vm: string, network?: string): PortEntry[] {
    return this.all().filter((port) => port.vm === vm && (network === undefined || port.network === network))
  }

  membersOf(network: string): PortEntry[] {
    return this.all().filter((port) => port.network === network && port.kind === 'member')
  }

  /** Names of the machines with a port in the network. */
  machinesOf(network: string): string[] {
    return [...new Set(this.membersOf(network).map((port) => port.vm!))]
  }
}
