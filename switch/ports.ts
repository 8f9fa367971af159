// The ports of this host: names, devices and indexes; how they come and go while the daemon runs.

import type { Logger } from 'pino'
import type { PortInfo, PortKind, PortRecord } from '../src/api/schemas.js'
import { SnapswitchError } from '../src/errors/errors.js'
import { parseMac } from '../src/frame/ethernet.js'
import { type QuietLink, quietLink } from '../src/linux/ingress.js'
import { type Link, Links } from '../src/linux/link.js'
import { createTap } from '../src/linux/tap.js'
import type { UnreadFrames } from './agent/unread.js'
import type { Datapath } from './datapath/datapath.js'
import { Counter, MAX_PORTS, ROW, readPortCounters } from './forwarding/counters.js'

export interface PortEntry {
  readonly index: number
  readonly name: string
  readonly network: string
  readonly device: string
  readonly kind: PortKind
  readonly vm: string | null
  readonly ifindex: number
  readonly mtu: number
  /** Made by this daemon for a restored machine, so removed with the port. */
  readonly ownsDevice: boolean
}

export interface PortRequest {
  readonly name: string
  readonly network: string
  readonly device: string
  readonly kind: PortKind
  readonly vm: string | null
}

/** A color tag makes frames this much longer. */
const TAG_ROOM = 4

export class Ports {
  private readonly datapath: Datapath
  private readonly unread: UnreadFrames
  private readonly log: Logger
  private readonly links = new Links()
  private readonly entries = new Map<string, PortEntry>()
  private readonly quiet = new Map<string, QuietLink>()
  private readonly used = new Uint8Array(MAX_PORTS)

  constructor(datapath: Datapath, unread: UnreadFrames, log: Logger) {
    this.datapath = datapath
    this.unread = unread
    this.log = log
  }

  all(): PortEntry[] {
    return [...this.entries.values()]
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

  /**
   * Takes a device into a network. From here on the host's own stack neither sees nor answers what enters it.
   * Throws DEVICE_MISSING, PORT_EXISTS, DEVICE_BUSY, PERMISSION.
   */
  async add(request: PortRequest, epoch: number, ownsDevice = false): Promise<PortEntry> {
    if (this.entries.has(request.name)) throw exists(`a port ${request.name} exists already`)
    for (const other of this.entries.values()) {
      if (other.device === request.device) throw exists(`device ${request.device} is already port ${other.name}`)
    }
    const link = this.links.get(request.device)
    if (link.master !== null) {
      throw new SnapswitchError(
        'DEVICE_BUSY',
        `${request.device} belongs to a bridge or bond`,
        `Take it out first: ip link set ${request.device} nomaster`,
      )
    }
    const index = this.used.indexOf(0)
    if (index < 0) throw exists(`this host has ${MAX_PORTS} ports already`)
    const quiet = quietLink(link)
    try {
      if (!link.up) this.links.change(link.index, { up: true })
      this.unread.start(index, link.index)
      await this.datapath.addPort({
        network: request.network,
        spec: {
          index,
          name: request.name,
          kind: request.kind,
          vm: request.vm,
          epoch,
          mac: link.mac === null ? new Uint8Array(6) : parseMac(link.mac),
        },
        device: { device: request.device, ifindex: link.index },
      })
    } catch (error) {
      quiet.release()
      throw error
    }
    this.used[index] = 1
    const entry = { ...request, index, ifindex: link.index, mtu: link.mtu, ownsDevice }
    this.entries.set(request.name, entry)
    this.quiet.set(request.name, quiet)
    this.log.info(
      { port: request.name, device: request.device, network: request.network, kind: request.kind },
      'port added',
    )
    return entry
  }

  /** Takes a port out of its network; its device goes back to the host, or away when we made it. */
  async remove(name: string): Promise<void> {
    const entry = this.entries.get(name)
    if (entry === undefined) return
    await this.datapath.removePort(entry.network, entry.index)
    this.entries.delete(name)
    this.used[entry.index] = 0
    this.unread.forget(entry.index)
    this.quiet.get(name)?.release()
    this.quiet.delete(name)
    if (entry.ownsDevice) {
      const link = this.links.find(entry.device)
      if (link !== null && link.index === entry.ifindex) this.links.remove(link.index)
    }
    this.log.info({ port: name, device: entry.device }, 'port removed')
  }

  /** Makes sure that a restored machine's TAP exists; returns true when it had to be made. */
  ensureTap(device: string, mtu: number | undefined): boolean {
    const found = this.links.find(device)
    if (found !== null) {
      if (found.kind !== 'tun') {
        throw new SnapswitchError(
          'DEVICE_BUSY',
          `${device} exists and is no TAP`,
          'Rename or remove it, then restore again.',
        )
      }
      return false
    }
    createTap(device, { up: true, ...(mtu === undefined ? {} : { mtu }) })
    return true
  }

  removeTap(device: string): void {
    const link = this.links.find(device)
    if (link !== null) this.links.remove(link.index)
  }

  /** A trunk must carry a member's longest frame and a color tag. Throws DEVICE_MTU with both numbers. */
  checkTrunkRoom(network: string): void {
    const ports = this.all().filter((port) => port.network === network)
    const members = ports.filter((port) => port.kind !== 'trunk')
    if (members.length === 0) return
    const largest = members.reduce((a, b) => (b.mtu > a.mtu ? b : a))
    for (const trunk of ports) {
      if (trunk.kind !== 'trunk' || trunk.mtu >= largest.mtu + TAG_ROOM) continue
      throw new SnapswitchError(
        'DEVICE_MTU',
        `trunk ${trunk.name} (${trunk.device}) has MTU ${trunk.mtu}; port ${largest.name} has ${largest.mtu}, and the color tag needs ${TAG_ROOM} more`,
        `Run: ip link set ${trunk.device} mtu ${largest.mtu + TAG_ROOM}   (on both ends)`,
      )
    }
  }

  record(entry: PortEntry, mac: string | null): PortRecord {
    return { name: entry.name, device: entry.device, mac, mtu: entry.mtu }
  }

  /** All that is known of the ports, from shared memory and the kernel: the datapath is not asked. */
  info(): PortInfo[] {
    const { counters } = this.datapath
    const links = new Map(this.links.list().map((link): [number, Link] => [link.index, link]))
    return this.all().map((port) => {
      const link = links.get(port.ifindex)
      const row = port.index * ROW
      return {
        name: port.name,
        network: port.network,
        device: port.device,
        kind: port.kind,
        vm: port.vm,
        epoch: port.kind === 'member' ? counters[row + Counter.epoch] : null,
        gate: counters[row + Counter.gateClosed] === 1 ? 'closed' : 'open',
        up: link?.lowerUp ?? false,
        mtu: link?.mtu ?? port.mtu,
        counters: readPortCounters(counters, port.index),
      }
    })
  }

  /** Gives every device back to the host. */
  async close(): Promise<void> {
    for (const quiet of this.quiet.values()) quiet.release()
    this.quiet.clear()
    this.links.close()
  }
}

function exists(message: string): SnapswitchError {
  return new SnapswitchError(
    'PORT_EXISTS',
    message,
    'Choose another name or device; `snapswitch port list` shows what is taken.',
  )
}
