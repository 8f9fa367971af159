// The control thread's part of the fast path: it loads the programs, puts `act` where the filter of a port drops
// everything, and looks who else is at a port's ingress. All of this may wait for the kernel's network configuration
// lock, which others hold for seconds on a busy machine; the datapath forwards meanwhile.

import { setIngressProgram } from '../../../src/linux/ingress.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { NetlinkSocket } from '../../../src/linux/netlink.js'
import { driverOf } from '../../../src/linux/packet-socket.js'
import { tcxPrograms } from '../../../src/linux/tcx.js'
import type { Programs } from './layout.js'
import { closePrograms, loadPrograms } from './programs.js'

const LOOK_MS = 1000
/** Of devices that keep the order of what is sent to them; a NIC with several queues may not. */
const DRIVERS: readonly string[] = ['tun', 'veth']
/** After so many looks it is tried again where `act` could not be put. */
const AGAIN_LOOKS = 5

/** How it is at a port's ingress hook. `why`: `act` is not there; null: it is. `guests`: programs run before it. */
export interface HookState {
  readonly network: string
  readonly index: number
  readonly ifindex: number
  readonly why: string | null
  readonly guests: boolean
  /** The device's. */
  readonly driver: string
}

export class KernelHooks {
  readonly programs: Programs
  readonly #tell: (state: HookState) => void
  readonly #netlink: NetlinkSocket
  readonly #ports = new Map<number, HookState>()
  readonly #hasTcx = kernelIsAtLeast(6, 6)
  readonly #timer: NodeJS.Timeout
  #looks = 0

  /** `tell` hears of ports that were asked for, at once and when something changes. Throws as loadPrograms. */
  constructor(tell: (state: HookState) => void) {
    this.programs = loadPrograms()
    this.#netlink = new NetlinkSocket()
    this.#tell = tell
    this.#timer = setInterval(() => this.look(), LOOK_MS)
    this.#timer.unref()
  }

  /** `act` is wanted at a port's ingress hook, or is missed there. */
  want(network: string, index: number, ifindex: number): void {
    const driver = driverOf(this.#netlink.fd, ifindex)
    const why = DRIVERS.includes(driver)
      ? this.#put(ifindex)
      : `its device is neither a TAP nor a veth (${driver === '' ? 'unknown' : driver})`
    this.#set({ network, index, ifindex, why, guests: this.#hasGuests(ifindex), driver })
  }

  /** The port is there no more, or on its way out. */
  forget(index: number): void {
    this.#ports.delete(index)
  }

  /** When the datapath uses the programs no more. */
  close(): void {
    clearInterval(this.#timer)
    this.#netlink.close()
    closePrograms(this.programs)
  }

  /** Before `close`, after a datapath that could not clean up: the filters of all ports drop everything again. */
  takeBack(): void {
    for (const { ifindex, why } of this.#ports.values()) {
      try {
        if (why === null) setIngressProgram(this.#netlink, ifindex, null)
      } catch {
        // The device has gone.
      }
    }
  }

  /** Every second. */
  look(): void {
    const again = ++this.#looks % AGAIN_LOOKS === 0
    for (const state of this.#ports.values()) {
      if (!DRIVERS.includes(state.driver)) continue
      const why = state.why !== null && again ? this.#put(state.ifindex) : state.why
      const guests = this.#hasGuests(state.ifindex)
      if (why !== state.why || guests !== state.guests) this.#set({ ...state, why, guests })
    }
  }

  #set(state: HookState): void {
    this.#ports.set(state.index, state)
    this.#tell(state)
  }

  #put(ifindex: number): string | null {
    try {
      const isThere = setIngressProgram(this.#netlink, ifindex, this.programs.act)
      return isThere ? null : 'it has no ingress filter of ours, as ports of a bridge that was taken over'
    } catch (thrown) {
      return thrown instanceof Error ? thrown.message : String(thrown)
    }
  }

  #hasGuests = (ifindex: number) => this.#hasTcx && tcxPrograms(ifindex) > 0
}
