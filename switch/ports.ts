// How the ports of this host come and go while the daemon runs, with the devices under them.

import type { Logger } from 'pino'
import type { PortInfo, PortRecord } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { parseMac } from '../src/frame/mac.js'
import { type Link, Links } from '../src/linux/link.js'
import { createTap } from '../src/linux/tap.js'
import type { UnreadFrames } from './agent/unread.js'
import { Attachment, refuseUnfit } from './attachment.js'
import type { Datapath } from './datapath/datapath.js'
import { Counter, MAX_PORTS, ROW, readPortCounters } from './forwarding/counters.js'
import { awaitedError, checkTrunkRoom, downError, goneError, slaveError } from './port-problems.js'
import { type PortEntry, type PortRequest, PortTable } from './port-table.js'

/** `ifindex` of a port whose device is gone; the kernel counts from 1. */
const NO_DEVICE = 0
/** Of a port whose device was never there. */
const UNKNOWN_MTU = 0

export class Ports extends PortTable {
  private readonly datapath: Datapath
  private readonly unread: UnreadFrames
  private readonly log: Logger
  private readonly links = new Links()
  private readonly attachments = new Map<string, Attachment>()
  /** Why a port has no device. */
  private readonly lost = new Map<string, SnapswitchError>()
  /** Whether each port's device had a carrier when last looked at. */
  private readonly wasUp = new Map<string, boolean>()
  private readonly used = new Uint8Array(MAX_PORTS)
  /** The last change asked for. Each looks at the ports and then waits for the datapath: one after the other. */
  private turn: Promise<unknown> = Promise.resolve()

  constructor(datapath: Datapath, unread: UnreadFrames, log: Logger) {
    super()
    this.datapath = datapath
    this.unread = unread
    this.log = log
    datapath.on('lost', (index, error) => {
      this.log.error({ err: error, port: this.byIndex(index)?.name }, 'a port could not be opened again')
      const entry = this.byIndex(index)
      if (entry !== undefined) this.letGo(entry, asSnapswitchError(error))
    })
  }

  /**
   * Takes a device into a network. From here on the host's own stack neither sees nor answers what enters it.
   * Throws DEVICE_MISSING, PORT_EXISTS, DEVICE_BUSY, PERMISSION.
   */
  add(request: PortRequest, epoch: number, ownsDevice = false, gated = false): Promise<PortEntry> {
    return this.inTurn(() => this.addNow(request, epoch, ownsDevice, gated))
  }

  /** The same; a device that does not exist is waited for, as one is that has gone away. */
  addOrAwait(request: PortRequest, epoch: number, ownsDevice = false): Promise<PortEntry> {
    return this.inTurn(async () => {
      if (this.links.find(request.device) !== null) return this.addNow(request, epoch, ownsDevice)
      const index = this.freeIndex(request)
      const entry = { ...request, index, ifindex: NO_DEVICE, mtu: UNKNOWN_MTU, ownsDevice }
      this.used[index] = 1
      this.entries.set(request.name, entry)
      const error = awaitedError(
        request,
        this.links.list().map(({ name }) => name),
      )
      this.lost.set(request.name, error)
      const { name: port, device, network } = request
      this.log.warn({ err: error, port, device, network }, 'the device of a port does not exist; the port waits for it')
      return entry
    })
  }

  private freeIndex(request: PortRequest): number {
    if (this.entries.has(request.name)) throw exists(`a port ${request.name} exists already`)
    for (const other of this.entries.values()) {
      if (other.device === request.device) throw exists(`device ${request.device} is already port ${other.name}`)
    }
    const index = this.used.indexOf(0)
    if (index < 0) throw exists(`this host has ${MAX_PORTS} ports already`)
    return index
  }

  private async addNow(request: PortRequest, epoch: number, ownsDevice: boolean, gated = false): Promise<PortEntry> {
    const index = this.freeIndex(request)
    const link = this.links.get(request.device)
    const entry = { ...request, index, ifindex: link.index, mtu: link.mtu, ownsDevice }
    this.used[index] = 1
    try {
      await this.attach(entry, link, epoch, gated)
    } catch (thrown) {
      this.used[index] = 0
      throw thrown
    }
    this.entries.set(request.name, entry)
    this.log.info(
      { port: request.name, device: request.device, network: request.network, kind: request.kind },
      'port added',
    )
    return entry
  }

  private async attach(entry: PortEntry, link: Link, epoch: number, gated = false): Promise<void> {
    const { index, network, name, kind, vm, device, mtu } = entry
    const attachment = new Attachment(this.links, link, this.log)
    try {
      this.unread.start(index, link)
      const mac = link.mac === null ? new Uint8Array(6) : parseMac(link.mac)
      const spec = { index, name, kind, vm, epoch, mac, gated }
      await this.datapath.addPort({
        network,
        spec: kind === 'uplink' ? { ...spec, uplink: { mtu, color: entry.color ?? 'dscp' } } : spec,
        device: { device, ifindex: link.index },
      })
    } catch (thrown) {
      attachment.release()
      throw thrown
    }
    this.attachments.set(name, attachment)
  }

  /**
   * Brings the ports in line with the devices that there are now: a port whose device is gone, or was given to a bridge, is
   * silent until a device of that name is there and free. Call it when devices have changed; never throws.
   */
  async reconcile(epochOf: (network: string) => number): Promise<void> {
    const links = this.links.list()
    for (const entry of this.all()) await this.inTurn(() => this.follow(entry, links, epochOf))
  }

  private async follow(entry: PortEntry, links: readonly Link[], epochOf: (network: string) => number): Promise<void> {
    // Removed or changed since the devices were looked at.
    if (this.entries.get(entry.name) !== entry) return
    try {
      const own = links.find((link) => link.index === entry.ifindex)
      if (entry.ifindex !== NO_DEVICE && own === undefined) await this.detach(entry, goneError(entry))
      // A bridge's rx handler takes the frames that we have been given a copy of: they would go two ways.
      else if (own !== undefined && own.master !== null) await this.detach(entry, slaveError(own))
      const current = this.entries.get(entry.name)!
      const here = links.find((link) => link.name === entry.device)
      if (current.ifindex !== NO_DEVICE) {
        if (here?.index === current.ifindex) this.noteChanges(current, here)
      } else if (here === undefined) {
        // One that was never there waits under the words of its beginning.
        if (this.lost.get(entry.name)?.code !== 'DEVICE_MISSING') this.lost.set(entry.name, goneError(entry))
      } else await this.comeBack(current, here, epochOf(entry.network))
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      // It is tried again every few seconds, and told once.
      if (this.lost.get(entry.name)?.message === error.message) return
      this.lost.set(entry.name, error)
      this.log.warn(
        { err: error, port: entry.name, device: entry.device },
        'the device of a port is there, but cannot be taken yet',
      )
    }
  }

  private async detach(entry: PortEntry, reason: SnapswitchError): Promise<void> {
    const text =
      reason.code === 'DEVICE_MISSING'
        ? 'the device of a port is gone; the port waits for it'
        : 'the device of a port was taken away; the port waits for it'
    this.log.warn({ err: reason, port: entry.name, device: entry.device }, text)
    this.letGo(entry, reason)
    await this.datapath.removePort(entry.network, entry.index)
  }

  private letGo(entry: PortEntry, reason: SnapswitchError): void {
    this.entries.set(entry.name, { ...entry, ifindex: NO_DEVICE })
    this.lost.set(entry.name, reason)
    this.attachments.get(entry.name)?.release()
    this.attachments.delete(entry.name)
    this.unread.forget(entry.index)
  }

  private async comeBack(entry: PortEntry, link: Link, epoch: number, gated = false): Promise<void> {
    const back = { ...entry, ifindex: link.index, mtu: link.mtu }
    checkTrunkRoom(
      this.all().map((port) => (port.name === back.name ? back : port)),
      back.network,
    )
    await this.attach(back, link, epoch, gated)
    this.entries.set(entry.name, back)
    this.lost.delete(entry.name)
    this.log.info({ port: entry.name, device: entry.device }, 'the device of a port is here')
  }

  /** Looks at once whether the device that a port waits for has come: its gate is closed then. */
  async takeBack(name: string, epoch: number): Promise<PortEntry | undefined> {
    await this.inTurn(async () => {
      const entry = this.entries.get(name)
      if (entry === undefined) return
      const link = this.links.find(entry.device)
      if (entry.ifindex !== NO_DEVICE && link?.index === entry.ifindex) return
      if (entry.ifindex !== NO_DEVICE) await this.detach(entry, goneError(entry))
      if (link !== null) await this.comeBack(this.entries.get(name)!, link, epoch, true)
    })
    return this.entries.get(name)
  }

  /**
   * A restored machine's TAP takes the place of the one that its former self has held, and its name; the port goes on with it,
   * its gate closed. Harmless when that is done already.
   */
  replaceDevice(name: string, standIn: string, epoch: number): Promise<PortEntry> {
    return this.inTurn(async () => {
      const entry = this.entries.get(name)
      if (entry === undefined) throw new SnapswitchError('PORT_UNKNOWN', `no port ${name}`, 'Restore again.')
      const link = this.links.find(standIn)
      if (link === null) {
        const own = entry.ifindex === NO_DEVICE ? this.links.find(entry.device) : null
        if (own !== null) await this.comeBack(entry, own, epoch, true)
        return this.entries.get(name) ?? entry
      }
      if (entry.ifindex !== NO_DEVICE) {
        this.letGo(entry, goneError(entry))
        await this.datapath.removePort(entry.network, entry.index)
      }
      this.takeName(link, entry.device)
      const back = { ...entry, ifindex: link.index, mtu: link.mtu }
      await this.attach(back, this.links.get(entry.device), epoch, true)
      this.attachments.get(name)?.keepUp()
      this.entries.set(name, back)
      this.lost.delete(name)
      return back
    })
  }

  /** A TAP that no port has takes the place of another one. */
  replaceTap(device: string, standIn: string): void {
    const link = this.links.find(standIn)
    if (link !== null) this.takeName(link, device)
  }

  private takeName(link: Link, device: string): void {
    const former = this.links.find(device)
    if (former !== null) this.links.remove(former.index)
    // Its queue is empty, and nobody has sent there: it was never up.
    this.links.change(link.index, { name: device })
  }

  private noteChanges(entry: PortEntry, link: Link): void {
    if (link.mtu !== entry.mtu) {
      this.entries.set(entry.name, { ...entry, mtu: link.mtu })
      this.log.info({ port: entry.name, device: entry.device, mtu: link.mtu }, 'the MTU of a port has changed')
      try {
        this.checkTrunkRoom(entry.network)
      } catch (thrown) {
        this.log.warn({ err: thrown }, 'long frames will not fit the trunk')
      }
    }
    const was = this.wasUp.get(entry.name) ?? true
    this.wasUp.set(entry.name, link.lowerUp)
    if (was && !link.lowerUp && entry.kind === 'member') this.unread.emptied(entry.index, entry.ifindex)
    if (was !== link.lowerUp) {
      this.log.info({ port: entry.name, device: entry.device }, link.lowerUp ? 'a port is up' : 'a port is down')
    }
  }

  /** Takes a port out of its network; its device goes back to the host, or away when we made it. */
  remove(name: string): Promise<void> {
    return this.inTurn(() => this.removeNow(name))
  }

  private async removeNow(name: string): Promise<void> {
    const entry = this.entries.get(name)
    if (entry === undefined) return
    await this.datapath.removePort(entry.network, entry.index)
    this.entries.delete(name)
    this.used[entry.index] = 0
    this.unread.forget(entry.index)
    this.attachments.get(name)?.release()
    this.attachments.delete(name)
    this.wasUp.delete(name)
    this.lost.delete(name)
    if (entry.ownsDevice) {
      const link = this.links.find(entry.device)
      if (link !== null && link.index === entry.ifindex) this.links.remove(link.index)
    }
    this.log.info({ port: name, device: entry.device }, 'port removed')
  }

  private inTurn<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.turn.then(change)
    this.turn = changed.catch(() => undefined)
    return changed
  }

  /** Makes sure that a restored machine's TAP exists; returns true when it had to be made. */
  ensureTap(device: string, mtu: number | undefined, multiQueue = false): boolean {
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
    createTap(device, { up: true, multiQueue, ...(mtu === undefined ? {} : { mtu }) })
    return true
  }

  /** What a NIC that is no port leads to; null when its device is a port, or not there. */
  outside(device: string): { device: string; master: string | null; mtu: number } | null {
    if (this.all().some((port) => port.device === device)) return null
    const link = this.links.find(device)
    if (link === null) return null
    const master = link.master === null ? null : (this.links.findByIndex(link.master)?.name ?? null)
    return { device, master, mtu: link.mtu }
  }

  hasDevice(device: string): boolean {
    return this.links.find(device) !== null
  }

  removeTap(device: string): void {
    const link = this.links.find(device)
    if (link !== null) this.links.remove(link.index)
  }

  /**
   * Looks whether these ports can be added, before any device is touched; what does not exist is not looked at. Throws
   * DEVICE_UNSUPPORTED, DEVICE_BUSY, DEVICE_MTU.
   */
  check(requests: readonly PortRequest[]): void {
    const found = requests.flatMap((request) => {
      const link = this.links.find(request.device)
      if (link === null) return []
      refuseUnfit(link)
      return [{ ...request, mtu: link.mtu }]
    })
    for (const network of new Set(found.map((port) => port.network))) checkTrunkRoom(found, network)
  }

  /** Throws DEVICE_MTU when a port is there that has longer frames than a trunk. */
  checkTrunkRoom(network: string): void {
    checkTrunkRoom(this.all(), network)
  }

  record(entry: PortEntry, mac: string | null): PortRecord {
    return { name: entry.name, device: entry.device, mac, mtu: entry.mtu }
  }

  /** Ports that have no device, and take one of its name when it comes. */
  waitingIn(network: string): string[] {
    return this.all().flatMap((port) => (port.network === network && port.ifindex === NO_DEVICE ? [port.name] : []))
  }

  /** Why ports that a snapshot needs (members and trunks) carry no frames now; empty when all do. */
  problemsOf(network: string): SnapswitchError[] {
    const links = this.links.list()
    const ports = this.all().filter((port) => port.network === network && port.kind !== 'plain')
    return ports.flatMap(
      (port) =>
        this.problemOf(
          port,
          links.find((link) => link.index === port.ifindex),
        ) ?? [],
    )
  }

  private problemOf(port: PortEntry, link: Link | undefined): SnapswitchError | null {
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
        kind: port.kind,
        vm: port.vm,
        epoch: port.kind === 'member' ? counters[row + Counter.epoch] : null,
        gate: counters[row + Counter.gateClosed] === 1 ? 'closed' : 'open',
        up: link?.lowerUp ?? false,
        waiting: link === undefined,
        problem: this.problemOf(port, link)?.report() ?? null,
        mtu: link?.mtu ?? port.mtu,
        counters: readPortCounters(counters, port.index),
      }
    })
  }

  /** Gives every device back to the host. */
  async close(): Promise<void> {
    for (const attachment of this.attachments.values()) attachment.release()
    this.attachments.clear()
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
