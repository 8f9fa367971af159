// Devices by the names that machines know them by: TAPs that restores make, take over and remove. A name is whose it is
// at the moment, so nothing is done to a device that is no TAP, or that is called as a port's device was before it was
// renamed.

import { SnapswitchError } from '../../src/errors/errors.js'
import { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import { createTap } from '../../src/linux/tap.js'
import { renamedError } from './host-use.js'
import { type PortEntry, PortTable } from './table.js'

/** `ifindex` of a port whose device is gone; the kernel counts from 1. */
export const NO_DEVICE = 0

export class PortDevices extends PortTable {
  protected readonly links = new Links()

  /** Makes sure that a restored machine's TAP exists; returns true when it had to be made. */
  ensureTap(device: string, mtu: number | undefined, multiQueue = false): boolean {
    const port = this.all().find((entry) => entry.device === device)
    if (port !== undefined) this.refuseRenamed(port)
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

  /** Throws DEVICE_RENAMED when the device of a port is not called any more as its machine knows it. */
  protected refuseRenamed(port: PortEntry): void {
    if (port.ifindex === NO_DEVICE) return
    const own = this.links.findByIndex(port.ifindex)
    if (own !== null && own.name !== port.device) throw renamedError(port, own.name)
  }

  /** What a NIC that is no port leads to; null when its device is a port, or not there. */
  outside(device: string): { device: string; master: string | null; mtu: number } | null {
    const link = this.links.find(device)
    if (link === null || this.all().some((port) => port.device === device || port.ifindex === link.index)) return null
    const master = link.master === null ? null : this.links.nameOf(link.master)
    return { device, master, mtu: link.mtu }
  }

  hasDevice(device: string): boolean {
    return this.links.find(device) !== null
  }

  /** Whether a program holds that TAP, as far as the kernel tells: one that is down does not show it. */
  isTapHeld(device: string): boolean {
    const link = this.links.find(device)
    return link !== null && link.tap !== null && (link.lowerUp || link.tap.queues > 0)
  }

  removeTap(device: string): void {
    const link = this.links.find(device)
    if (link?.kind === 'tun') this.links.remove(link.index)
  }

  /** A TAP that no port has takes the place of another one. */
  replaceTap(device: string, standIn: string): void {
    const link = this.links.find(standIn)
    if (link !== null) this.takeName(link, device)
  }

  protected takeName(link: Link, device: string): void {
    const former = this.links.find(device)
    if (former !== null) {
      if (former.kind !== 'tun') {
        throw new SnapswitchError('DEVICE_BUSY', `${device} is no TAP`, 'Rename or remove it, then restore again.')
      }
      this.links.remove(former.index)
    }
    // Its queue is empty, and nobody has sent there: it was never up.
    this.links.change(link.index, { name: device })
  }
}
