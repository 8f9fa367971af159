// The control thread's part of the fast path: it loads the programs, puts `act` where the filter of a port drops
// everything, and looks who else is at a port's ingress. All of this may wait for the kernel's network configuration
// lock, which others hold for seconds on a busy machine; the datapath forwards meanwhile.
//
// A device that stays in a bridge has no such filter, and is to show nothing of ours to those who look at it. There
// `actInBridge` is held at the tcx hook, before all others, by a descriptor: it goes with this process, whatever way
// that ends, as the rules do that keep the bridge out (switch/takeover/bypass.ts).
//
// Other devices that are busy get `actEarly` there besides `act`, and so does the program at their egress: the kernel
// comes to it sooner. Not all of them: for each that is put there or taken off, it waits for an RCU grace period with
// its configuration locked.

import { closeInBackground } from '../../../src/linux/background.js'
import { hastenEgress } from '../../../src/linux/egress-hook.js'
import { devicesWithHook, hasIngressFilters, setIngressProgram } from '../../../src/linux/ingress.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { libc } from '../../../src/linux/libc.js'
import { NetlinkSocket } from '../../../src/linux/netlink.js'
import { driverOf } from '../../../src/linux/packet-socket.js'
import { holdProgram, Tcx, tcxPrograms } from '../../../src/linux/tcx.js'
import type { Programs } from './layout.js'
import { closePrograms, loadPrograms } from './programs.js'

const LOOK_MS = 1000
/** Of devices that keep the order of what is sent to them; a NIC with several queues may not. */
const DRIVERS: readonly string[] = ['tun', 'veth']
/** After so many looks it is tried again where `act` could not be put. */
const AGAIN_LOOKS = 5
/** Frames between two looks from which on a port is busy. */
const BUSY_FRAMES = 1000

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
  /** By port, as of the last look. */
  readonly #frames = new Map<number, number>()
  readonly #framesOf: (port: number) => number
  readonly #hasTcx = kernelIsAtLeast(6, 6)
  readonly #timer: NodeJS.Timeout
  #looks = 0

  /**
   * `tell` hears of ports that were asked for, at once and when something changes. `framesOf`: how many frames have
   * passed a port. Throws as loadPrograms.
   */
  constructor(tell: (state: HookState) => void, framesOf: (port: number) => number) {
    this.#framesOf = framesOf
    this.programs = loadPrograms()
    this.#netlink = new NetlinkSocket()
    this.#tell = tell
    this.#timer = setInterval(() => this.look(), LOOK_MS)
    this.#timer.unref()
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

  /** The port is there no more, or on its way out: it may be fast yet, until `release`. */
  forget(index: number): void {
    this.#ports.delete(index)
    this.#frames.delete(index)
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
    clearInterval(this.#timer)
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
    if (this.#hasTcx) this.#hastenBusy()
  }

  #releaseAll(): void {
    for (const index of [...this.#held.keys(), ...this.#early.keys()]) this.release(index)
  }

  /** At most one at a time: the kernel waits, and this thread with it. */
  #hastenBusy(): void {
    let isNext = true
    for (const { index, ifindex, inBridge, why, guests } of this.#ports.values()) {
      const frames = this.#framesOf(index)
      const isBusy = frames - (this.#frames.get(index) ?? frames) >= BUSY_FRAMES
      this.#frames.set(index, frames)
      if (!isNext || !isBusy || inBridge || why !== null || guests !== null || this.#early.has(index)) continue
      isNext = false
      this.#hasten(index, ifindex)
    }
  }

  #hasten(index: number, ifindex: number): void {
    try {
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
