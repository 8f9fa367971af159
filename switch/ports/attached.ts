// Ports with devices and without: what happens when a device is taken and when it is let go. A device is known by its
// index from when it was taken: it may be renamed, and its name be another's then.

import type { EventEmitter } from 'node:events'
import type { Logger } from 'pino'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { parseMac } from '../../src/frame/mac.js'
import type { SocketHandover } from '../../src/linux/handover.js'
import type { Link } from '../../src/linux/link-message.js'
import type { Datapath, DatapathEvents } from '../datapath/datapath.js'
import type { PortSpec } from '../forwarding/port-state.js'
import { Attachment } from './attachment.js'
import { DeviceList } from './device-list.js'
import { NO_DEVICE, PortDevices } from './devices.js'
import { refuseUsed } from './host-use.js'
import { findLoops, type LoopPort } from './loops.js'
import { alreadyPort, checkTrunkRoom, loopError } from './problems.js'
import { fieldsOf, type PortEntry } from './table.js'
import type { UnreadFrames } from './unread.js'

/** What ports need of the datapath. */
export type PortsDatapath = Pick<Datapath, 'addPort' | 'removePort' | 'changePort' | 'portChanged' | 'counters'> &
  Pick<EventEmitter<DatapathEvents>, 'on'>

export class AttachedPorts extends PortDevices {
  protected readonly datapath: PortsDatapath
  protected readonly log: Logger
  protected readonly unread: UnreadFrames
  protected readonly devices = new DeviceList(this.links)
  protected readonly attachments = new Map<string, Attachment>()
  /** Why a port has no device. */
  protected readonly lost = new Map<string, SnapswitchError>()
  /** Whether each port's device had a carrier when last looked at. */
  protected readonly wasUp = new Map<string, boolean>()
  /** Ports whose sockets their devices have left, whether these are back or not. */
  protected readonly unbound = new Set<PortEntry['index']>()
  /** Told of a port that has lost its device, or has one again. */
  onMoved: (port: PortEntry) => void = () => undefined
  /** Ports that are being added. */
  protected readonly coming = new Set<PortEntry>()
  /** The last change asked for. Each looks at the ports and then waits for the datapath: one after the other. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(datapath: PortsDatapath, unread: UnreadFrames, log: Logger) {
    super()
    this.datapath = datapath
    this.unread = unread
    this.log = log
  }

  protected inTurn<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.#turn.then(change)
    this.#turn = changed.catch(() => undefined)
    return changed
  }

  protected async attach(
    entry: PortEntry,
    link: Link,
    epoch: number,
    gated = false,
    handover?: SocketHandover,
  ): Promise<void> {
    const { index, network, device } = entry
    this.refuse(entry, link)
    const attachment = new Attachment(this.links, link, this.log, entry.bridge)
    try {
      this.unread.start(index, link)
      await this.datapath.addPort({
        network,
        spec: specOf(entry, epoch, gated),
        device: {
          device,
          ifindex: link.index,
          kind: link.kind,
          hooked: attachment.hooked,
          inBridge: entry.bridge !== undefined,
          ...(handover === undefined ? {} : { handover }),
        },
      })
    } catch (thrown) {
      attachment.release()
      this.unread.forget(index)
      throw thrown
    }
    this.attachments.set(entry.name, attachment)
  }

  /** Throws what speaks against a device that could be attached else: PORT_EXISTS, DEVICE_BUSY, DEVICE_LOOP. */
  protected refuse(port: LoopPort & { readonly device: string }, link: Link): void {
    const others = [...this.all(), ...this.coming].filter(
      (other) => other.name !== port.name && other.ifindex !== NO_DEVICE,
    )
    const same = others.find((other) => other.ifindex === link.index)
    if (same !== undefined) throw alreadyPort(port.device, same.name)
    refuseUsed(link, this.devices.everywhere())
    const loop = findLoops([...others, port], this.devices.here()).find(
      ({ ports, throughBridge }) => !throughBridge && ports.includes(port),
    )
    if (loop !== undefined) throw loopError(loop)
  }

  protected async comeBack(entry: PortEntry, link: Link, epoch: number, gated = false): Promise<void> {
    const back = { ...entry, ...fieldsOf(link) }
    checkTrunkRoom(
      this.all().map((port) => (port.name === back.name ? back : port)),
      back.network,
    )
    await this.attach(back, link, epoch, gated)
    this.entries.set(entry.name, back)
    this.lost.delete(entry.name)
    this.log.info({ port: entry.name, ...namesOf(back) }, 'the device of a port is here')
    this.onMoved(back)
  }

  protected async detach(entry: PortEntry, reason: SnapswitchError): Promise<void> {
    const text =
      reason.code === 'DEVICE_MISSING'
        ? 'the device of a port is gone; the port waits for it'
        : 'the device of a port was taken away; the port waits for it'
    this.log.warn({ err: reason, port: entry.name, ...namesOf(entry) }, text)
    this.letGo(entry, reason)
    this.onMoved(entry)
    await this.datapath.removePort(entry.network, entry.index)
  }

  protected letGo(entry: PortEntry, reason: SnapswitchError): void {
    this.entries.set(entry.name, { ...entry, ifindex: NO_DEVICE, ifname: entry.device })
    this.lost.set(entry.name, reason)
    this.attachments.get(entry.name)?.release()
    this.attachments.delete(entry.name)
    // It was about this device: the next one has not left.
    this.unbound.delete(entry.index)
    this.unread.forget(entry.index)
    this.wasUp.delete(entry.name)
  }
}

/** The device of a port, for the log. */
export function namesOf({ device, ifname }: PortEntry): { device: string; ifname?: string } {
  return device === ifname ? { device } : { device, ifname }
}

export function specOf(entry: PortEntry, epoch: number, gated: boolean): PortSpec {
  const { index, name, kind, vm, mtu, queueLength, rules } = entry
  const spec = { index, name, kind, vm, epoch, mac: macOf(entry), queueLength, gated, rules }
  return kind === 'uplink' ? { ...spec, uplink: { mtu, color: entry.color ?? 'dscp' } } : spec
}

export function macOf({ mac }: PortEntry): Uint8Array {
  return mac === null ? new Uint8Array(6) : parseMac(mac)
}
