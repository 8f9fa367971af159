// The deterministic heart of one network: frames, commands and time go in; frames to ports, counts and events come out.
// No I/O, no clock, no randomness: the same inputs give the same outputs on any machine, which is what makes replay and
// the simulation of the snapshot algorithm possible.
//
// Per frame nothing is allocated, unless it must be kept (held, armed or recorded: only around a cut).

import { judge, Verdict } from '../../src/epoch/delivery.js'
import { Ends, type PeerChannel } from '../../src/epoch/peer-channel.js'
import { colorVid, epochOfVid, generationOfVid, LAST_VID, UNCOLORED_VID } from '../../src/frame/color-tag.js'
import {
  EtherType,
  innerEtherType,
  isBadSource,
  isGroup,
  isLinkLocal,
  isPause,
  isWellFormed,
  macHigh,
  macLow,
  vlanId,
} from '../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../src/frame/frame.js'
import { segmentsOf } from '../../src/frame/segments.js'
import { Event } from '../../src/trace/events.js'
import { Counter, type CounterTable, Drop, type DropReason, MAX_PORTS } from './counters.js'
import type { EventLog } from './event-log.js'
import { Fdb, type FdbOptions, NO_PORT } from './fdb.js'
import { type HoldBounds, HoldRoom } from './hold-queue.js'
import { MAX_PEERS, type Output, type PortSpec, PortState, Side } from './port-state.js'
import { type ForwarderEvents, SnapshotSide } from './snapshot-side.js'
import { TrunkSide } from './trunk-side.js'
import { UplinkSide } from './uplink-side.js'

export interface ForwarderOptions {
  readonly network: string
  readonly host: string
  /** 16 hex digits, new with every start of the datapath. */
  readonly bootId: string
  /** When that was, Unix time in milliseconds. */
  readonly bootedAt: number
  readonly linkLocal: 'forward' | 'drop'
  /** PAUSE frames, which are link-local, too. */
  readonly pause: 'forward' | 'drop'
  /** Whether frames may pass from trunk to trunk. Off (split horizon), a full mesh of switches needs no spanning tree. */
  readonly transit: boolean
  readonly fdb: FdbOptions
  /** Bounds of what a port holds. */
  readonly hold: HoldBounds
  /** Bounds of what all ports hold together. */
  readonly networkHold: HoldBounds
  /** Bounds of the channel state of one snapshot. */
  readonly record: HoldBounds
  /** Bounds of the copies that are kept of what was delivered to one port: memory that is set aside. By default for a full TAP. */
  readonly armed?: HoldBounds
  /** Milliseconds from a peer's marker until its missing frames count as lost. */
  readonly closureDeadline: number
  /** Seals control frames, and those of peers must carry its seal; null: neither. */
  readonly controlKey: Uint8Array | null
}

/** No service tag to push. */
const NO_TAG = -1

export class Forwarder {
  readonly options: ForwarderOptions
  readonly fdb: Fdb
  readonly counters: CounterTable
  /** By port index; holes where other networks' ports are. Behind MAX_PORTS: peers on the uplink's LAN. */
  readonly byIndex: (PortState | undefined)[] = new Array(MAX_PORTS + MAX_PEERS).fill(undefined)
  /** The same, dense: what a flood walks. */
  readonly ports: PortState[] = []
  readonly snapshots: SnapshotSide
  readonly trunks: TrunkSide
  readonly ends: Ends
  /** Writes down what happens to members' frames, while a snapshot is taken that is to be audited. */
  log: EventLog | null = null
  uplink: UplinkSide | null = null
  readonly holdRoom: HoldRoom
  /** What was counted with each peer on the uplink's LAN, by its switch's address: outlives the uplink's device. */
  readonly uplinkChannels = new Map<number, PeerChannel>()
  /** Highest epoch of any member port, ever: what colors on the wire are read against. */
  epoch = 0
  /** Colors below it are of a former incarnation of the network: where their senders were says nothing of where they are. Set before ports are added. */
  fence = 0

  constructor(options: ForwarderOptions, counters: CounterTable, events: ForwarderEvents) {
    this.options = options
    this.counters = counters
    this.holdRoom = new HoldRoom(options.networkHold)
    this.fdb = new Fdb(options.fdb, MAX_PORTS + MAX_PEERS)
    this.ends = new Ends(options.bootId, options.bootedAt)
    this.trunks = new TrunkSide(this, events)
    this.snapshots = new SnapshotSide(this, events)
  }

  addPort(spec: PortSpec, output: Output): PortState {
    if (spec.kind === 'uplink') this.uplink = new UplinkSide(this, spec, output)
    const port = this.uplink?.port.spec === spec ? this.uplink.port : new PortState(spec, output, this)
    if (port.isMember && port.epoch > this.epoch) this.epoch = port.epoch
    if (port.isMember) port.fence = this.fence
    this.byIndex[spec.index] = port
    this.ports.push(port)
    return port
  }

  removePort(index: number): void {
    const port = this.byIndex[index]
    if (port === undefined) return
    if (port === this.uplink?.port) {
      this.uplink.close()
      this.uplink = null
    }
    if (port.channel !== null) this.snapshots.channelBroke(port)
    port.hold.clear()
    this.fdb.flushPort(index)
    this.byIndex[index] = undefined
    this.ports.splice(this.ports.indexOf(port), 1)
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
      if (!this.readColor(port, frame, now)) return
    } else if (port.side === Side.UPLINK) {
      port = this.uplink!.enter(frame, now)
      if (port === null) return
    } else frame.color = NO_COLOR
    if (this.log !== null) this.log.came(port, frame, now)
    this.forward(port, frame, now)
  }

  /** Lets time pass: ageing, HELLOs, markers, closures. Call at least every 100 ms, every 10 ms while a snapshot is open. */
  tick(now: number): void {
    this.fdb.sweep(Math.floor(now / 1000), 256)
    this.trunks.tick(now)
    this.snapshots.tick(now)
    this.uplink?.tick(now)
  }

  /** Judges a frame at its destination and delivers, holds or drops it. */
  deliver(port: PortState, frame: Frame, now: number): void {
    if (!port.isMember) {
      this.emit(port, frame, port.channel !== null ? trunkTag(frame, port.channel.sends) : NO_TAG)
      return
    }
    const counters = this.counters
    switch (judge(frame.color, port.epoch, port.closed, port.fence)) {
      case Verdict.DELIVER:
        this.emit(port, frame, NO_TAG)
        return
      case Verdict.DELIVER_AND_RECORD:
        this.snapshots.inTransit(port, frame, now)
        this.emit(port, frame, NO_TAG)
        return
      case Verdict.HOLD_EARLY:
        this.snapshots.early(port, frame.color)
        if (this.snapshots.dropsEarly) {
          this.drop(port, frame, 'early-dropped')
          return
        }
        counters[port.row + Counter.early]++
        this.keep(port, frame)
        return
      case Verdict.HOLD:
        if (frame.color > port.epoch) {
          this.snapshots.early(port, frame.color)
          counters[port.row + Counter.early]++
        }
        this.keep(port, frame)
        return
      case Verdict.DROP_FENCED:
        this.drop(port, frame, 'fenced')
    }
  }

  /** Why a frame to a link-local address goes nowhere. A bridge learns from those that it stops here, but for PAUSE. */
  linkLocal(bytes: Uint8Array, start: number): 'link-local' | 'pause' | null {
    if (isPause(bytes, start)) return this.options.pause === 'drop' ? 'pause' : null
    return this.options.linkLocal === 'drop' ? 'link-local' : null
  }

  private keep(port: PortState, frame: Frame): void {
    if (port.hold.push(frame)) {
      this.counters[port.row + Counter.held]++
      this.log?.note(Event.held, port, frame)
    } else this.drop(port, frame, 'hold-overflow')
  }

  private drop(port: PortState, frame: Frame, reason: DropReason): void {
    this.counters[port.row + Drop[reason]]++
    this.log?.dropped(port, frame, reason)
  }

  private emit(port: PortState, frame: Frame, serviceTci: number): void {
    if (!port.output.send(frame, serviceTci)) {
      this.log?.dropped(port, frame, 'tx-error')
      return
    }
    if (this.log !== null) this.log.left(port, frame)
    // Whatever the verdict was: what may lie unread at the cut are the last frames that went out.
    if (port.armed !== null) port.armed.push(frame)
    if (port.channel !== null && frame.color !== NO_COLOR) port.channel.sent.add(frame.color, segmentsOf(frame))
  }

  private forward(from: PortState, frame: Frame, now: number): void {
    const bytes = frame.bytes
    const start = frame.start
    const seconds = Math.floor(now / 1000)
    if (isBadSource(bytes, start + 6)) {
      this.drop(from, frame, 'bad-source')
      return
    }
    const refusal = isLinkLocal(bytes, start) ? this.linkLocal(bytes, start) : null
    if (refusal === 'pause') {
      this.drop(from, frame, refusal)
      return
    }
    const vlan = vlanId(frame)
    if (frame.color >= this.fence || frame.color === NO_COLOR) {
      const learned = this.fdb.learn(macHigh(bytes, start + 6), macLow(bytes, start + 6), vlan, from.index, seconds)
      if (!learned) this.counters[from.row + Counter.unlearned]++
    }
    if (!isGroup(bytes, start)) {
      let to = this.fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlan, seconds)
      if (to === NO_PORT && this.uplink !== null) to = this.uplink.behind(bytes, start)
      if (to !== NO_PORT) {
        if (to === from.index) return
        let port: PortState | null = this.byIndex[to]!
        if ((from.blocked & port.side) !== 0) port = this.uplink === null ? null : this.uplink.instead(from, port)
        if (port !== null) this.deliver(port, frame, now)
        return
      }
    } else if (refusal !== null) {
      this.drop(from, frame, refusal)
      return
    }
    const ports = this.ports
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      if (port === from || (from.blocked & port.side) !== 0) continue
      this.deliver(port, frame, now)
    }
  }

  /** Takes the color off a frame from a trunk. False: it was a control frame or is dropped. */
  private readColor(port: PortState, frame: Frame, now: number): boolean {
    if (frame.tagTpid === EtherType.SERVICE_VLAN) {
      const vid = frame.tagTci & 0xfff
      if (vid > LAST_VID) {
        this.counters[port.row + Drop['tag-unknown']]++
        return false
      }
      frame.color = vid === UNCOLORED_VID ? NO_COLOR : epochOfVid(vid, this.epoch)
      frame.tagTpid = 0
      frame.tagTci = 0
      if (vid === UNCOLORED_VID || port.channel!.take(generationOfVid(vid), frame.color, segmentsOf(frame))) return true
      this.counters[port.row + Drop['other-generation']]++
      return false
    }
    frame.color = NO_COLOR
    if (frame.tagTpid !== 0 || innerEtherType(frame) !== EtherType.CONTROL) return true
    this.trunks.control(port, frame, now)
    return false
  }
}

/** The service tag that `frame` travels under on a trunk; NO_TAG when it needs none. */
function trunkTag(frame: Frame, generation: number): number {
  if (frame.color !== NO_COLOR) return colorVid(frame.color, generation)
  const outer = frame.tagTpid !== 0 ? frame.tagTpid : innerEtherType(frame)
  // From outside the network, yet it looks like ours: the escape makes it payload.
  return outer === EtherType.SERVICE_VLAN || outer === EtherType.CONTROL ? UNCOLORED_VID : NO_TAG
}
