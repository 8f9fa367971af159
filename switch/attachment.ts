// What a port does to its device, and how that is undone: it is locked against other daemons, kept from the host's own
// stack, and set up.

import type { Logger } from 'pino'
import { lockDevice } from '../src/linux/device-lock.js'
import { keepTagsBeside } from '../src/linux/egress-tags.js'
import { quietLink } from '../src/linux/ingress.js'
import type { Link, Links } from '../src/linux/link.js'
import { notEthernetError, slaveError } from './port-problems.js'

export class Attachment {
  private readonly undo: (() => void)[] = []
  private readonly log: Logger
  private readonly device: string
  /** Once released. */
  private staysUp = false

  /** Throws DEVICE_BUSY, DEVICE_UNSUPPORTED, DEVICE_MISSING, PERMISSION, SYSCALL; then nothing is left changed. */
  constructor(links: Links, link: Link, log: Logger) {
    this.log = log
    this.device = link.name
    refuseUnfit(link)
    try {
      this.undo.push(lockDevice(link.index, link.name))
      const quiet = quietLink(links, link)
      this.undo.push(() => quiet.release())
      this.keepTags(link)
      if (link.up) return
      links.change(link.index, { up: true })
      this.undo.push(() => {
        if (this.staysUp) return
        const now = links.findByIndex(link.index)
        // A bridge that has it by now wants it up.
        if (now !== null && now.master === null) links.change(link.index, { up: false })
      })
    } catch (thrown) {
      this.release()
      throw thrown
    }
  }

  /** Without it, only full-size frames with several tags are lost, and only on devices like veths. */
  private keepTags(link: Link): void {
    try {
      this.undo.push(keepTagsBeside(link.index, link.name))
    } catch (thrown) {
      this.log.debug({ err: thrown, device: link.name }, 'tags are not kept beside frames')
    }
  }

  /** The device takes the place of one that was up before. */
  keepUp(): void {
    this.staysUp = true
  }

  /** Gives the device back to the host as it was. Harmless when the device is gone. */
  release(): void {
    for (const step of this.undo.splice(0).reverse()) {
      try {
        step()
      } catch (thrown) {
        this.log.warn({ err: thrown, device: this.device }, 'a device could not be given back as it was')
      }
    }
  }
}

/** Throws DEVICE_BUSY when a bridge or bond owns the device, DEVICE_UNSUPPORTED when it is no Ethernet device. */
export function refuseUnfit(link: Link): void {
  if (!link.ethernet) throw notEthernetError(link)
  if (link.master !== null) throw slaveError(link)
}
