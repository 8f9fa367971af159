// The deterministic heart of one network: frames, commands and time go in; frames to ports, counts and events come out.
// No I/O, no clock, no randomness: the same inputs give the same outputs on any machine, which is what makes replay and
// the simulation of the snapshot algorithm possible. Here its parts are put together, and frames find their ports.
//
// Per frame nothing is allocated, unless it must be kept (held, armed or recorded: only around a cut).

import {
  announcement,
  isBadSource,
  isGroup,
  isLinkLocal,
  isWellFormed,
  macHigh,
  macLow,
  vlanId,
} from '../../src/frame/ethernet.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Counter, type CounterTable, Drop } from './counters.js'
import { Egress } from './egress.js'
import { type Fdb, NO_PORT } from './fdb.js'
import { Network, type NetworkOptions } from './network.js'
import { type PeerEvents, Trunks } from './peers/trunks.js'
import { Uplink } from './peers/uplink.js'
import { type DeviceState, type Output, type PortSpec, PortState, Side } from './port-state.js'
import { type SnapshotEvents, Snapshots } from './snapshot/snapshots.js'

/** What a forwarder tells its agent without being asked. */
export interface ForwarderEvents extends SnapshotEvents, PeerEvents {}

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

  constructor(options: NetworkOptions, counters: CounterTable, events: ForwarderEvents) {
    this.network = new Network(options, counters)
    const actions = {
      deliver: (port: PortState, frame: Frame, now: number) => this.egress.deliver(port, frame, now),
      sendMarkers: (now: number) => this.trunks.tick(now),
      fenced: () => this.#uplink?.fenced(),
    }
    this.snapshots = new Snapshots(this.network, actions, events)
    this.egress = new Egress(counters, this.snapshots)
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
    if (port === this.#uplink?.port) {
      this.#uplink.close()
      this.#uplink = null
    }
    if (port.isTrunk) this.trunks.remove(port)
    else this.network.remove(port)
  }

  /**
   * The device under a port has another MTU, address or queue by now; `output` is what the port was added with. An
   * uplink with another address is to its peers as one on another device: they meet it anew.
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
    if (port === this.#uplink?.port) this.#uplink.resize(mtu)
    else if (port.isTrunk && moved) this.trunks.greet(port, now)
  }

  /** The port becomes one of another kind or machine, on the same device; what was learned from it is forgotten. */
  portReplaced(spec: PortSpec, output: Output): PortState {
    this.removePort(spec.index)
    return this.addPort(spec, output)
  }

  /** A frame has come in at a port. `now`: Unix time in milliseconds. */
  receive(index: number, frame: Frame, now: number): void {
    let port: PortState | null = this.byIndex[index]!
    const counters = this.counters
    counters[port.row + Counter.rxFrames]++
    counters[port.row + Counter.rxBytes] += frame.length
    if (!isWellFormed(frame)) {
      counters[port.row + Drop.malformed]++
      return
    }
    if (frame.bytes[frame.vnet + 1] !== 0) counters[port.row + Counter.rxGso]++
    if (port.isMember) frame.color = port.epoch
    else if (port.isTrunk) {
      if (!this.trunks.enter(port, frame, now)) return
    } else if (port.side === Side.UPLINK) {
      port = this.#uplink!.enter(frame, now)
      if (port === null) return
    } else frame.color = NO_COLOR
    const { log } = this.snapshots
    if (log !== null) log.came(port, frame, now)
    this.#forward(port, frame, now)
  }

  /** Tells every switch on the way where `mac` now is, as if its VM had spoken. */
  announce(index: number, mac: Uint8Array, now: number): void {
    const body = announcement(mac)
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    this.receive(index, this.#frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }), now)
  }

  /**
   * Lets time pass: ageing, HELLOs, markers, closures. Call at least every 100 ms, every 10 ms while a snapshot is
   * open.
   */
  tick(now: number): void {
    this.fdb.sweep(Math.floor(now / 1000), 256)
    this.trunks.tick(now)
    this.snapshots.tick(now)
    this.#uplink?.tick(now)
  }

  #forward(from: PortState, frame: Frame, now: number): void {
    const bytes = frame.bytes
    const start = frame.start
    const seconds = Math.floor(now / 1000)
    const high = macHigh(bytes, start + 6)
    const low = macLow(bytes, start + 6)
    if (isBadSource(high, low)) {
      this.egress.drop(from, frame, 'bad-source')
      return
    }
    const isToGroup = isGroup(bytes, start)
    const refusal = isToGroup && isLinkLocal(bytes, start) ? this.network.linkLocalRefusal(bytes, start) : null
    if (refusal === 'pause') {
      this.egress.drop(from, frame, refusal)
      return
    }
    const vlan = vlanId(frame)
    if (frame.color >= this.network.fence || frame.color === NO_COLOR) {
      const learned = this.fdb.learn(high, low, vlan, from.index, seconds)
      if (!learned) this.counters[from.row + Counter.unlearned]++
    }
    if (!isToGroup) {
      let to = this.fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlan, seconds)
      if (to === NO_PORT && this.#uplink !== null) to = this.#uplink.behind(bytes, start)
      if (to !== NO_PORT) {
        if (to === from.index) return
        let port: PortState | null = this.byIndex[to]!
        // The outside behind a plain port reaches a peer's member as what it is: a host on the LAN.
        if ((from.blocked & port.side) !== 0) port = from.side === Side.PLAIN ? port.lan : null
        if (port !== null) this.egress.deliver(port, frame, now)
        return
      }
    } else if (refusal !== null) {
      this.egress.drop(from, frame, refusal)
      return
    }
    const ports = this.ports
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      if (port === from || (from.blocked & port.side) !== 0) continue
      this.egress.deliver(port, frame, now)
    }
  }
}
