// What a port does to its device, and how that is undone: it is locked against other daemons, kept from the host's own
// stack, and set up. With IPv6 its addresses go, and are set again at the end.

import type { Logger } from 'pino'
import { asSnapswitchError, type SnapswitchError } from '../../src/errors/errors.js'
import { addAddress, type HostAddress, listAddresses } from '../../src/linux/addresses.js'
import { lockDevice } from '../../src/linux/device-lock.js'
import { hookEgress, hookEgressUnseen, isHooked } from '../../src/linux/egress-hook.js'
import { hasFiltersBehind, type QuietLink, quietLink } from '../../src/linux/ingress.js'
import type { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import { flagsOf, switchLroOff } from '../../src/linux/lro.js'
import { isMachinesEnd, machinesEndError, notEthernetError, slaveError } from './problems.js'

/** Kinds of device that never join segments. */
const WITHOUT_LRO: readonly (string | null)[] = ['tun', 'veth']

export class Attachment {
  readonly #undo: (() => void)[] = []
  readonly #links: Links
  readonly #log: Logger
  readonly #device: string
  #quiet: QuietLink | null = null
  /** Addresses that the device has lost by becoming a port, until it is given back. */
  lost: readonly HostAddress[] = []
  /** Why the host is not kept out of the device any more. */
  trouble: SnapswitchError | null = null
  /** Others have filters at its ingress hook, which see nothing. */
  filtersBehind = false
  /** Our program is at its egress hook. */
  hooked = false
  /** Once released. */
  #staysUp = false

  /**
   * `bridge`: the device stays in that one. Throws DEVICE_BUSY, DEVICE_UNSUPPORTED, DEVICE_MISSING, PERMISSION,
   * SYSCALL; then nothing is left changed.
   */
  constructor(links: Links, link: Link, log: Logger, bridge?: number) {
    this.#links = links
    this.#log = log
    this.#device = link.name
    refuseUnfit(link, bridge)
    try {
      this.#undo.push(lockDevice(link.index, link.name))
      // Whoever has given it to the bridge sets it up and down, and the bridge is what the host hears.
      if (bridge !== undefined) {
        this.#hook(() => hookEgressUnseen(link.index))
        return
      }
      const own = link.ipv6 ? listAddresses(links.socket, link.index).filter(({ index }) => index === link.index) : []
      const kept = own.filter(({ version, linkLocal, permanent }) => version === 6 && !linkLocal && permanent)
      const quiet = quietLink(links, link)
      this.#quiet = quiet
      this.lost = kept
      this.#undo.push(() => {
        if (quiet.release()) for (const address of kept) addAddress(links.socket, address)
      })
      this.#hook(() => hookEgress(link.index, link.name))
      if (!WITHOUT_LRO.includes(link.kind)) this.#switchLroOff(link.index)
      if (link.up) return
      links.change(link.index, { up: true })
      this.#undo.push(() => {
        if (this.#staysUp) return
        const now = links.findByIndex(link.index)
        // A bridge that has it by now wants it up.
        if (now !== null && now.master === null) links.change(link.index, { up: false })
      })
    } catch (thrown) {
      this.release()
      throw thrown
    }
  }

  #switchLroOff(index: number): void {
    try {
      const undo = switchLroOff(flagsOf(index))
      if (undo !== null) this.#undo.push(undo)
    } catch (thrown) {
      this.#log.warn({ err: thrown, device: this.#device }, 'LRO of a device could not be switched off')
    }
  }

  /** Without it, full-size frames with several tags are lost on devices like veths, and frames in tunnels are cut. */
  #hook(hook: () => (() => void) | null): void {
    try {
      const undo = hook()
      if (undo === null) return
      this.#undo.push(undo)
      this.hooked = true
    } catch (thrown) {
      this.#log.debug({ err: thrown, device: this.#device }, 'no program at the egress hook')
    }
  }

  /**
   * Puts back what somebody has undone meanwhile, and says what that was; what cannot be put back is `trouble`.
   * `filters`: looks at these, too.
   */
  renew(now: Link, filters: boolean): ('filter' | 'IPv6')[] {
    // What a device in a bridge has nobody can take off.
    if (this.#quiet === null) return []
    try {
      const renewed = this.#quiet.renew(now, filters)
      if (!filters) return renewed
      this.trouble = null
      this.filtersBehind = hasFiltersBehind(this.#links.socket, now.index)
      if (this.hooked && (renewed.includes('filter') || !isHooked(now.index)))
        this.#hook(() => hookEgress(now.index, now.name))
      return renewed
    } catch (thrown) {
      this.trouble = asSnapswitchError(thrown)
      return []
    }
  }

  /** The device takes the place of one that was up before. */
  keepUp(): void {
    this.#staysUp = true
  }

  /** Gives the device back to the host as it was. Harmless when the device is gone. */
  release(): void {
    for (const step of this.#undo.splice(0).reverse()) {
      try {
        step()
      } catch (thrown) {
        this.#log.warn({ err: thrown, device: this.#device }, 'a device could not be given back as it was')
      }
    }
  }
}

/**
 * Throws DEVICE_BUSY when a bridge or bond owns the device, another than `bridge`, DEVICE_UNSUPPORTED when it is no
 * Ethernet device, or a macvtap.
 */
export function refuseUnfit(link: Link, bridge?: number): void {
  if (!link.ethernet) throw notEthernetError(link)
  if (isMachinesEnd(link)) throw machinesEndError(link)
  if (link.master !== null && link.master !== bridge) throw slaveError(link)
}
