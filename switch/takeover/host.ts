// What a takeover needs of the daemon that it is a part of.

import type { Logger } from 'pino'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import type { Links } from '../../src/linux/link.js'
import type { Datapath } from '../datapath/datapath.js'
import type { MachineWatch } from '../discovery/discovery.js'
import type { Ports } from '../ports/ports.js'
import type { BridgeValues, Wanted } from '../wanted/wanted.js'
import type { Plan } from './plan.js'
import type { BridgeRecords } from './record.js'

export interface TakeoverHost {
  readonly links: Links
  readonly datapath: Pick<Datapath, 'call'>
  readonly ports: Pick<Ports, 'all' | 'addHandedOver' | 'remove'>
  readonly records: BridgeRecords
  readonly machines: Pick<MachineWatch, 'watch' | 'unwatch' | 'of'> & {
    settle(): Promise<void>
    isLookedAt(ifindex: number): boolean
  }
  /** How a machine is reached that a restore has brought. */
  specOf(vm: string): MachineSpec | undefined
  readonly log: Logger
  epochOf(network: string): number
  /** What its network does as the bridge does: the configuration may say otherwise. */
  valuesOf(plan: Plan): BridgeValues
  /**
   * What the bridge is to have from now on; null: nothing. Waits for what is under way in its network, for some seconds
   * or for `patienceMs`. Throws SNAPSHOT_BUSY.
   */
  want(bridge: string, wanted: null | (() => Wanted), patienceMs?: number): Promise<unknown>
}
