// Which machine is behind a TAP: what is found, in types. Machines are found, not configured: the process that holds
// the device (identify.ts), what a driver makes of that process (src/hypervisor/drivers.ts), and a name that no other
// machine of this host has (names.ts).

import type { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'

/** A TAP in the daemon's own network namespace, whether it is a port or not. */
export interface TapDevice {
  /** What it is called now. */
  readonly name: string
  readonly ifindex: number
}

/** A process that has a TAP open. */
export interface Holder {
  readonly pid: number
  /** Clock ticks after boot: with the pid, this run of it and no other. */
  readonly startTicks: string
  /** What the kernel calls it (comm). */
  readonly program: string
}

/** Behind one TAP. A machine with several TAPs has the same name and spec behind each. */
export type Discovered =
  /** A machine that a driver can drive. */
  | {
      readonly kind: 'machine'
      /** Fits `Name`, and is no other machine's on this host. */
      readonly name: string
      /** How it is reached: for `Machines.set`. */
      readonly spec: MachineSpec
      readonly holder: Holder
    }
  /** Somebody holds it, and no driver can drive that: the port forwards like any other, and the problem is shown. */
  | {
      readonly kind: 'undrivable'
      /** As it calls itself; null when it does not. No name to drive it by. */
      readonly title: string | null
      readonly problem: SnapswitchError
      /** Null: it cannot be seen from here. */
      readonly holder: Holder | null
    }
  /** Whoever holds it hands it on in a moment, as libvirtd does to the QEMU that it starts; it is looked at again. */
  | { readonly kind: 'pending'; readonly holder: Holder }
  /** Nobody holds it. */
  | { readonly kind: 'none' }

/** Looks once, at all of them in one go. Never throws; done by the deadline (of `performance.now()`'s clock). */
export interface Identifier {
  identify(taps: readonly TapDevice[], deadline: number): Promise<ReadonlyMap<TapDevice['ifindex'], Discovered>>
}

/** What became of a device that is watched. */
export interface DiscoveryNews {
  readonly tap: TapDevice
  readonly found: Discovered
  readonly before: Discovered
}

/** Keeps looking at the TAPs that it was given, and tells what changes. */
export interface MachineWatch {
  /** From now on; told when something is found. Harmless when it is watched already (a new name is taken over). */
  watch(tap: TapDevice): void
  unwatch(ifindex: TapDevice['ifindex']): void
  /** As last found; `none` of a device that is not watched. */
  of(ifindex: TapDevice['ifindex']): Discovered
  /**
   * A listener is called for each device whose machine becomes known, changes or goes, one after the other, and waited
   * for: what it throws is logged. The answer ends it.
   */
  onNews(listener: (news: DiscoveryNews) => void | Promise<void>): () => void
}
