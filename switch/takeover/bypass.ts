// Keeps the kernel's bridge out of what the switch does in its place: frames of ports that were taken over are not
// given to the bridge, and it gives these ports none. The ports stay in the bridge, in the state they are in, whatever
// becomes of their carriers. All of it are packet filter rules in tables that the kernel removes with this process:
// from that moment the bridge forwards as before. No flag or state of a port is changed, so nothing has to be put back.

import {
  addChain,
  addDeviceSet,
  addDrop,
  addTable,
  BridgeHook,
  type Command,
  changeDevices,
  Family,
  INGRESS,
  Nftables,
  removeChain,
  removeTable,
} from '../../src/linux/nftables.js'

/** Before filters of others: what they would see is none of the bridge's any more. */
const PRIORITY = -400
/** Ports that the bridge gives no frame to. */
const TAKEN = 'taken'
/** Ports that hear nothing by the bridge from the host's side of the switch. */
const DEAF = 'deaf'

export interface BypassedPort {
  readonly name: string
  readonly index: number
}

/** How our tables are called, for those who look at the rules of others. */
export const isOwnTable = (table: string) => table.startsWith('snapswitch-')

export class Bypass {
  readonly #nftables = new Nftables()
  readonly #table: string
  /** Chains by port. */
  readonly #chains = new Map<number, string>()
  readonly #deaf = new Set<number>()
  #made = 0

  /**
   * `bridge`, `hostEnd`: indexes, of the bridge and of the port of it that leads to the switch.
   * @throws SnapswitchError PERMISSION, SYSCALL where the kernel has no such tables (before 5.12)
   */
  constructor(bridge: number, hostEnd: number) {
    this.#table = `snapswitch-${bridge}`
    const table = this.#table
    const { bridge: family } = Family
    try {
      this.#commit([
        addTable(family, table),
        addDeviceSet(family, table, TAKEN),
        addDeviceSet(family, table, DEAF),
        addChain(family, table, 'forward', { number: BridgeHook.forward, priority: PRIORITY }),
        addDrop(family, table, 'forward', [
          { kind: 'device', way: 'iif', index: hostEnd },
          { kind: 'set', way: 'oif', set: DEAF },
        ]),
        // From ports that are not taken yet it comes by way of the switch.
        addDrop(family, table, 'forward', [{ kind: 'set', way: 'oif', set: TAKEN }]),
        addChain(family, table, 'output', { number: BridgeHook.output, priority: PRIORITY }),
        addDrop(family, table, 'output', [{ kind: 'set', way: 'oif', set: TAKEN }]),
        addTable(Family.netdev, table),
      ])
    } catch (thrown) {
      this.#nftables.close()
      throw thrown
    }
  }

  /** What comes from the switch does not go on to these ports by the bridge. */
  deafen(ports: readonly BypassedPort[]): void {
    const fresh = ports.filter(({ index }) => !this.#deaf.has(index))
    if (fresh.length === 0) return
    this.#commit([this.#change(DEAF, 'add', fresh)])
    for (const { index } of fresh) this.#deaf.add(index)
  }

  /** From one instant on, the bridge gets nothing from these ports and gives them nothing. */
  take(ports: readonly BypassedPort[]): void {
    const fresh = ports.filter(({ index }) => !this.#chains.has(index))
    if (fresh.length === 0) return
    const deaf = fresh.filter(({ index }) => !this.#deaf.has(index))
    const named = fresh.map((port) => ({ ...port, chain: `port-${port.index}-${++this.#made}` }))
    const { netdev } = Family
    this.#commit([
      ...named.flatMap(({ chain, name, index }) => [
        addChain(netdev, this.#table, chain, { number: INGRESS, priority: PRIORITY, device: name }),
        // By index, too: later kernels have a chain wait for another device of that name.
        addDrop(netdev, this.#table, chain, [{ kind: 'device', way: 'iif', index }]),
      ]),
      ...(deaf.length === 0 ? [] : [this.#change(DEAF, 'add', deaf)]),
      this.#change(TAKEN, 'add', fresh),
    ])
    for (const { index, chain } of named) {
      this.#chains.set(index, chain)
      this.#deaf.add(index)
    }
  }

  /** The bridge has these ports again, but for what comes from the switch. */
  leave(ports: readonly BypassedPort[]): void {
    const known = ports.filter(({ index }) => this.#chains.has(index))
    if (known.length === 0) return
    // A chain goes with its device on kernels before 6.16, and its removal would fail with it.
    const chains = this.#existing()
    const gone = known.map(({ index }) => this.#chains.get(index)!).filter((chain) => chains.has(chain))
    this.#commit([
      ...gone.map((chain) => removeChain(Family.netdev, this.#table, chain)),
      this.#change(TAKEN, 'remove', known),
    ])
    for (const { index } of known) this.#chains.delete(index)
  }

  /** The same of a port that is none of the bridge's any more. */
  forget(port: BypassedPort): void {
    this.leave([port])
    if (!this.#deaf.delete(port.index)) return
    this.#commit([this.#change(DEAF, 'remove', [port])])
  }

  /** Whether the chain of a port is where it was put: one goes with its device's name on some kernels. */
  has(port: BypassedPort): boolean {
    const chain = this.#chains.get(port.index)
    return chain !== undefined && this.#existing().has(chain)
  }

  /** The bridge is as it was. */
  close(): void {
    try {
      this.#commit([removeTable(Family.netdev, this.#table), removeTable(Family.bridge, this.#table)])
    } finally {
      this.#nftables.close()
    }
  }

  #existing(): Set<string> {
    const own = this.#nftables.chains(Family.netdev).filter(({ table }) => table === this.#table)
    return new Set(own.map(({ name }) => name))
  }

  #change(set: string, change: 'add' | 'remove', ports: readonly BypassedPort[]): Command {
    const indexes = ports.map(({ index }) => index)
    return changeDevices(Family.bridge, this.#table, set, change, indexes)
  }

  #commit(commands: readonly Command[]): void {
    this.#nftables.commit('change the rules that lead frames past the bridge', commands)
  }
}
