// The deterministic heart of one network: frames, commands and time go in; frames to ports, counts and events come out.
// No I/O, no clock, no randomness: the same inputs give the same outputs on any machine, which is what makes replay and
// the simulation of the snapshot algorithm possible. Here its parts are put together, and frames find their ports.
//
// Per frame nothing is allocated, unless it must be kept (held, armed or recorded: only around a cut).

import { isDeepStrictEqual } from 'node:util'
import type { PortKind, PortRules } from '../../src/api/schemas.js'
import { type PlainFields, StateExchange } from '../../src/epoch/state.js'
import {
  announcement,
  EtherType,
  isBadSource,
  isGroup,
  isLinkLocal,
  isWellFormed,
  macBytes,
  macHigh,
  macLow,
  vlanId,
} from '../../src/frame/ethernet.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Counter, type CounterTable, Drop, type DropReason } from './counters.js'
import { Egress } from './egress.js'
import { type Fdb, NO_PORT } from './fdb.js'
import { Network, type NetworkOptions } from './network.js'
import { type PeerEvents, Trunks } from './peers/trunks.js'
import { Uplink } from './peers/uplink.js'
import { admitTo, bringTagBeside, type CompiledRules, firstOf, NOT_ADMITTED } from './port-rules.js'
import { type DeviceState, floodBarrier, type Output, type PortSpec, PortState, Side } from './port-state.js'
import type { ChannelClosed } from './snapshot/open-snapshot.js'
import { type SnapshotEvents, Snapshots } from './snapshot/snapshots.js'

/** What a forwarder tells its agent without being asked. */
export interface ForwarderEvents extends SnapshotEvents, PeerEvents {}

/** What a forwarder tells, as data. */
export type ForwarderEvent =
  | { readonly kind: 'early'; readonly port: number; readonly epoch: number }
  | {
      readonly kind: 'peer'
      readonly port: number
      readonly host: string
      readonly bootId: string
      readonly epoch: number
    }
  | { readonly kind: 'closed'; readonly epoch: number; readonly closures: readonly ChannelClosed[] }
  | { readonly kind: 'broken'; readonly epoch: number; readonly port: number; readonly host: string | null }
  | { readonly kind: 'refused'; readonly port: number; readonly reason: DropReason }

export function eventsTo(say: (event: ForwarderEvent) => void): ForwarderEvents {
  return {
    early: (port, epoch) => say({ kind: 'early', port, epoch }),
    peer: (port, host, bootId, epoch) => say({ kind: 'peer', port, host, bootId, epoch }),
    closed: (epoch, closures) => say({ kind: 'closed', epoch, closures }),
    broken: (epoch, port, host) => say({ kind: 'broken', epoch, port, host }),
    refused: (port, reason) => say({ kind: 'refused', port, reason }),
  }
}

/** Long enough for peers on a LAN to hear of other claims, and for what is under way there. */
const LEAVING_MS = 1000
/** Long against a frame's way over a LAN. */
const UNDER_WAY_MS = 200
/** Most announcements for one machine's port. */
const MOST_ANNOUNCED = 16

/** Without another switch behind it: the same kind, or one of those that differ in whose frames are colored only. */
function mayBecome(before: PortSpec, after: PortSpec): boolean {
  if (before.kind === after.kind) return before.uplink?.color === after.uplink?.color
  return [before, after].every(({ kind }) => kind !== 'trunk' && kind !== 'uplink')
}

export class Forwarder {
  readonly network: Network
  readonly snapshots: Snapshots
  readonly egress: Egress
  readonly trunks: Trunks
  // The network's own.
  readonly counters: CounterTable
  readonly fdb: Fdb
  readonly byIndex: Network['byIndex']
  readonly ports: Network['ports']
  #uplink: Uplink | null = null
  readonly #frame = new Frame()
  readonly #leaving = new Map<PortState, { readonly kind: PortKind; readonly until: number; told: boolean }>()

  constructor(options: NetworkOptions, counters: CounterTable, events: ForwarderEvents) {
    this.network = new Network(options, counters)
    const actions = {
      deliver: (port: PortState, frame: Frame, now: number) => {
        this.network.observer?.at(now)
        this.egress.judge(port, frame, now)
      },
      sendMarkers: (now: number) => this.trunks.tick(now),
      fenced: () => this.#uplink?.fenced(),
      settle: () => {
        this.#settle(Number.POSITIVE_INFINITY)
        for (const port of this.ports) port.outsiderUntil = 0
      },
    }
    this.snapshots = new Snapshots(this.network, actions, events)
    this.egress = new Egress(this.network, this.snapshots)
    this.trunks = new Trunks(this.network, this.snapshots, events)
    this.counters = counters
    this.fdb = this.network.fdb
    this.byIndex = this.network.byIndex
    this.ports = this.network.ports
  }

  get uplink(): Uplink | null {
    return this.#uplink
  }

  addPort(spec: PortSpec, output: Output): PortState {
    const { network, egress, trunks } = this
    let port: PortState
    if (spec.kind === 'uplink') {
      this.#uplink = new Uplink(network, egress, trunks, spec, output)
      port = this.#uplink.port
    } else port = new PortState(spec, output, network)
    network.add(port)
    return port
  }

  removePort(index: number): void {
    const port = this.byIndex[index]
    if (port === undefined) return
    this.#leaving.delete(port)
    if (port === this.#uplink?.port) {
      this.#uplink.close()
      this.#uplink = null
    }
    if (port.isTrunk) this.trunks.remove(port)
    else this.network.remove(port)
  }

  /**
   * The device under a port has another MTU, address or queue by now, or has lost its carrier; `output` is what the
   * port was added with. An uplink with another address is to its peers as one on another device: they meet it anew.
   */
  portChanged(index: number, device: DeviceState, output: Output, now: number): void {
    const port = this.byIndex[index]
    if (port === undefined) return
    const before = port.spec
    const { mac, mtu, queueLength } = device
    const uplink = before.uplink === undefined ? {} : { uplink: { ...before.uplink, mtu } }
    const spec = { ...before, mac, queueLength, ...uplink }
    const moved = mac.some((byte, at) => byte !== before.mac[at])
    if (port === this.#uplink?.port && moved) {
      this.removePort(index)
      this.addPort(spec, output)
      return
    }
    port.spec = spec
    // As in the kernel’s bridge (br_stp_disable_port). Another port may lead there: unknown addresses go to all.
    if (device.lost === true) this.fdb.flushPort(index)
    if (port === this.#uplink?.port) this.#uplink.resize(mtu)
    else if (port.isTrunk && moved) this.trunks.greet(port, now)
  }

  /**
   * The port becomes one of another kind, machine or rules, on the same device. Where it leads to no other switches
   * before or after, it goes on as it is: nothing that was learned is forgotten, nothing that waits is lost.
   */
  portReplaced(spec: PortSpec, output: Output, now: number): PortState {
    const port = this.byIndex[spec.index]
    if (port === undefined || !mayBecome(port.spec, spec)) {
      this.removePort(spec.index)
      return this.addPort(spec, output)
    }
    const { rules = {} } = spec
    if (!isDeepStrictEqual(rules, port.spec.rules ?? {})) this.setRules(spec.index, rules)
    this.#leaving.delete(port)
    const leaves = port.isMember && spec.kind !== 'member' && this.#uplink !== null && this.snapshots.openEpoch === null
    port.leave(leaves, this.network.options.transit)
    if (leaves) this.#leaving.set(port, { kind: spec.kind, until: now + LEAVING_MS, told: false })
    else if (port.spec.kind !== spec.kind) this.#become(port, spec.kind, spec.epoch, now)
    this.#uplink?.fenced()
    port.spec = { ...port.spec, vm: spec.vm }
    return port
  }

  #become(port: PortState, kind: PortKind, epoch: number, now: number): void {
    port.leave(false, this.network.options.transit)
    this.snapshots.changesKind(port, () => port.become(kind, Math.max(epoch, this.network.epoch)), now)
    if (this.#uplink === null || !port.isMember) return
    port.outsiderUntil = now + UNDER_WAY_MS
    // Peers take it for an outsider: that its frames come from a member from now on, they learn by these.
    const known: [mac: Uint8Array, vlan: number][] = []
    this.fdb.visit(
      (high, low, vlan, index) => {
        if (index === port.index && known.length < MOST_ANNOUNCED) known.push([macBytes(high, low), vlan])
      },
      Math.floor(now / 1000),
    )
    for (const [mac, vlan] of known) this.#announceIn(port, mac, vlan, now)
  }

  /** Members that are leaving have left: all of them, or those whose time has come. */
  #settle(until: number): void {
    for (const [port, one] of this.#leaving) {
      const isHeard = one.told && this.#uplink?.claimsAreHeard === true
      one.told = true
      if (one.until > until && !isHeard) continue
      this.#leaving.delete(port)
      this.#become(port, one.kind, 0, one.until)
      this.#uplink?.fenced()
    }
  }

  /** From the next frame on a port has other rules; its peers, where it is an uplink, have the same. */
  setRules(index: number, rules: PortRules): void {
    const port = this.byIndex[index]
    if (port === undefined) return
    this.network.setRules(port, rules)
    if (port === this.#uplink?.port) this.#uplink.setRules(rules)
  }

  /** A frame has come in at a port. `now`: Unix time in milliseconds. */
  receive(index: number, frame: Frame, now: number): void {
    let port: PortState | null = this.byIndex[index]!
    const counters = this.counters
    counters[port.row + Counter.rxFrames]++
    counters[port.row + Counter.rxBytes] += frame.length
    if (!isWellFormed(frame)) {
      counters[port.row + Drop.malformed]++
      this.network.observer?.unread(port, frame, 'malformed', now)
      return
    }
    if (frame.bytes[frame.vnet + 1] !== 0) counters[port.row + Counter.rxGso]++
    if (port.isMember) frame.color = port.epoch
    else if (port.isTrunk) {
      if (!this.trunks.enter(port, frame, now)) return
    } else if (port.side === Side.UPLINK) {
      port = this.#uplink!.enter(frame, now)
      if (port === null) return
    } else if (port.side === Side.MIRROR) {
      this.egress.misread(port, frame, 'mirror', now)
      return
    } else frame.color = NO_COLOR
    // A tag that lies in the frame, as behind a trunk's color, is moved before any port has it: ports send a frame from
    // where it lies, at the end of the batch.
    if (this.network.hasVlans) bringTagBeside(frame)
    const { observer } = this.network
    if (observer === null) {
      this.#forward(port, frame, now)
      return
    }
    observer.came(port, frame, now)
    this.#forward(port, frame, now)
    observer.gone()
  }

  /** Tells every switch on the way where `mac` now is, as if its VM had spoken: in its port's VLANs, the first ones. */
  announce(index: number, mac: Uint8Array, now: number): void {
    const port = this.byIndex[index]
    if (port === undefined) return
    const vlans = port.rules?.vlans ?? null
    for (const vlan of vlans === null ? [0] : firstOf(vlans, MOST_ANNOUNCED)) this.#announceIn(port, mac, vlan, now)
  }

  #announceIn(port: PortState, mac: Uint8Array, vlan: number, now: number): void {
    const body = announcement(mac)
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    const isTagged = vlan !== 0 && vlan !== port.rules?.vlans?.pvid
    const tag = isTagged ? { tagTpid: EtherType.VLAN, tagTci: vlan } : { tagTpid: 0, tagTci: 0 }
    this.receive(port.index, this.#frame.pointAt({ bytes, ...tag, color: NO_COLOR }), now)
  }

  /**
   * Lets time pass: ageing, HELLOs, markers, closures. Call at least every 100 ms, every 10 ms while a snapshot is
   * open, every 500 ms when it is calm.
   */
  tick(now: number): void {
    if (this.#leaving.size > 0) this.#settle(now)
    this.fdb.sweep(Math.floor(now / 1000), 256)
    this.trunks.tick(now)
    this.snapshots.tick(now)
    this.#uplink?.tick(now)
  }

  /** Nothing but addresses changes with time alone. */
  get isCalm(): boolean {
    if (this.#leaving.size > 0 || this.#uplink !== null || this.snapshots.openEpoch !== null) return false
    return this.network.ports.every(({ channel, isGated }) => channel === null && !isGated)
  }

  /**
   * All that what comes depends on, but the options that it was made with, and what `snapshots.unsaved` names. Counters
   * are none of it: nothing reads them here.
   */
  save(): PlainFields {
    const state = StateExchange.saving()
    this.#exchange(state, () => null)
    return state.fields
  }

  /** Takes up what `save` gave, into a forwarder that was just made with the same options. Throws TRACE_INVALID. */
  load(fields: unknown, outputOf: (port: number) => Output): void {
    this.#exchange(StateExchange.loading(fields), outputOf)
  }

  #exchange(state: StateExchange, outputOf: (port: number) => Output | null): void {
    this.network.ends.exchangePasts(state)
    this.trunks.exchange(state)
    state.parts(
      'ports',
      this.ports.filter((port) => port.peer === null),
      (port, part) => {
        part.value('spec', port.spec)
        port.exchange(part)
      },
      (part) => {
        const spec = part.value<PortSpec | null>('spec', null)!
        this.addPort(spec, outputOf(spec.index)!).exchange(part)
      },
    )
    if (this.#uplink !== null) state.part('uplink', (part) => this.#uplink!.exchange(part))
    for (const port of [...this.ports, ...(this.#uplink?.neighbors.ports ?? [])])
      state.part(`way ${port.index}`, (part) => this.trunks.exchangePort(port, part))
    const leaving = state.value(
      'leaving',
      [...this.#leaving].map(([{ index }, one]) => ({ index, ...one })),
    )
    if (state.isLoading) for (const { index, ...one } of leaving) this.#leaving.set(this.byIndex[index]!, { ...one })
    state.part('network', (part) => this.network.exchange(part))
  }

  #forward(from: PortState, frame: Frame, now: number): void {
    const seconds = Math.floor(now / 1000)
    const high = macHigh(frame.bytes, frame.start + 6)
    const low = macLow(frame.bytes, frame.start + 6)
    if (isBadSource(high, low)) {
      this.egress.refuse(from, frame, 'bad-source', false)
      return
    }
    const isToGroup = isGroup(frame.bytes, frame.start)
    const refusal = isToGroup ? this.#linkLocalRefusal(frame) : null
    if (refusal === 'pause') {
      this.egress.refuse(from, frame, refusal, false)
      return
    }
    const { rules } = from
    const came = frame.tagTpid === 0 ? 0 : (frame.tagTpid << 16) | frame.tagTci
    const vlan = rules === null ? vlanId(frame) : this.#admit(from, rules, frame, seconds)
    if (vlan === NOT_ADMITTED) return
    // What the rules look at may have moved.
    const { bytes, start } = frame
    if ((rules === null || rules.learns) && (frame.color >= this.network.fence || frame.color === NO_COLOR)) {
      const learned = this.fdb.learn(high, low, vlan, from.index, seconds)
      if (!learned) this.counters[from.row + Counter.unlearned]++
    }
    if (!isToGroup) {
      let to = this.fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlan, seconds)
      if (to === NO_PORT && this.#uplink !== null) to = this.#uplink.behind(bytes, start)
      if (to !== NO_PORT) {
        if (to === from.index && rules?.hairpin !== true) return
        const port = this.byIndex[to]!
        if ((from.blocked & port.mask) === 0) {
          this.network.fast?.reached(from, port, frame, vlan, came)
          this.egress.deliver(port, frame, now)
        } else this.#detour(from, port, frame, now)
        return
      }
    } else if (refusal !== null) {
      this.egress.refuse(from, frame, refusal, false)
      return
    }
    this.#flood(from, frame, from.blocked | floodBarrier(frame, from.isHost), now)
  }

  #flood(from: PortState, frame: Frame, blocked: number, now: number): void {
    const ports = this.ports
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      if ((blocked & port.mask) !== 0) {
        if ((from.blocked & port.side) === 0 && port !== from) this.egress.leftOut(port, frame, 'isolated')
      } else if (port !== from || from.rules?.hairpin === true) this.egress.deliver(port, frame, now)
    }
  }

  #linkLocalRefusal({ bytes, start }: Frame): 'link-local' | 'pause' | null {
    return isLinkLocal(bytes, start) ? this.network.linkLocalRefusal(bytes, start) : null
  }

  /** The VLAN in which a frame may enter by the rules of its port, or NOT_ADMITTED: it is dropped. */
  #admit(from: PortState, rules: CompiledRules, frame: Frame, seconds: number): number {
    const vlan = rules.vlans === null ? vlanId(frame) : admitTo(rules.vlans, frame)
    if (vlan === NOT_ADMITTED) {
      this.egress.refuse(from, frame, 'vlan', true)
      return NOT_ADMITTED
    }
    this.network.observer?.lies(frame)
    if (!rules.isLocked) return vlan
    const { bytes, start } = frame
    const knownAt = this.fdb.lookUp(macHigh(bytes, start + 6), macLow(bytes, start + 6), vlan, seconds)
    if (knownAt === from.index) return vlan
    this.egress.refuse(from, frame, 'locked', true)
    return NOT_ADMITTED
  }

  /** A frame that does not pass from one port to the other. */
  #detour(from: PortState, port: PortState, frame: Frame, now: number): void {
    // The outside behind a plain port reaches a peer's member as what it is: a host on the LAN.
    const lan = from.side === Side.PLAIN ? port.lan : null
    if (lan !== null && (from.blocked & lan.mask) === 0) this.egress.deliver(lan, frame, now)
    else if ((from.blocked & port.side) === 0) this.egress.forbid(port, frame, 'isolated')
  }
}
