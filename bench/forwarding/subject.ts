// What a switch under measurement must be able to do: stand between two endpoints, alone or as two in series.

import type { Lab } from '../lab/lab.js'

/** Cores, as taskset lists. All subjects get the same ones for the same measurement. */
export interface Cores {
  readonly switch: string
  readonly sender: string
  readonly receiver: string
}

export type Topology = 'one-host' | 'two-hosts'

/** A subject that runs: what to charge CPU time to. Its services and devices go with the lab. */
export interface RunningSwitch {
  readonly pids: readonly number[]
}

/** Groups of measurements. `frames` and `lossless` are on one host; `light` is CPU cost and order at a light rate. */
export const parts = ['frames', 'lossless', 'light', 'roundTrips', 'tcp', 'twoHosts'] as const
export type Part = (typeof parts)[number]

export interface Subject {
  readonly id: string
  readonly title: string
  /** How it is attached and configured, for the report. */
  readonly setup: string
  /**
   * False: the endpoints hand over plain frames of at most one MTU with full checksums, because the subject takes no
   * others.
   */
  readonly offloads: boolean
  /** What is measured of it: everything for the four that are compared, less for those that only give context. */
  readonly parts: readonly Part[]
  version(): Promise<string>
  /** Why it cannot be measured on this machine; null: it can. Left out: it always can. */
  unavailable?(): Promise<string | null>
  /**
   * Connects the endpoints. The namespaces are there: `e1` and `e2`, and `a` (one host) or `a` and `b` (two). On return
   * both endpoints have a device `eth0`, up or down, without address.
   */
  attach(lab: Lab, topology: Topology, cores: Cores): Promise<RunningSwitch>
}

/** Trunks have room for a color tag, for all subjects alike. */
export const TRUNK_MTU = 1600

/**
 * The usual attachment: a veth pair per endpoint, its far end `p1` or `p2` beside the switch; `trunk` joins two hosts.
 */
export async function vethAttachment(lab: Lab, topology: Topology): Promise<void> {
  await lab.veth('e1', 'eth0', 'a', 'p1')
  if (topology === 'one-host') {
    await lab.veth('e2', 'eth0', 'a', 'p2')
    return
  }
  await lab.veth('e2', 'eth0', 'b', 'p2')
  await lab.veth('a', 'trunk', 'b', 'trunk', TRUNK_MTU)
}

/** The switch namespaces of a topology with the devices that `vethAttachment` leaves in each. */
export function hostsOf(
  topology: Topology,
): readonly { readonly host: 'a' | 'b'; readonly devices: readonly string[] }[] {
  return topology === 'one-host'
    ? [{ host: 'a', devices: ['p1', 'p2'] }]
    : [
        { host: 'a', devices: ['p1', 'trunk'] },
        { host: 'b', devices: ['trunk', 'p2'] },
      ]
}
