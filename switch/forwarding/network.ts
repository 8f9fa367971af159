// One network as a forwarder knows it: its ports, where addresses are, what is counted, and the two numbers that all
// colors are read against, the epoch and the fence. Both only grow, and only here.

import type { PortRules } from '../../src/api/schemas.js'
import { Ends } from '../../src/epoch/peer-channel.js'
import type { StateExchange } from '../../src/epoch/state.js'
import { isPause } from '../../src/frame/ethernet.js'
import { type CounterTable, MAX_PORTS } from './counters.js'
import type { FastPath } from './fast-path.js'
import { Fdb, type FdbOptions } from './fdb.js'
import { type HoldBounds, HoldRoom } from './hold-queue.js'
import { Mirrors } from './mirrors.js'
import { type FrameObserver, Observers } from './observer.js'
import { Membership } from './port-rules.js'
import { MAX_PEERS, type PortState, Side } from './port-state.js'

/** What of a network may change while it runs. */
export interface NetworkSettings {
  /** A number: bits of the groups that pass, by the last digit of the address (a bridge's group_fwd_mask). */
  readonly linkLocal: 'forward' | 'drop' | number
  /** PAUSE frames, which are link-local, too. */
  readonly pause: 'forward' | 'drop'
  /**
   * Whether frames may pass from trunk to trunk. Off (split horizon), a full mesh of switches needs no spanning tree.
   */
  readonly transit: boolean
  readonly fdb: FdbOptions
  /** Bounds of what a port holds. */
  readonly hold: HoldBounds
  /** Bounds of what all ports hold together. */
  readonly networkHold: HoldBounds
  /** Bounds of the channel state of one snapshot. */
  readonly record: HoldBounds
  /** Milliseconds from a peer's marker until its missing frames count as lost. */
  readonly closureDeadline: number
  /** Seals control frames, and those of peers must carry its seal; null: neither. */
  readonly controlKey: Uint8Array | null
}

export interface NetworkOptions extends NetworkSettings {
  readonly network: string
  readonly host: string
  /** 16 hex digits, new with every start of the datapath. */
  readonly bootId: string
  /** When that was, Unix time in milliseconds. */
  readonly bootedAt: number
  /**
   * Bounds of the copies that are kept of what was delivered to one port: memory that is set aside. By default for a
   * full TAP.
   */
  readonly armed?: HoldBounds
}

export class Network {
  #options: NetworkOptions
  readonly counters: CounterTable
  readonly fdb: Fdb
  readonly ends: Ends
  readonly holdRoom: HoldRoom
  readonly #byIndex: (PortState | undefined)[] = new Array(MAX_PORTS + MAX_PEERS).fill(undefined)
  readonly #ports: PortState[] = []
  /** By port index; holes where other networks' ports are. Behind MAX_PORTS: peers on the uplink's LAN. */
  readonly byIndex: readonly (PortState | undefined)[] = this.#byIndex
  /** The same, dense: what a flood walks. */
  readonly ports: readonly PortState[] = this.#ports
  /** Who looks on; null: nobody. */
  observer: FrameObserver | null = null
  readonly #observers: FrameObserver[] = []
  #epoch = 0
  #fence = 0
  #mirrors: Mirrors | null = null
  #hasVlans = false
  #fast: FastPath | null = null
  readonly #wanting = new Set<string>()

  constructor(options: NetworkOptions, counters: CounterTable) {
    // Bounds are handed on to who keeps them, and change in place.
    const { fdb, hold, networkHold } = options
    this.#options = { ...options, fdb: { ...fdb }, hold: { ...hold }, networkHold: { ...networkHold } }
    this.counters = counters
    this.fdb = new Fdb(this.options.fdb, MAX_PORTS + MAX_PEERS)
    this.ends = new Ends(options.bootId, options.bootedAt)
    this.holdRoom = new HoldRoom(this.options.networkHold)
  }

  get options(): NetworkOptions {
    return this.#options
  }

  get fast(): FastPath | null {
    return this.#fast
  }

  /** Decisions that depend on nothing else may be repeated there from now on; null: nowhere. */
  repeatBy(fast: FastPath | null): void {
    this.#fast = fast
    this.fdb.unpinned = fast === null ? null : (port) => fast.outdated(port)
  }

  /** Who needs to see every frame, by name. While somebody does, none is on the fast path. */
  get wanting(): ReadonlySet<string> {
    return this.#wanting
  }

  /** From when this returns, every frame of the network comes to the forwarder, for as long as somebody wants that. */
  wantEveryFrame(who: string, wanted: boolean): void {
    if (!wanted) {
      this.#wanting.delete(who)
      return
    }
    this.#wanting.add(who)
    this.#fast?.slow()
  }

  /** Addresses, ports and what is held stay. */
  configure(settings: NetworkSettings): void {
    const { fdb, hold, networkHold } = this.#options
    Object.assign(fdb, settings.fdb)
    Object.assign(hold, settings.hold)
    Object.assign(networkHold, settings.networkHold)
    this.#options = { ...this.#options, ...settings, fdb, hold, networkHold }
    for (const port of this.#ports) port.separate(settings.transit)
  }

  /** Highest epoch of any member port, ever: what colors on the wire are read against. */
  get epoch(): number {
    return this.#epoch
  }

  /**
   * Colors below it are of a former incarnation of the network: where their senders were says nothing of where they
   * are.
   */
  get fence(): number {
    return this.#fence
  }

  raiseEpoch(epoch: number): void {
    if (epoch > this.#epoch) this.#epoch = epoch
  }

  /** Ports that are here already have fences of their own. */
  raiseFence(fence: number): void {
    if (fence > this.#fence) this.#fence = fence
  }

  /** Not while a frame is being forwarded. */
  observe(observer: FrameObserver): void {
    this.#fast?.slow()
    this.#observers.push(observer)
    this.#look()
  }

  /** The same. */
  unobserve(observer: FrameObserver): void {
    const at = this.#observers.indexOf(observer)
    if (at >= 0) this.#observers.splice(at, 1)
    this.#look()
  }

  #look(): void {
    const [first = null, ...more] = this.#observers
    this.observer = more.length === 0 ? first : new Observers([...this.#observers])
  }

  /** `before`: the port that floods reach after it; by default it is the last one. */
  add(port: PortState, before?: PortState): void {
    if (port.isMember) {
      this.raiseEpoch(port.epoch)
      port.fence = this.#fence
    }
    this.#byIndex[port.index] = port
    this.#ports.splice(before === undefined ? this.#ports.length : this.#ports.indexOf(before), 0, port)
    this.#place(port)
    this.#rulesChanged()
  }

  /** Some port has VLANs: what leaves there may have to leave without its tag. */
  get hasVlans(): boolean {
    return this.#hasVlans
  }

  #rulesChanged(): void {
    this.#hasVlans = this.#ports.some(({ rules }) => rules !== null && rules.vlans !== null)
    this.#mirror()
  }

  /** Who mirrors whom has changed, perhaps. */
  #mirror(): void {
    if (this.#mirrors !== null) this.unobserve(this.#mirrors)
    const mirrored = this.#ports.some((port) => port.side === Side.MIRROR)
    this.#mirrors = mirrored ? new Mirrors(this.#ports) : null
    if (this.#mirrors !== null) this.observe(this.#mirrors)
  }

  /** What it holds and what was learned from it goes with it. */
  remove(port: PortState): void {
    port.hold.clear()
    this.fdb.removePort(port.index)
    this.#byIndex[port.index] = undefined
    this.#ports.splice(this.#ports.indexOf(port), 1)
    this.#rulesChanged()
  }

  /** After all ports have been exchanged, which is where loading counts and learns what it must not. */
  exchange(state: StateExchange): void {
    this.#epoch = state.value('epoch', this.#epoch)
    this.#fence = state.value('fence', this.#fence)
    this.ends.exchangeNumber(state)
    state.part('fdb', (part) => this.fdb.exchange(part))
    const order = state.value(
      'order',
      this.#ports.map(({ index }) => index),
    )
    if (state.isLoading) this.#ports.sort((a, b) => order.indexOf(a.index) - order.indexOf(b.index))
  }

  /**
   * A port has other rules: in VLANs that it has left it knows nobody any more (nbp_vlan_delete), nor the addresses
   * that stood under its rules.
   */
  setRules(port: PortState, rules: PortRules): void {
    for (const { high, low, vlan } of port.rules?.fdb ?? []) this.fdb.forget(high, low, vlan, port.index)
    const had = port.rules?.vlans ?? null
    port.setRules(rules, this.#options.transit)
    const vlans = port.rules?.vlans ?? null
    if (vlans !== null) this.fdb.flushVlans(port.index, (vlan) => vlans.members[vlan] === Membership.NONE)
    else if (had !== null || port.side === Side.MIRROR) this.fdb.flushPort(port.index)
    this.#place(port)
    this.#rulesChanged()
  }

  /** Static addresses are an uplink's own, never its peers'. */
  #place(port: PortState): void {
    if (port.peer !== null) return
    for (const { high, low, vlan, sticky } of port.rules?.fdb ?? []) this.fdb.place(high, low, vlan, port.index, sticky)
  }

  /** Why a frame to a link-local address goes nowhere. A bridge learns from those that it stops here, but for PAUSE. */
  linkLocalRefusal(bytes: Uint8Array, start: number): 'link-local' | 'pause' | null {
    if (isPause(bytes, start)) return this.options.pause === 'drop' ? 'pause' : null
    const { linkLocal } = this.options
    const passes =
      typeof linkLocal === 'number' ? ((linkLocal >> bytes[start + 5]!) & 1) === 1 : linkLocal === 'forward'
    return passes ? null : 'link-local'
  }
}
