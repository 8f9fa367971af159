// Where a handover keeps frames from a bridge on kernels before 6.6, which let no program be put at a device's ingress
// without a queueing discipline, and drop what leaves by the device while that is put there (dev_deactivate): a packet
// filter rule at the first thing that the bridge does with a frame, before it learns an address. The rule asks a BPF
// program, by iptables' match of that name. It goes with this process.

import { addChain, addDeviceSet, addDrop, addTable, BridgeHook, changeDevices, Family, Nftables } from './nftables.js'

const SET = 'handed-over'
/** Before everybody else's. */
const PRIORITY = -500
let made = 0

export class HandoverRule {
  readonly #nftables: Nftables
  readonly #table: string

  private constructor(nftables: Nftables, table: string) {
    this.#nftables = nftables
    this.#table = table
  }

  /** Drops what devices give to their bridges while `program`, of sockets' kind, says so; null: it cannot be had. */
  static make(program: number): HandoverRule | null {
    const nftables = new Nftables()
    const table = `snapswitch-handover-${process.pid}-${++made}`
    const { bridge } = Family
    try {
      if (nftables.hasProgramMatch()) {
        nftables.commit('make a rule for a handover', [
          addTable(bridge, table),
          addDeviceSet(bridge, table, SET),
          addChain(bridge, table, 'prerouting', { number: BridgeHook.prerouting, priority: PRIORITY }),
          addDrop(bridge, table, 'prerouting', [
            { kind: 'set', way: 'iif', set: SET },
            { kind: 'program', fd: program },
          ]),
        ])
        return new HandoverRule(nftables, table)
      }
    } catch {
      // A kernel without one of these modules, say.
    }
    nftables.close()
    return null
  }

  /** It holds for this device, too. */
  add(index: number): void {
    this.#nftables.commit('change a rule for a handover', [
      changeDevices(Family.bridge, this.#table, SET, 'add', [index]),
    ])
  }

  close(): void {
    this.#nftables.close()
  }
}
