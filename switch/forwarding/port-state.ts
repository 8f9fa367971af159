// What is known of a port. A member port belongs to a VM of the network and has an epoch; a plain one leads to the
// outside; a trunk leads to a peer switch and carries colors; an uplink leads to a LAN, where the outside is and peer
// switches are, each of which is a port of its own here (peers/uplink.ts).

import type { PortKind, PortRules } from '../../src/api/schemas.js'
import { type Ends, PeerChannel } from '../../src/epoch/peer-channel.js'
import type { StateExchange } from '../../src/epoch/state.js'
import { isGroup, macHigh, macLow } from '../../src/frame/ethernet.js'
import type { Frame } from '../../src/frame/frame.js'
import type { ArmedCopies } from './armed-copies.js'
import { type DropReason, ROW } from './counters.js'
import { type HoldBounds, HoldQueue, type HoldRoom } from './hold-queue.js'
import { type CompiledRules, compileRules } from './port-rules.js'

/** Most peer switches on one LAN. */
export const MAX_PEERS = 64

/** What a port leads to. */
export const Side = { MEMBER: 1, PLAIN: 2, TRUNK: 4, UPLINK: 8, PEER: 16, MIRROR: 512 } as const
export type Side = (typeof Side)[keyof typeof Side]

const SIDES: Readonly<Record<PortKind, Side>> = {
  member: Side.MEMBER,
  plain: Side.PLAIN,
  trunk: Side.TRUNK,
  uplink: Side.UPLINK,
  host: Side.PLAIN,
}

const ALL_SIDES = 31 | Side.MIRROR

/** Rules that keep frames from a port, in the same mask as sides: between isolated ports, and of each kind of flood. */
export const Barrier = { ISOLATED: 32, UNKNOWN: 64, MULTICAST: 128, BROADCAST: 256 } as const

/**
 * Where a frame from each side does not go. Trunks: split horizon. Peers and the outside world on a LAN:
 * peers/uplink.ts.
 */
const BLOCKED: Readonly<Record<Side, number>> = {
  [Side.MEMBER]: Side.MIRROR,
  [Side.PLAIN]: Side.MIRROR | Side.PEER,
  [Side.TRUNK]: Side.MIRROR | Side.TRUNK,
  [Side.UPLINK]: Side.MIRROR | Side.UPLINK | Side.PEER,
  [Side.PEER]: Side.MIRROR | Side.PLAIN | Side.UPLINK | Side.PEER,
  [Side.MIRROR]: 0,
}

/**
 * Where a port's frames go, control frames as well: whoever adds the port may wrap the device's own. It never throws,
 * it counts.
 */
export interface Output {
  /**
   * Queues the frame for the next flush. `serviceTci` >= 0 pushes an 802.1ad tag with that TCI (to a peer on a LAN,
   * what it says travels in the carrier). False: dropped, counted by the port.
   */
  send(frame: Frame, serviceTci: number): boolean
  /** Why `send` was false last; left out: 'tx-error'. */
  readonly refusal?: DropReason
}

/** What may change of a device while it is a port. */
export interface DeviceState {
  readonly mac: Uint8Array
  readonly mtu: number
  /** Frames that may wait in it for a reader. */
  readonly queueLength: number
  /** It has just gone down, or lost its carrier. Recordings of older versions say nothing of it. */
  readonly lost?: boolean
}

export interface PortSpec {
  /** Unique in the daemon, below MAX_PORTS; also the row of its counters. */
  readonly index: number
  readonly name: string
  readonly kind: PortKind
  readonly vm: string | null
  /** Initial epoch of a member. */
  readonly epoch: number
  /** The device's own address: source of control frames on a trunk or uplink. */
  readonly mac: Uint8Array
  /** Frames that may wait in it for a reader; by default as a TAP has it. */
  readonly queueLength?: number
  /**
   * Its gate is closed from the beginning: a restore's port, which its fence has not seen yet. Only `release` opens it.
   */
  readonly gated?: boolean
  /** What it lets in and out; left out: all. */
  readonly rules?: PortRules | undefined
  /** Of an uplink: its MTU, and how members' frames to peers are colored. */
  readonly uplink?: { readonly mtu: number; readonly color: 'dscp' | 'carrier' }
}

/** A peer switch on a LAN (peers/uplink-peer.ts), as far as others need to know it. */
export interface LanPeer {
  /** Its own address there. */
  readonly mac: Uint8Array
  /** It takes members' frames from us. */
  readonly established: boolean
}

/** What a peer's port has of its own; all else is its uplink's. */
export interface PeerSpec {
  readonly index: number
  readonly peer: LanPeer
  /** The LAN that it is on. */
  readonly lan: PortState
}

/** What a port must know of its network. */
interface PortSurroundings {
  readonly options: {
    readonly hold: HoldBounds
    /** Trunks forward to trunks. */
    readonly transit: boolean
  }
  readonly holdRoom: HoldRoom
  readonly ends: Ends
}

export class PortState {
  spec: PortSpec
  /** Where it is among the network's ports. Of a peer on a LAN its own, while `spec.index` is the uplink's. */
  readonly index: number
  side: Side
  /** Its side, and the barriers that are up before it. */
  mask: number
  /** Sides and barriers that a frame from here does not pass. */
  blocked: number
  isMember: boolean
  /** The host's own side of a bridge: what it sends to groups passes the barriers of floods, as in the kernel. */
  isHost: boolean
  /** A member that is to be one no more, as soon as peers know that its addresses are not claimed. */
  leaving = false
  /**
   * Of a member that was none a moment ago: until then frames come to it that peers have sent to an outsider. Unix time
   * in milliseconds.
   */
  outsiderUntil = 0
  /** Null: none but barriers. */
  rules: CompiledRules | null = null
  /** Leads to one peer switch, by a link of its own or over a LAN. */
  readonly isTrunk: boolean
  readonly output: Output
  /** Offset of this port's row in the counter table. */
  readonly row: number
  epoch: number
  fence = 0
  /** What comes waits in the hold queue. */
  closed = false
  /** Closed still, but what waits is being let out in portions: it opens when the last one has gone. */
  opening = false
  /** Closed for the cut or restore of another network that the machine is in: only `release` opens it. */
  closedForOther = false
  /** Set while frames are copied there. */
  armed: ArmedCopies | null = null
  /** The same from one snapshot to the next. */
  copies: ArmedCopies | null = null
  /** Highest early color the agent has been told of. */
  earlyNotified = -1
  readonly hold: HoldQueue
  readonly channel: PeerChannel | null
  readonly peer: LanPeer | null
  /** Of a peer: the LAN as the outside world, by which frames from plain ports go to the peer's members. */
  readonly lan: PortState | null

  constructor(spec: PortSpec, output: Output, { options, holdRoom, ends }: PortSurroundings, peer?: PeerSpec) {
    this.spec = spec
    this.index = peer?.index ?? spec.index
    this.side = peer === undefined ? SIDES[spec.kind] : Side.PEER
    this.mask = this.side
    this.blocked = 0
    this.isMember = spec.kind === 'member'
    this.isTrunk = spec.kind === 'trunk'
    this.isHost = spec.kind === 'host'
    this.output = output
    this.row = spec.index * ROW
    this.epoch = spec.epoch
    this.closed = spec.gated ?? false
    this.closedForOther = this.closed
    this.hold = new HoldQueue(options.hold, holdRoom)
    this.channel = this.isTrunk ? new PeerChannel(ends) : null
    this.peer = peer?.peer ?? null
    this.lan = peer?.lan ?? null
    this.setRules(spec.rules ?? {}, options.transit)
  }

  /** What comes waits, is let out, or is copied. */
  get isGated(): boolean {
    return this.closed || this.opening || this.armed !== null || this.hold.length > 0
  }

  /** Plain, host or member: what differs is whether its frames have a color. `epoch`: of a member. */
  become(kind: PortKind, epoch: number): void {
    this.spec = { ...this.spec, kind }
    this.side = SIDES[kind]
    this.isMember = kind === 'member'
    this.isHost = kind === 'host'
    if (this.isMember) this.epoch = epoch
    this.mask = this.side | (this.mask & ~ALL_SIDES)
    this.separate(false)
  }

  /** Peers are to take its addresses for outsiders' soon: it tells them nothing else meanwhile. */
  leave(leaving: boolean, transit: boolean): void {
    this.leaving = leaving
    this.separate(transit)
    if (leaving) this.blocked |= Side.PEER
  }

  /** From the next frame on. What waits in the hold queue has passed the rules that held when it came. */
  setRules(rules: PortRules, transit: boolean): void {
    this.spec = { ...this.spec, rules }
    this.rules = compileRules(rules)
    if (rules.mirror !== undefined) this.side = Side.MIRROR
    else if (this.side === Side.MIRROR) this.side = SIDES[this.spec.kind]
    this.mask = this.side | barriersOf(rules)
    this.separate(transit)
  }

  /**
   * What was not made from its spec. Copies of what was delivered are none of it: a state is saved while nothing is
   * armed.
   */
  exchange(state: StateExchange): void {
    this.mask = state.value('mask', this.mask)
    this.blocked = state.value('blocked', this.blocked)
    this.leaving = state.value('leaving', this.leaving)
    this.outsiderUntil = state.value('outsiderUntil', this.outsiderUntil)
    this.epoch = state.value('epoch', this.epoch)
    this.fence = state.value('fence', this.fence)
    this.closed = state.value('closed', this.closed)
    this.opening = state.value('opening', this.opening)
    this.closedForOther = state.value('closedForOther', this.closedForOther)
    this.earlyNotified = state.value('earlyNotified', this.earlyNotified)
    this.hold.exchange(state)
    const { channel } = this
    if (channel !== null) state.part('channel', (part) => channel.exchange(part))
  }

  /** `transit`: trunks forward to trunks. */
  separate(transit: boolean): void {
    const sides = this.side === Side.TRUNK && transit ? Side.MIRROR : BLOCKED[this.side]
    this.blocked = sides | (this.mask & Barrier.ISOLATED)
  }
}

/** The barrier that keeps a flooded frame from a port. */
export function floodBarrier({ bytes, start }: Frame, fromHost: boolean): number {
  if (!isGroup(bytes, start)) return Barrier.UNKNOWN
  if (fromHost) return 0
  const isBroadcast = macHigh(bytes, start) === 0xffff && macLow(bytes, start) === -1
  return isBroadcast ? Barrier.BROADCAST : Barrier.MULTICAST
}

function barriersOf({ isolated = false, flood = true, mcastFlood = true, bcastFlood = true }: PortRules): number {
  return (
    (isolated ? Barrier.ISOLATED : 0) |
    (flood ? 0 : Barrier.UNKNOWN) |
    (mcastFlood ? 0 : Barrier.MULTICAST) |
    (bcastFlood ? 0 : Barrier.BROADCAST)
  )
}
