// How ports follow their devices: these go and come back, are renamed, change, and are used by others.

import type { Logger } from 'pino'
import { asSnapswitchError } from '../../src/errors/errors.js'
import { isLocked } from '../../src/linux/device-lock.js'
import { releaseLeft } from '../../src/linux/ingress.js'
import { isCalled, type Link } from '../../src/linux/link-message.js'
import { beatSoon } from '../../src/runtime/beat.js'
import { AttachedPorts, macOf, namesOf, type PortsDatapath } from './attached.js'
import { NO_DEVICE } from './devices.js'
import { withXdpBehind } from './host-use.js'
import { goneError, slaveError } from './problems.js'
import { fieldsOf, type PortEntry } from './table.js'
import type { UnreadFrames } from './unread.js'
import { PortWarnings } from './warnings.js'

/**
 * The filters that keep the host out are looked for when the kernel says that they have changed. Beside that, so many
 * ports are looked at every few seconds, in turn: it takes three system calls each.
 */
const RENEWAL_MS = 4000
const RENEWED = 16
/** How often devices that ports wait for are looked for, in milliseconds. */
const SEARCH_MS = 500

export class FollowedPorts extends AttachedPorts {
  protected readonly warnings: PortWarnings
  #nextSearch = 0
  #nextRenewal = 0
  /** The last one of those that were looked at in turn, by its place. */
  #renewed = 0
  /** Devices whose filters have changed; null: any may have. */
  #changedFilters: Set<number> | null = new Set()

  constructor(datapath: PortsDatapath, unread: UnreadFrames, log: Logger) {
    super(datapath, unread, log)
    this.warnings = new PortWarnings(log)
    datapath.on('lost', (index, error) => {
      this.log.error({ err: error, port: this.byIndex(index)?.name }, 'a port could not be opened again')
      const entry = this.byIndex(index)
      if (entry !== undefined) this.letGo(entry, asSnapswitchError(error))
    })
    datapath.on('event', (event) => {
      if (event.kind !== 'unbound' || this.byIndex(event.port)?.ifindex !== event.ifindex) return
      this.unbound.add(event.port)
      beatSoon()
    })
  }

  /** Something has happened that `reconcile` is to see soon, and that the kernel has told nobody else of. */
  get hasNews(): boolean {
    if (this.unbound.size > 0) return true
    const now = performance.now()
    if (now < this.#nextSearch) return false
    this.#nextSearch = now + SEARCH_MS
    // Another name of a device that is down is no news to the kernel.
    return [...this.lost].some(([name, { code }]) => {
      const entry = code === 'DEVICE_MISSING' ? this.entries.get(name) : undefined
      return entry !== undefined && this.links.find(entry.device) !== null
    })
  }

  filtersChanged(index: number | null): void {
    if (index === null) this.#changedFilters = null
    else this.#changedFilters?.add(index)
  }

  /** Which devices' filters are to be looked at now. */
  #suspects(isDue: boolean): (ifindex: number, port: string) => boolean {
    const changed = this.#changedFilters
    this.#changedFilters = new Set()
    if (changed === null) return () => true
    if (!isDue) return (ifindex) => changed.has(ifindex)
    const ports = this.all()
    for (let i = 0; i < Math.min(RENEWED, ports.length); i++) {
      this.#renewed = (this.#renewed + 1) % ports.length
      changed.add(ports[this.#renewed]!.ifindex)
    }
    return (ifindex, port) => changed.has(ifindex) || this.attachments.get(port)?.trouble != null
  }

  /**
   * Brings the ports in line with the devices that there are now: a port whose device is gone, or was given to a
   * bridge, is silent until a device of that name is there and free; what it took over from its device, it takes over
   * anew. Call it when devices have changed; never throws.
   */
  async reconcile(epochOf: (network: string) => number): Promise<void> {
    this.devices.outdated()
    const links = this.devices.here()
    const isDue = performance.now() >= this.#nextRenewal
    if (isDue) this.#nextRenewal = performance.now() + RENEWAL_MS
    const suspects = this.#suspects(isDue)
    const byIndex = new Map(links.map((link): [number, Link] => [link.index, link]))
    for (const entry of this.all()) {
      const own = byIndex.get(entry.ifindex)
      const filters = own !== undefined && suspects(own.index, entry.name)
      await this.inTurn(() => this.#follow(entry, own, links, epochOf, filters))
    }
    this.warnings.look(this.links.socket, this.devices.everywhere(), this.all(), (name) => this.attachments.get(name))
  }

  /** Devices (indexes) whose frames the kernel must not hand on by itself. */
  xdpBehind(): ReadonlySet<number> {
    return withXdpBehind(this.devices.everywhere())
  }

  /**
   * Devices that a killed daemon has left without the host's stack, and that are no ports any more: renamed, or taken
   * out of the configuration.
   */
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

  async #follow(
    entry: PortEntry,
    own: Link | undefined,
    links: readonly Link[],
    epochOf: (network: string) => number,
    filters: boolean,
  ): Promise<void> {
    // Removed or changed since the devices were looked at.
    if (this.entries.get(entry.name) !== entry) return
    try {
      // Whoever took the bridge over takes such a port out (switch/takeover/).
      if (entry.bridge !== undefined && own?.master !== entry.bridge) return
      if (entry.ifindex !== NO_DEVICE && (own === undefined || this.unbound.has(entry.index))) {
        await this.detach(entry, goneError(entry))
      }
      // A bridge's rx handler takes the frames that we have been given a copy of: they would go two ways.
      else if (own !== undefined && own.master !== (entry.bridge ?? null)) await this.detach(entry, slaveError(own))
      const current = this.entries.get(entry.name)!
      if (current.ifindex !== NO_DEVICE) {
        await this.#noteChanges(current, own!)
        this.#keepHostOut(current, own!, filters)
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

  /** What a port took over from its device when it was attached, follows it. */
  async #noteChanges(entry: PortEntry, link: Link): Promise<void> {
    const now = { ...entry, ...fieldsOf(link) }
    const { mtu, mac, queueLength, ifname } = now
    const { name: port, network, index } = entry
    const devices = namesOf(now)
    const isOther =
      mtu !== entry.mtu || mac !== entry.mac || queueLength !== entry.queueLength || ifname !== entry.ifname
    const was = this.wasUp.get(port) ?? true
    const isLost = was && !link.lowerUp
    if (isOther) {
      this.entries.set(port, now)
      if (ifname !== entry.ifname)
        this.log.info({ port, ...devices, was: entry.ifname }, 'the device of a port was renamed')
      if (mtu !== entry.mtu) this.log.info({ port, ...devices, mtu }, 'the MTU of a port has changed')
      if (mac !== entry.mac) this.log.info({ port, ...devices, mac }, 'the address of a port has changed')
    }
    // Of one that is down: what the kernel has redirected to it is in the counters when this is done.
    if (isOther || isLost)
      await this.datapath.portChanged(network, index, { mtu, mac: macOf(now), queueLength, lost: isLost })
    // When the datapath has not answered, it is told again.
    this.wasUp.set(port, link.lowerUp)
    if (isLost && entry.kind === 'member') this.unread.emptied(index, entry.ifindex)
    if (was !== link.lowerUp) this.log.info({ port, ...devices }, link.lowerUp ? 'a port is up' : 'a port is down')
  }

  #keepHostOut(entry: PortEntry, link: Link, filters: boolean): void {
    const renewed = this.attachments.get(entry.name)?.renew(link, filters) ?? []
    if (renewed.length === 0) return
    const text = 'the host was let into a port’s device, and is kept out again'
    this.log.warn({ port: entry.name, ...namesOf(entry), renewed }, text)
  }
}
