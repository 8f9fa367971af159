// The ports of this host as others ask for them: added, removed, moved to a restored machine's device, reported.

import type { PortInfo, PortRecord, PortRules } from '../../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { fileLimit } from '../../src/linux/file-limit.js'
import type { SocketHandover } from '../../src/linux/handover.js'
import { isCalled, type Link } from '../../src/linux/link-message.js'
import { Counter, MAX_PORTS, ROW, readPortCounters } from '../forwarding/counters.js'
import { namesOf, specOf } from './attached.js'
import { refuseUnfit } from './attachment.js'
import { NO_DEVICE } from './devices.js'
import { FollowedPorts } from './followed.js'
import { otherNameError } from './host-use.js'
import {
  alreadyPort,
  awaitedError,
  checkTrunkRoom,
  downError,
  existsError,
  goneError,
  refuseShortFiles,
} from './problems.js'
import { deviceOf, fieldsOf, type PortEntry, type PortRequest } from './table.js'

/** Of a port whose device was never there. */
const UNKNOWN = { ifindex: NO_DEVICE, mtu: 0, mac: null, queueLength: 0 } as const

/** Of bridges that were taken over, what ports must know that restores make. */
interface PortBridges {
  /** Index of the bridge that is this network; null: none is. */
  indexOf(network: string): number | null
  /** The device is to be in the bridge, and kept from it before it is a port. */
  join(bridge: number, device: { readonly index: number; readonly name: string }, rules?: PortRules): void
}

export class Ports extends FollowedPorts {
  readonly #used = new Uint8Array(MAX_PORTS)
  /** Bridges that were taken over; set before there are any. */
  bridges: PortBridges | null = null

  /**
   * Takes a device into a network, and into the bridge that the network is. From here on the host's own stack neither
   * sees nor answers what enters it. Throws DEVICE_MISSING, PORT_EXISTS, DEVICE_BUSY, DEVICE_LOOP, PERMISSION.
   */
  add(request: PortRequest, epoch: number, ownsDevice = false, gated = false): Promise<PortEntry> {
    return this.inTurn(() => this.#addNow(this.#onBridge(request), epoch, ownsDevice, gated))
  }

  #onBridge(request: PortRequest): PortRequest {
    const bridge = this.bridges?.indexOf(request.network) ?? null
    if (bridge === null) return request
    const link = this.links.get(request.device)
    refuseUnfit(link, bridge)
    this.bridges!.join(bridge, link, request.rules)
    return { ...request, bridge }
  }

  /** The same for one whose sockets take frames when the handover says so. */
  addHandedOver(request: PortRequest, epoch: number, handover: SocketHandover): Promise<PortEntry> {
    return this.inTurn(() => this.#addNow(request, epoch, false, false, handover))
  }

  /**
   * Many, side by side. A device that does not exist is waited for, as one is that has gone away. So is one that others
   * stand on, or that would close a circle: that may end, and until then the other ports work. When one fails, the
   * others are there.
   */
  addAllOrAwait(
    requests: readonly (PortRequest & { readonly ownsDevice?: boolean })[],
    epochOf: (network: string) => number,
  ): Promise<void> {
    return this.inTurn(async () => {
      const added = await Promise.allSettled(
        requests.map(({ ownsDevice, ...request }) =>
          this.#addOrAwait(request, epochOf(request.network), ownsDevice ?? false),
        ),
      )
      const failed = added.find((outcome) => outcome.status === 'rejected')
      if (failed !== undefined) throw failed.reason
      // In the order asked for, whichever was first.
      for (const { name } of requests) {
        const entry = this.entries.get(name)!
        this.entries.delete(name)
        this.entries.set(name, entry)
      }
    })
  }

  async #addOrAwait(request: PortRequest, epoch: number, ownsDevice: boolean): Promise<PortEntry> {
    const link = this.links.find(request.device)
    if (link === null) {
      const known = this.devices.here().map(({ name }) => name)
      return this.#awaitDevice(request, awaitedError(request, known), ownsDevice)
    }
    try {
      this.refuse({ ...request, ifindex: link.index }, link)
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (error.code === 'PORT_EXISTS') throw error
      return this.#awaitDevice(request, error, ownsDevice)
    }
    return this.#addNow(request, epoch, ownsDevice)
  }

  #awaitDevice(request: PortRequest, error: SnapswitchError, ownsDevice: boolean): PortEntry {
    const index = this.#freeIndex(request)
    const entry = { ...request, index, ...UNKNOWN, ifname: request.device, ownsDevice }
    this.#used[index] = 1
    this.entries.set(request.name, entry)
    this.lost.set(request.name, error)
    const { name: port, device, network } = request
    const text =
      error.code === 'DEVICE_MISSING'
        ? 'the device of a port does not exist; the port waits for it'
        : 'the device of a port cannot be taken; the port waits for it'
    this.log.warn({ err: error, port, device, network }, text)
    return entry
  }

  #freeIndex(request: PortRequest): number {
    for (const other of [...this.entries.values(), ...this.coming]) {
      if (other.name === request.name) throw existsError(`a port ${request.name} exists already`)
      if (other.device === request.device) throw existsError(`device ${request.device} is already port ${other.name}`)
    }
    const index = this.#used.indexOf(0)
    if (index < 0) throw existsError(`this host has ${MAX_PORTS} ports already`)
    return index
  }

  async #addNow(
    request: PortRequest,
    epoch: number,
    ownsDevice: boolean,
    gated = false,
    handover?: SocketHandover,
  ): Promise<PortEntry> {
    const index = this.#freeIndex(request)
    const link = this.links.get(request.device)
    const entry = { ...request, index, ...fieldsOf(link), ownsDevice }
    this.#used[index] = 1
    this.coming.add(entry)
    try {
      await this.attach(entry, link, epoch, gated, handover)
    } catch (thrown) {
      this.#used[index] = 0
      throw thrown
    } finally {
      this.coming.delete(entry)
    }
    this.entries.set(request.name, entry)
    this.log.info({ port: request.name, ...namesOf(entry), network: request.network, kind: request.kind }, 'port added')
    return entry
  }

  /** Looks at once whether the device that a port waits for has come: its gate is closed then. */
  async takeBack(name: string, epoch: number): Promise<PortEntry | undefined> {
    await this.inTurn(async () => {
      const entry = this.entries.get(name)
      if (entry === undefined) return
      if (entry.ifindex !== NO_DEVICE) {
        if (this.links.findByIndex(entry.ifindex) !== null && !this.unbound.has(entry.index)) return
        await this.detach(entry, goneError(entry))
      }
      this.devices.outdated()
      const link = this.links.find(entry.device)
      if (link === null) return
      // A restore has made it anew: the former one has left the bridge with its machine.
      if (entry.bridge !== undefined && link.master === null) this.bridges?.join(entry.bridge, link, entry.rules)
      await this.comeBack(this.entries.get(name)!, link, epoch, true)
    })
    return this.entries.get(name)
  }

  /**
   * A restored machine's TAP takes the place of the one that its former self has held, and its name; the port goes on
   * with it, its gate closed. Harmless when that is done already.
   */
  replaceDevice(name: string, standIn: string, epoch: number): Promise<PortEntry> {
    return this.inTurn(async () => {
      const entry = this.entries.get(name)
      if (entry === undefined) throw new SnapswitchError('PORT_UNKNOWN', `no port ${name}`, 'Restore again.')
      const link = this.links.find(standIn)
      this.devices.outdated()
      if (link === null) {
        const own = entry.ifindex === NO_DEVICE ? this.links.find(entry.device) : null
        if (own !== null) await this.comeBack(entry, own, epoch, true)
        return this.entries.get(name) ?? entry
      }
      this.refuseRenamed(entry)
      if (entry.ifindex !== NO_DEVICE) {
        this.letGo(entry, goneError(entry))
        await this.datapath.removePort(entry.network, entry.index)
      }
      this.takeName(link, entry.device)
      if (entry.bridge !== undefined)
        this.bridges?.join(entry.bridge, { index: link.index, name: entry.device }, entry.rules)
      const now = this.links.get(entry.device)
      const back = { ...entry, ...fieldsOf(now) }
      await this.attach(back, now, epoch, true)
      this.attachments.get(name)?.keepUp()
      this.entries.set(name, back)
      this.lost.delete(name)
      return back
    })
  }

  /**
   * A port becomes one of another kind or machine. Its device goes on to be read: no frame is lost. Addresses are
   * learned anew only where it leads to other switches, before or after.
   */
  change(request: PortRequest, epoch: number): Promise<void> {
    return this.inTurn(async () => {
      const entry = this.entries.get(request.name)
      if (entry === undefined || entry.device !== request.device || entry.network !== request.network)
        throw new SnapswitchError('PORT_UNKNOWN', `no port ${request.name} on ${request.device}`, 'Try again.')
      const changed = { ...deviceOf(entry), ...request }
      if (entry.ifindex !== NO_DEVICE) {
        if (changed.kind === 'member' && entry.kind !== 'member') this.unread.emptied(entry.index, entry.ifindex)
        await this.datapath.changePort(entry.network, specOf(changed, epoch, false))
      }
      this.entries.set(request.name, changed)
      const { name: port, kind, vm } = request
      this.log.info({ port, ...namesOf(changed), kind, vm }, 'a port has changed')
    })
  }

  /**
   * Takes a port out of its network; its device goes back to the host, or away when we made it and nobody is to keep
   * it.
   */
  remove(name: string, keepsDevice = false): Promise<void> {
    return this.inTurn(() => this.#removeNow(name, keepsDevice))
  }

  async #removeNow(name: string, keepsDevice: boolean): Promise<void> {
    const entry = this.entries.get(name)
    if (entry === undefined) return
    try {
      await this.datapath.removePort(entry.network, entry.index)
    } finally {
      // Also when the datapath is late: it lets go of the port before it is given another one.
      this.#forget(entry, keepsDevice)
    }
    this.log.info({ port: name, ...namesOf(entry) }, 'port removed')
  }

  #forget(entry: PortEntry, keepsDevice: boolean): void {
    const { name } = entry
    this.entries.delete(name)
    this.#used[entry.index] = 0
    this.unbound.delete(entry.index)
    this.unread.forget(entry.index)
    this.attachments.get(name)?.release()
    this.attachments.delete(name)
    this.wasUp.delete(name)
    this.lost.delete(name)
    if (entry.ownsDevice && !keepsDevice && entry.ifindex !== NO_DEVICE) {
      const link = this.links.findByIndex(entry.ifindex)
      if (link?.kind === 'tun') this.links.remove(link.index)
    }
  }

  /**
   * Looks whether these ports can be added, before any device is touched; what does not exist is not looked at.
   * `removed`: ports that go before. Throws DEVICE_UNSUPPORTED, DEVICE_BUSY, DEVICE_MTU, PORT_EXISTS, FILES_SHORT.
   */
  check(requests: readonly PortRequest[], removed: ReadonlySet<string> = new Set()): void {
    this.devices.outdated()
    const stays = this.all().filter(({ name }) => !removed.has(name))
    const links = this.devices.here()
    const found = requests.flatMap((request) => {
      const link = links.find((one) => isCalled(one, request.device))
      if (link === undefined) return []
      refuseUnfit(link, request.bridge)
      return [{ ...request, ...fieldsOf(link) }]
    })
    for (const [at, port] of found.entries()) {
      const same = [...stays, ...found.slice(0, at)].find(({ ifindex }) => ifindex === port.ifindex)
      if (same !== undefined) throw alreadyPort(port.device, same.name)
    }
    for (const network of new Set(found.map((port) => port.network))) checkTrunkRoom([...stays, ...found], network)
    // Files of those that go are closed a while after, and are not counted as free.
    if (found.length > 0) refuseShortFiles(found.length, fileLimit())
  }

  /** Throws DEVICE_MTU when a port is there that has longer frames than a trunk. */
  checkTrunkRoom(network: string): void {
    checkTrunkRoom(this.all(), network)
  }

  record(entry: PortEntry, mac: string | null): PortRecord {
    const { name, device, mtu, rules } = entry
    return { name, device, mac, mtu, ...(rules === undefined ? {} : { rules }) }
  }

  /** Ports that have no device, and take one of its name when it comes. */
  waitingIn(network: string): string[] {
    return this.all().flatMap((port) => (port.network === network && port.ifindex === NO_DEVICE ? [port.name] : []))
  }

  /**
   * Why ports that a snapshot needs (members and trunks) carry no frames now, or why a restore would not find their
   * devices; empty when all do.
   */
  problemsOf(network: string): SnapswitchError[] {
    const links = new Map(this.links.list().map((link): [number, Link] => [link.index, link]))
    const ports = this.all().filter((port) => port.network === network && port.kind !== 'plain' && port.kind !== 'host')
    const problems = ports.flatMap((port) => this.#problemOf(port, links.get(port.ifindex)) ?? [])
    // A machine is saved with its ports in all networks.
    const machines = this.machinesOf(network)
    const renamed = this.all().flatMap((port) => {
      const name = links.get(port.ifindex)?.name ?? port.device
      return port.vm !== null && machines.includes(port.vm) && name !== port.device ? otherNameError(port, name) : []
    })
    return [...problems, ...renamed]
  }

  #problemOf(port: PortEntry, link: Link | undefined): SnapswitchError | null {
    if (link === undefined) return this.lost.get(port.name) ?? goneError(port)
    return downError(port, link)
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
        ifname: link?.name ?? null,
        kind: port.kind,
        vm: port.vm,
        ...(port.rules === undefined ? {} : { rules: port.rules }),
        epoch: port.kind === 'member' ? counters[row + Counter.epoch] : null,
        gate: counters[row + Counter.gateClosed] === 1 ? 'closed' : 'open',
        up: link?.lowerUp ?? false,
        waiting: link === undefined,
        problem: this.#problemOf(port, link)?.report() ?? null,
        warnings: link === undefined ? [] : this.warnings.of(port.name).map((warning) => warning.report()),
        mtu: link?.mtu ?? port.mtu,
        counters: readPortCounters(counters, port.index),
      }
    })
  }

  /** TAPs among the devices of the ports, by port. */
  taps(): Map<string, Pick<Link, 'name' | 'index'>> {
    const links = new Map(this.devices.here().map((link): [number, Link] => [link.index, link]))
    return new Map(
      this.all().flatMap(({ name, ifindex }) => {
        const link = links.get(ifindex)
        return link === undefined || link.tap === null ? [] : [[name, link]]
      }),
    )
  }

  /** Whether a program holds the TAP, as far as the kernel tells: one that is down does not show it. */
  isHeld(ifindex: number): boolean {
    return this.links.findByIndex(ifindex)?.lowerUp ?? false
  }

  /** Gives every device back to the host. */
  async close(): Promise<void> {
    for (const attachment of this.attachments.values()) attachment.release()
    this.attachments.clear()
    this.links.close()
  }
}
