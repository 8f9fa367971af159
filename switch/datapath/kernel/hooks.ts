// The control thread's part of the fast path: it loads the programs, puts `act` where the filter of a port drops
// everything, and looks who else is at a port's ingress. All of this may wait for the kernel's network configuration
// lock, which others hold for seconds on a busy machine; the datapath forwards meanwhile.
//
// A device that stays in a bridge has no such filter, and is to show nothing of ours to those who look at it. There
// `actInBridge` is held at the tcx hook, before all others, by a descriptor: it goes with this process, whatever way
// that ends, as the rules do that keep the bridge out (switch/takeover/bypass.ts).
//
// Other devices that are busy get `actEarly` there besides `act`, and so does the program at their egress: the kernel
// comes to it sooner. Not all of them, and one after the other with pauses between: for each that is put there or taken
// off, it waits for an RCU grace period with its configuration locked.

import { closeInBackground } from '../../../src/linux/background.js'
import { hastenEgress } from '../../../src/linux/egress-hook.js'
import { devicesWithHook, hasIngressFilters, setIngressProgram } from '../../../src/linux/ingress.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { libc } from '../../../src/linux/libc.js'
import { NetlinkSocket } from '../../../src/linux/netlink.js'
import { driverOf } from '../../../src/linux/packet-socket.js'
import { holdProgram, Tcx, tcxPrograms } from '../../../src/linux/tcx.js'
import { onBeat } from '../../../src/runtime/beat.js'
import type { Programs } from './layout.js'
import { closePrograms, loadPrograms } from './programs.js'

const LOOK_MS = 1000
/** Of devices that keep the order of what is sent to them; a NIC with several queues may not. */
const DRIVERS: readonly string[] = ['tun', 'veth']
/** After so many looks it is tried again where `act` could not be put. */
const AGAIN_LOOKS = 5
/** From a program at a tcx hook to the next, in times that the one before has taken: others have locks to take, too. */
const REST = 4

/** A port at whose ingress hook `act` is wanted. */
export interface WantedHook {
  readonly network: string
  readonly index: number
  readonly ifindex: number
  /** See PortDevice. */
  readonly inBridge: boolean
}

/**
 * How it is at a port's ingress hook. `why`: `act` is not there; null: it is. `guests`: why programs of others there
 * keep the port slow; null: there are none.
 */
export interface HookState extends WantedHook {
  readonly why: string | null
  readonly guests: string | null
  /** The device's. */
  readonly driver: string
}

export class KernelHooks {
  readonly programs: Programs
  readonly #tell: (state: HookState) => void
  readonly #netlink: NetlinkSocket
  readonly #ports = new Map<number, HookState>()
  /** Descriptors that hold `actInBridge`, by port. */
  readonly #held = new Map<number, number>()
  /** The same of `actEarly`. */
  readonly #early = new Map<number, number>()
  /** Ports that were busy, and may wait for theirs. */
  readonly #busy = new Set<number>()
  readonly #hasTcx = kernelIsAtLeast(6, 6)
  readonly #still: () => void
  /** Devices by index: see `behind`. */
  #behind: ReadonlySet<number> = new Set()
  /** After a program at a tcx hook. */
  #resting: NodeJS.Timeout | null = null
  #looks = 0

  /** `tell` hears of ports that were asked for, at once and when something changes. Throws as loadPrograms. */
  constructor(tell: (state: HookState) => void) {
    this.programs = loadPrograms()
    this.#netlink = new NetlinkSocket()
    this.#tell = tell
    this.#still = onBeat(() => this.look(), LOOK_MS)
  }

  /** `act` is wanted at a port's ingress hook, or is missed there. */
  want({ network, index, ifindex, inBridge }: WantedHook): void {
    const wanted = { network, index, ifindex, inBridge }
    const driver = driverOf(this.#netlink.fd, ifindex)
    const why = DRIVERS.includes(driver)
      ? this.#put(wanted)
      : `its device is neither a TAP nor a veth (${driver === '' ? 'unknown' : driver})`
    this.#set({ ...wanted, why, guests: this.#guests(wanted), driver })
  }

  /**
   * Devices (indexes) at whose other end a generic XDP program is. The kernel leaves it out for frames that were
   * redirected (do_xdp_generic, from 6.4), and it may be a firewall: all goes through the daemon there.
   */
  behind(devices: ReadonlySet<number>): void {
    const isOther = devices.size !== this.#behind.size || [...devices].some((one) => !this.#behind.has(one))
    this.#behind = devices
    if (isOther) this.look()
  }

  /** The port is there no more, or on its way out: it may be fast yet, until `release`. */
  forget(index: number): void {
    this.#ports.delete(index)
    this.#busy.delete(index)
  }

  /** Many frames pass the port. */
  hasten(index: number): void {
    this.#busy.add(index)
    this.#hastenNext()
  }

  /** The datapath has let go of the port. */
  release(index: number): void {
    const held = this.#held.get(index)
    if (held !== undefined) libc().close(held)
    this.#held.delete(index)
    const early = this.#early.get(index)
    // It lets everything pass meanwhile.
    if (early !== undefined) closeInBackground(early).catch(() => undefined)
    this.#early.delete(index)
  }

  /** When the datapath uses the programs no more. */
  close(): void {
    this.#still()
    if (this.#resting !== null) clearTimeout(this.#resting)
    this.#netlink.close()
    this.#releaseAll()
    closePrograms(this.programs)
  }

  /** Before `close`, after a datapath that could not clean up: all ports are as without the programs. */
  takeBack(): void {
    this.#releaseAll()
    for (const { ifindex, inBridge, why } of this.#ports.values()) {
      try {
        if (why === null && !inBridge) setIngressProgram(this.#netlink, ifindex, null)
      } catch {
        // The device has gone.
      }
    }
  }

  /** Every second. */
  look(): void {
    const again = ++this.#looks % AGAIN_LOOKS === 0
    const hooked = this.#hooked()
    for (const state of this.#ports.values()) {
      if (!DRIVERS.includes(state.driver)) continue
      const why = state.why !== null && again ? this.#put(state) : state.why
      const guests = this.#guests(state, hooked?.has(state.ifindex))
      if (why !== state.why || guests !== state.guests) this.#set({ ...state, why, guests })
    }
    this.#hastenNext()
  }

  #releaseAll(): void {
    for (const index of [...this.#held.keys(), ...this.#early.keys()]) this.release(index)
  }

  /** One: the kernel waits, and this thread with it. */
  #hastenNext(): void {
    if (!this.#hasTcx || this.#resting !== null) return
    for (const index of this.#busy) {
      const state = this.#ports.get(index)
      if (state === undefined || state.inBridge || state.why !== null || state.guests !== null) continue
      this.#busy.delete(index)
      if (this.#early.has(index)) continue
      const from = performance.now()
      this.#hasten(index, state.ifindex)
      this.#resting = setTimeout(
        () => {
          this.#resting = null
          this.#hastenNext()
        },
        REST * (performance.now() - from),
      ).unref()
      return
    }
  }

  #hasten(index: number, ifindex: number): void {
    try {
      // Somebody has come since the last look.
      if (tcxPrograms(ifindex) > 0) return
      const early = holdProgram(ifindex, Tcx.INGRESS, this.programs.actEarly, true)
      if (early === null) return
      this.#early.set(index, early)
      hastenEgress(ifindex)
    } catch {
      // All works without.
    }
  }

  #set(state: HookState): void {
    this.#ports.set(state.index, state)
    this.#tell(state)
  }

  #put({ index, ifindex, inBridge }: WantedHook): string | null {
    try {
      if (inBridge) return this.#hold(index, ifindex)
      const isThere = setIngressProgram(this.#netlink, ifindex, this.programs.act)
      return isThere ? null : 'it has no ingress filter of ours'
    } catch (thrown) {
      return thrown instanceof Error ? thrown.message : String(thrown)
    }
  }

  #hold(index: number, ifindex: number): string | null {
    // One program is at a device once.
    this.release(index)
    const held = holdProgram(ifindex, Tcx.INGRESS, this.programs.actInBridge, true)
    if (held === null) return 'its device stays in a bridge, which takes kernel 6.6'
    this.#held.set(index, held)
    return null
  }

  /** Devices that may have filters of `tc`: one question about all, as each answer waits for a lock. null: unknown. */
  #hooked(): ReadonlySet<number> | null {
    if (![...this.#ports.values()].some(({ inBridge }) => inBridge)) return null
    try {
      return new Set(devicesWithHook(this.#netlink))
    } catch {
      return null
    }
  }

  /** In a bridge, what others have there sees the frames that the switch forwards, and is to see all of them. */
  #guests({ index, ifindex, inBridge }: WantedHook, mayHaveFilters = true): string | null {
    if (this.#behind.has(ifindex)) return 'there is a generic XDP program at its other end'
    const own = this.#held.has(index) || this.#early.has(index) ? 1 : 0
    const others = this.#hasTcx && tcxPrograms(ifindex) > own
    if (!inBridge) return others ? 'a tcx program runs before its ingress filter' : null
    try {
      if (!others && !(mayHaveFilters && hasIngressFilters(this.#netlink, ifindex))) return null
    } catch {
      // It is asked again.
    }
    return 'others have ingress filters at its device'
  }
}
