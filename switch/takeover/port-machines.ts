// Which machine is behind each port of a bridge that was taken over: what discovery sees, and where it cannot see for
// the moment, what the port is already.

import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import type { Discovered, Holder, MachineWatch } from '../discovery/discovery.js'
import type { Ports } from '../ports/ports.js'

interface MachinesHost {
  readonly machines: Pick<MachineWatch, 'of'> & { isLookedAt(ifindex: number): boolean }
  readonly ports: Pick<Ports, 'all'>
  /** How a machine is reached that a restore has brought. */
  specOf(vm: string): MachineSpec | undefined
}

export class BridgeMachines {
  readonly #host: MachinesHost
  /** By device: who has held it when its machine was seen last. */
  readonly #holders = new Map<number, Holder>()

  constructor(host: MachinesHost) {
    this.#host = host
  }

  /** null: none that can be driven. */
  at(ifindex: number): { readonly name: string; readonly spec: MachineSpec | undefined } | null {
    const { machines, ports, specOf } = this.#host
    const found = machines.of(ifindex)
    if (found.kind === 'machine') {
      this.#holders.set(ifindex, found.holder)
      return found
    }
    const before = this.#holders.get(ifindex)
    if (found.kind === 'none') this.#holders.delete(ifindex)
    const vm = ports.all().find((entry) => entry.ifindex === ifindex)?.vm ?? null
    if (vm === null || !this.#isUnsettled(found, ifindex, before)) return null
    return { name: vm, spec: specOf(vm) }
  }

  /**
   * Whether a member's port is to stay one though its machine is not seen. While this daemon loads a machine, the
   * device is its own, and it keeps the machine's QMP socket to itself.
   */
  #isUnsettled(found: Discovered, ifindex: number, before: Holder | undefined): boolean {
    if (found.kind === 'pending' || !this.#host.machines.isLookedAt(ifindex)) return true
    if (found.kind !== 'undrivable') return false
    return before === undefined || found.holder === null || isSameProcess(found.holder, before)
  }

  forget(ifindex: number): void {
    this.#holders.delete(ifindex)
  }
}

const isSameProcess = (one: Holder, other: Holder) => one.pid === other.pid && one.startTicks === other.startTicks
