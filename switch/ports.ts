// How the ports of this host come and go while the daemon runs, with the devices under them. A device is known by its index from
// when it was taken: it may be renamed, and its name be another's then.

import type { Logger } from 'pino'
import type { PortInfo, PortRecord } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { parseMac } from '../src/frame/mac.js'
import { isLocked } from '../src/linux/device-lock.js'
import { releaseLeft } from '../src/linux/ingress.js'
import { isCalled, type Link } from '../src/linux/link.js'
import type { UnreadFrames } from './agent/unread.js'
import { Attachment, refuseUnfit } from './attachment.js'
import type { Datapath } from './datapath/datapath.js'
import { Counter, MAX_PORTS, ROW, readPortCounters } from './forwarding/counters.js'
import { type Devices, otherNameError, refuseUsed } from './host-use.js'
import { NO_DEVICE, PortDevices } from './port-devices.js'
import { findLoops } from './port-loops.js'
import { awaitedError, checkTrunkRoom, downError, goneError, loopError, slaveError } from './port-problems.js'
import { fieldsOf, type PortEntry, type PortRequest } from './port-table.js'
import { PortWarnings } from './port-warnings.js'

/** Of a port whose device was never there. */
const UNKNOWN = { ifindex: NO_DEVICE, mtu: 0, mac: null, queueLength: 0 } as const
/** Milliseconds for which a list of all devices is good enough to see what stands on one: what is newer, `reconcile` sees. */
const LIST_AGE_MS = 500

/** How often devices that ports wait for are looked for, in milliseconds. */
const SEARCH_MS = 500

/** How often other namespaces are looked at, and that so many times as long passes between as it takes: there may be hundreds. */
const ELSEWHERE_MS = 3000
const ELSEWHERE_SHARE = 100
/** How often the filters that keep the host out are looked for. */
const RENEWAL_MS = 4000

export class Ports extends PortDevices {
  private readonly datapath: Datapath
  private readonly unread: UnreadFrames
  private readonly log: Logger
  private readonly attachments = new Map<string, Attachment>()
  private readonly warnings: PortWarnings
  /** Why a port has no device. */
  private readonly lost = new Map<string, SnapswitchError>()
  /** Whether each port's device had a carrier when last looked at. */
  private readonly wasUp = new Map<string, boolean>()
  /** Ports whose sockets their devices have left, whether these are back or not. */
  private readonly unbound = new Set<PortEntry['index']>()
  private nextSearch = 0
  private elsewhere: readonly Link[] = []
  private nextElsewhere = 0
  private nextRenewal = 0
  private readonly used = new Uint8Array(MAX_PORTS)
  private listed: { readonly links: readonly Link[]; readonly at: number } | null = null
  /** The last change asked for. Each looks at the ports and then waits for the datapath: one after the other. */
  private turn: Promise<unknown> = Promise.resolve()

  constructor(datapath: Datapath, unread: UnreadFrames, log: Logger) {
    super()
    this.datapath = datapath
    this.unread = unread
    this.log = log
    this.warnings = new PortWarnings(log)
    datapath.on('lost', (index, error) => {
      this.log.error({ err: error, port: this.byIndex(index)?.name }, 'a port could not be opened again')
      const entry = this.byIndex(index)
      if (entry !== undefined) this.letGo(entry, asSnapswitchError(error))
    })
    datapath.on('event', (event) => {
      if (event.kind === 'unbound' && this.byIndex(event.port)?.ifindex === event.ifindex) this.unbound.add(event.port)
    })
  }

  /** Something has happened that `reconcile` is to see soon, and that the kernel has told nobody else of. */
  get hasNews(): boolean {
    if (this.unbound.size > 0) return true
    const now = performance.now()
    if (now < this.nextSearch) return false
    this.nextSearch = now + SEARCH_MS
    // Another name of a device that is down is no news to the kernel.
    return [...this.lost].some(([name, { code }]) => {
      const entry = code === 'DEVICE_MISSING' ? this.entries.get(name) : undefined
      return entry !== undefined && this.links.find(entry.device) !== null
    })
  }

  /**
   * Takes a device into a network. From here on the host's own stack neither sees nor answers what enters it.
   * Throws DEVICE_MISSING, PORT_EXISTS, DEVICE_BUSY, DEVICE_LOOP, PERMISSION.
   */
  add(request: PortRequest, epoch: number, ownsDevice = false, gated = false): Promise<PortEntry> {
    return this.inTurn(() => this.addNow(request, epoch, ownsDevice, gated))
  }

  /**
   * The same; a device that does not exist is waited for, as one is that has gone away, and so is one that others stand on: they may
   * go, and until then the other ports work.
   */
  addOrAwait(request: PortRequest, epoch: number, ownsDevice = false): Promise<PortEntry> {
    return this.inTurn(async () => {
      const link = this.links.find(request.device)
      if (link === null) {
        const known = this.recentLinks().map(({ name }) => name)
        return this.awaitDevice(request, awaitedError(request, known), ownsDevice)
      }
      try {
        refuseUsed(link, this.devices())
      } catch (thrown) {
        return this.awaitDevice(request, asSnapswitchError(thrown), ownsDevice)
      }
      return this.addNow(request, epoch, ownsDevice)
    })
  }

  private awaitDevice(request: PortRequest, error: SnapswitchError, ownsDevice: boolean): PortEntry {
    const index = this.freeIndex(request)
    const entry = { ...request, index, ...UNKNOWN, ifname: request.device, ownsDevice }
    this.used[index] = 1
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

  private recentLinks(): readonly Link[] {
    const now = performance.now()
    if (this.listed === null || now - this.listed.at > LIST_AGE_MS) this.listed = { links: this.links.list(), at: now }
    return this.listed.links
  }

  /** With those of other namespaces, which take longer to find: as they were some seconds ago. */
  private devices(): Devices {
    const began = performance.now()
    if (began >= this.nextElsewhere) {
      this.elsewhere = this.links.elsewhere()
      const now = performance.now()
      this.nextElsewhere = now + Math.max(ELSEWHERE_MS, (now - began) * ELSEWHERE_SHARE)
    }
    return { here: this.recentLinks(), elsewhere: this.elsewhere }
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
    const entry = { ...request, index, ...fieldsOf(link), ownsDevice }
    this.used[index] = 1
    try {
      await this.attach(entry, link, epoch, gated)
    } catch (thrown) {
      this.used[index] = 0
      throw thrown
    }
    this.entries.set(request.name, entry)
    this.log.info({ port: request.name, ...namesOf(entry), network: request.network, kind: request.kind }, 'port added')
    return entry
  }

  private async attach(entry: PortEntry, link: Link, epoch: number, gated = false): Promise<void> {
    const { index, network, name, kind, vm, device, mtu, queueLength } = entry
    this.refuse(entry, link)
    const attachment = new Attachment(this.links, link, this.log)
    try {
      this.unread.start(index, link)
      const spec = { index, name, kind, vm, epoch, mac: macOf(entry), queueLength, gated }
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

  /** Throws what speaks against a device that could be attached else. */
  private refuse(entry: PortEntry, link: Link): void {
    const others = this.all().filter((port) => port.name !== entry.name && port.ifindex !== NO_DEVICE)
    const same = others.find((port) => port.ifindex === link.index)
    if (same !== undefined) throw alreadyPort(entry.device, same.name)
    refuseUsed(link, this.devices())
    const loop = findLoops([...others, entry], this.recentLinks()).find(
      ({ ports, throughBridge }) => !throughBridge && ports.includes(entry),
    )
    if (loop !== undefined) throw loopError(loop)
  }

  /**
   * Brings the ports in line with the devices that there are now: a port whose device is gone, or was given to a bridge, is
   * silent until a device of that name is there and free; what it took over from its device, it takes over anew. Call it when
   * devices have changed; never throws.
   */
  async reconcile(epochOf: (network: string) => number): Promise<void> {
    this.listed = null
    const links = this.recentLinks()
    const isDue = performance.now() >= this.nextRenewal
    if (isDue) this.nextRenewal = performance.now() + RENEWAL_MS
    for (const entry of this.all()) await this.inTurn(() => this.follow(entry, links, epochOf, isDue))
    this.warnings.look(this.links.socket, this.devices(), this.all(), (name) => this.attachments.get(name))
  }

  /** Devices that a killed daemon has left without the host's stack, and that are no ports any more: renamed, or taken out of the configuration. */
  giveBackLeft(): void {
    const own = new Set(this.all().map(({ ifindex }) => ifindex))
    try {
      for (const index of releaseLeft(this.links, (one) => own.has(one) || isLocked(one))) {
        this.log.info({ device: this.links.nameOf(index) }, 'a device that a killed daemon has left is given back')
      }
    } catch (thrown) {
      this.log.warn({ err: thrown }, 'devices that a killed daemon has left cannot be given back')
    }
  }

  private async follow(
    entry: PortEntry,
    links: readonly Link[],
    epochOf: (network: string) => number,
    renews: boolean,
  ): Promise<void> {
    // Removed or changed since the devices were looked at.
    if (this.entries.get(entry.name) !== entry) return
    try {
      const own = links.find((link) => link.index === entry.ifindex)
      if (entry.ifindex !== NO_DEVICE && (own === undefined || this.unbound.has(entry.index))) {
        await this.detach(entry, goneError(entry))
      }
      // A bridge's rx handler takes the frames that we have been given a copy of: they would go two ways.
      else if (own !== undefined && own.master !== null) await this.detach(entry, slaveError(own))
      const current = this.entries.get(entry.name)!
      if (current.ifindex !== NO_DEVICE) {
        await this.noteChanges(current, own!)
        if (renews) this.keepHostOut(current, own!)
        return
      }
      const here = links.find((link) => isCalled(link, entry.device))
      if (here === undefined) {
        // One that was never there waits under the words of its beginning.
        if (this.lost.get(entry.name)?.code !== 'DEVICE_MISSING') this.lost.set(entry.name, goneError(entry))
      } else await this.comeBack(current, here, epochOf(entry.network))
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      // It is tried again every few seconds, and told once.
      if (this.lost.get(entry.name)?.message === error.message) return
      this.lost.set(entry.name, error)
      this.log.warn(
        { err: error, port: entry.name, ...namesOf(entry) },
        'the device of a port is there, but cannot be taken yet',
      )
    }
  }

  private async detach(entry: PortEntry, reason: SnapswitchError): Promise<void> {
    const text =
      reason.code === 'DEVICE_MISSING'
        ? 'the device of a port is gone; the port waits for it'
        : 'the device of a port was taken away; the port waits for it'
    this.log.warn({ err: reason, port: entry.name, ...namesOf(entry) }, text)
    this.letGo(entry, reason)
    await this.datapath.removePort(entry.network, entry.index)
    this.unbound.delete(entry.index)
  }

  private letGo(entry: PortEntry, reason: SnapswitchError): void {
    this.entries.set(entry.name, { ...entry, ifindex: NO_DEVICE, ifname: entry.device })
    this.lost.set(entry.name, reason)
    this.attachments.get(entry.name)?.release()
    this.attachments.delete(entry.name)
    this.unread.forget(entry.index)
    this.wasUp.delete(entry.name)
  }

  private async comeBack(entry: PortEntry, link: Link, epoch: number, gated = false): Promise<void> {
    const back = { ...entry, ...fieldsOf(link) }
    checkTrunkRoom(
      this.all().map((port) => (port.name === back.name ? back : port)),
      back.network,
    )
    await this.attach(back, link, epoch, gated)
    this.entries.set(entry.name, back)
    this.lost.delete(entry.name)
    this.log.info({ port: entry.name, ...namesOf(back) }, 'the device of a port is here')
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
      this.listed = null
      const link = this.links.find(entry.device)
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
      this.listed = null
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
      const now = this.links.get(entry.device)
      const back = { ...entry, ...fieldsOf(now) }
      await this.attach(back, now, epoch, true)
      this.attachments.get(name)?.keepUp()
      this.entries.set(name, back)
      this.lost.delete(name)
      return back
    })
  }

  /** What a port took over from its device when it was attached, follows it. */
  private async noteChanges(entry: PortEntry, link: Link): Promise<void> {
    const now = { ...entry, ...fieldsOf(link) }
    const { mtu, mac, queueLength, ifname } = now
    const { name: port, network, index } = entry
    const devices = namesOf(now)
    if (mtu !== entry.mtu || mac !== entry.mac || queueLength !== entry.queueLength || ifname !== entry.ifname) {
      this.entries.set(port, now)
      if (ifname !== entry.ifname)
        this.log.info({ port, ...devices, was: entry.ifname }, 'the device of a port was renamed')
      if (mtu !== entry.mtu) this.log.info({ port, ...devices, mtu }, 'the MTU of a port has changed')
      if (mac !== entry.mac) this.log.info({ port, ...devices, mac }, 'the address of a port has changed')
      await this.datapath.portChanged(network, index, { mtu, mac: macOf(now), queueLength })
    }
    const was = this.wasUp.get(port) ?? true
    this.wasUp.set(port, link.lowerUp)
    if (was && !link.lowerUp && entry.kind === 'member') this.unread.emptied(index, entry.ifindex)
    if (was !== link.lowerUp) this.log.info({ port, ...devices }, link.lowerUp ? 'a port is up' : 'a port is down')
  }

  private keepHostOut(entry: PortEntry, link: Link): void {
    const renewed = this.attachments.get(entry.name)?.renew(link) ?? []
    if (renewed.length === 0) return
    const text = 'the host was let into a port’s device, and is kept out again'
    this.log.warn({ port: entry.name, ...namesOf(entry), renewed }, text)
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
    this.unbound.delete(entry.index)
    this.unread.forget(entry.index)
    this.attachments.get(name)?.release()
    this.attachments.delete(name)
    this.wasUp.delete(name)
    this.lost.delete(name)
    if (entry.ownsDevice && entry.ifindex !== NO_DEVICE) {
      const link = this.links.findByIndex(entry.ifindex)
      if (link?.kind === 'tun') this.links.remove(link.index)
    }
    this.log.info({ port: name, ...namesOf(entry) }, 'port removed')
  }

  private inTurn<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.turn.then(change)
    this.turn = changed.catch(() => undefined)
    return changed
  }

  /**
   * Looks whether these ports can be added, before any device is touched; what does not exist is not looked at. Throws
   * DEVICE_UNSUPPORTED, DEVICE_BUSY, DEVICE_MTU, DEVICE_LOOP, PORT_EXISTS.
   */
  check(requests: readonly PortRequest[]): void {
    const links = this.recentLinks()
    const found = requests.flatMap((request) => {
      const link = links.find((one) => isCalled(one, request.device))
      if (link === undefined) return []
      refuseUnfit(link)
      return [{ ...request, ...fieldsOf(link) }]
    })
    for (const [at, port] of found.entries()) {
      const same = found.slice(0, at).find(({ ifindex }) => ifindex === port.ifindex)
      if (same !== undefined) throw alreadyPort(port.device, same.name)
    }
    const loop = findLoops(found, links).find(({ throughBridge }) => !throughBridge)
    if (loop !== undefined) throw loopError(loop)
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

  /**
   * Why ports that a snapshot needs (members and trunks) carry no frames now, or why a restore would not find their devices; empty
   * when all do.
   */
  problemsOf(network: string): SnapswitchError[] {
    const links = new Map(this.links.list().map((link): [number, Link] => [link.index, link]))
    const ports = this.all().filter((port) => port.network === network && port.kind !== 'plain')
    const problems = ports.flatMap((port) => this.problemOf(port, links.get(port.ifindex)) ?? [])
    // A machine is saved with its ports in all networks.
    const machines = this.machinesOf(network)
    const renamed = this.all().flatMap((port) => {
      const name = links.get(port.ifindex)?.name ?? port.device
      return port.vm !== null && machines.includes(port.vm) && name !== port.device ? otherNameError(port, name) : []
    })
    return [...problems, ...renamed]
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
        ifname: link?.name ?? null,
        kind: port.kind,
        vm: port.vm,
        epoch: port.kind === 'member' ? counters[row + Counter.epoch] : null,
        gate: counters[row + Counter.gateClosed] === 1 ? 'closed' : 'open',
        up: link?.lowerUp ?? false,
        waiting: link === undefined,
        problem: this.problemOf(port, link)?.report() ?? null,
        warnings: link === undefined ? [] : this.warnings.of(port.name).map((warning) => warning.report()),
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

/** The device of a port, for the log. */
function namesOf({ device, ifname }: PortEntry): { device: string; ifname?: string } {
  return device === ifname ? { device } : { device, ifname }
}

function macOf({ mac }: PortEntry): Uint8Array {
  return mac === null ? new Uint8Array(6) : parseMac(mac)
}

function alreadyPort(device: string, other: string): SnapswitchError {
  return exists(`device ${device} is already port ${other}, by another of its names`)
}

function exists(message: string): SnapswitchError {
  return new SnapswitchError(
    'PORT_EXISTS',
    message,
    'Choose another name or device; `snapswitch port list` shows what is taken.',
  )
}
