// The control thread's part of the fast path: it loads the programs, puts `act` where the filter of a port drops
// everything, and looks who else is at a port's ingress. All of this may wait for the kernel's network configuration
// lock, which others hold for seconds on a busy machine; the datapath forwards meanwhile.

import { setIngressProgram } from '../../../src/linux/ingress.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { NetlinkSocket } from '../../../src/linux/netlink.js'
import { tcxPrograms } from '../../../src/linux/tcx.js'
import type { Programs } from './layout.js'
import { closePrograms, loadPrograms } from './programs.js'

const LOOK_MS = 1000
/** After so many looks it is tried again where `act` could not be put. */
const AGAIN_LOOKS = 5

/** How it is at a port's ingress hook. `why`: `act` is not there; null: it is. `guests`: programs run before it. */
export interface HookState {
  readonly network: string
  readonly index: number
  readonly ifindex: number
  readonly why: string | null
  readonly guests: boolean
}

export class KernelHooks {
  readonly programs: Programs
  readonly #tell: (state: HookState) => void
  readonly #netlink = new NetlinkSocket()
  readonly #ports = new Map<number, HookState>()
  readonly #hasTcx = kernelIsAtLeast(6, 6)
  readonly #timer: NodeJS.Timeout
  #looks = 0

  /** `tell` hears of ports that were asked for, at once and when something changes. Throws as loadPrograms. */
  constructor(tell: (state: HookState) => void) {
    this.programs = loadPrograms()
    this.#tell = tell
    this.#timer = setInterval(() => this.look(), LOOK_MS)
    this.#timer.unref()
  }

  /** `act` is wanted at a port's ingress hook, or is missed there. */
  want(network: string, index: number, ifindex: number): void {
    this.#set({ network, index, ifindex, why: this.#put(ifindex), guests: this.#hasGuests(ifindex) })
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
      return setIngressProgram(this.#netlink, ifindex, this.programs.act) ? null : 'its ingress filter is not ours'
    } catch (thrown) {
      return thrown instanceof Error ? thrown.message : String(thrown)
    }
  }

  #hasGuests = (ifindex: number) => this.#hasTcx && tcxPrograms(ifindex) > 0
}
