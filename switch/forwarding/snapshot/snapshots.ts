// A network's part in snapshots and restores: gates, cuts and hold queues; the channels are in open-snapshot.ts.
// Decides nothing about when: the agent does, by commands.

import type { Policy } from '../../../src/api/schemas.js'
import { Frame, type FrameCopy } from '../../../src/frame/frame.js'
import { Event } from '../../../src/trace/events.js'
import { ArmedCopies } from '../armed-copies.js'
import { Counter, Drop } from '../counters.js'
import type { Crossings } from '../egress.js'
import { EventLog } from '../event-log.js'
import type { HoldBounds } from '../hold-queue.js'
import type { Network } from '../network.js'
import type { PortState } from '../port-state.js'
import type { HeldFrame } from './held-frames.js'
import { type ChannelClosed, type ChannelState, OpenSnapshot } from './open-snapshot.js'

/** What the agent is told of snapshots without being asked. */
export interface SnapshotEvents {
  /**
   * A frame (or marker) from after `epoch`'s cut has come before ours: the Lai-Yang trigger. Once per port and epoch.
   */
  early(port: number, epoch: number): void
  /** All channels of the open snapshot are closed and all gates open: its channel state is complete. */
  closed(epoch: number, closures: readonly ChannelClosed[]): void
  /**
   * The channel from a peer has ended, fallen silent, or begun anew, before it was closed for the open snapshot: what
   * was under way in it is lost, uncounted.
   */
  broken?(epoch: number, port: number, host: string | null): void
}

/** What a snapshot asks of the rest of the forwarder. */
export interface SnapshotActions {
  /** A frame that was held is judged again. */
  deliver(port: PortState, frame: Frame, now: number): void
  /** Markers have become due. */
  sendMarkers(now: number): void
  /** Who is a member is settled from now on. */
  settle(): void
  /** A restore has put up a fence: peers are to know soon which machines are here. */
  fenced(): void
}

/** Twice a TAP's default queue of 1000 frames (drivers/net/tun.c TUN_READQ_SIZE is 500, QEMU and libvirt set 1000). */
const ARMED_BOUNDS = { frames: 2000, bytes: 16 * 1024 * 1024 }
const MOST_ARMED = 65536

/**
 * Milliseconds without a HELLO (one a second) after which an open channel counts as broken: its marker does not come
 * any more. Longer than what a preflight lets pass, and than what a link that is plugged in again needs.
 */
const SILENT_PEER = 5000

export class Snapshots implements Crossings {
  readonly #network: Network
  readonly #actions: SnapshotActions
  readonly #events: SnapshotEvents
  readonly #frame = new Frame()
  #open: OpenSnapshot | null = null
  #log: EventLog | null = null

  constructor(network: Network, actions: SnapshotActions, events: SnapshotEvents) {
    this.#network = network
    this.#actions = actions
    this.#events = events
  }

  get openEpoch(): number | null {
    return this.#open?.epoch ?? null
  }

  /** Whether frames from both sides of a cut are still to be expected: the open snapshot lacks a cut or a closure. */
  get isCutting(): boolean {
    return this.#open?.isComplete === false
  }

  /** What the open snapshot has held, and found waiting. */
  get heldFrames(): readonly HeldFrame[] {
    return this.#open?.held.frames ?? []
  }

  get dropsEarly(): boolean {
    return this.#open !== null && this.#open.policy === 'drop'
  }

  /** No state of an open snapshot, nor of an audit's events, is ever saved: why not now, or null. */
  get unsaved(): 'a snapshot is open' | 'frame events are being recorded' | 'a cut is being prepared' | null {
    if (this.#open !== null) return 'a snapshot is open'
    if (this.#log !== null) return 'frame events are being recorded'
    return this.#network.ports.some((port) => port.armed !== null) ? 'a cut is being prepared' : null
  }

  /** From now on what happens to members' frames is written to `memory`; null: no more. */
  record(memory: SharedArrayBuffer | null, now: number): void {
    if (this.#log !== null) this.#network.unobserve(this.#log)
    const log = memory === null ? null : new EventLog(memory)
    this.#log = log
    if (log !== null) this.#network.observe(log)
    if (log === null) {
      this.#open?.recordingEnded()
      return
    }
    for (const port of this.#network.ports) {
      if (!port.isMember) continue
      log.mark(Event.state, port, port.epoch, now)
      if (port.closed) log.mark(Event['gate-closed'], port, port.epoch, now)
    }
  }

  /** Opens the snapshot of `epoch`: from now on in-transit frames are recorded and peers' markers count. */
  begin(epoch: number, policy: Policy, until: number, now: number): void {
    this.#actions.settle()
    this.#open = new OpenSnapshot(this.#network, epoch, policy, until, (at) => this.#actions.sendMarkers(at))
    // A host without members never flips, and must read colors all the same.
    this.#network.raiseEpoch(epoch)
    for (const port of this.#network.ports) {
      port.hold.some((copy) => {
        this.held(port, this.#frame.pointAt(copy), now)
        return false
      })
    }
    this.#network.observer?.mark(Event.begin, null, epoch, now)
    this.#open.announceCut(now)
  }

  arm(ports: readonly number[]): void {
    this.#actions.settle()
    for (const port of this.#members(ports)) {
      const bounds = this.#network.options.armed ?? boundsFor(port.spec.queueLength ?? 0)
      if (port.copies === null || port.copies.bounds.frames < bounds.frames) port.copies = new ArmedCopies(bounds)
      port.copies.clear()
      port.armed = port.copies
    }
  }

  /** `forOther`: for the cut or restore of another network that their machine is in, which nothing here calls off. */
  gate(ports: readonly number[], now: number, forOther = false): void {
    const { observer } = this.#network
    for (const port of this.#members(ports)) {
      this.#closeGate(port)
      port.closedForOther = forOther
      observer?.mark(Event['gate-closed'], port, port.epoch, now)
    }
  }

  /**
   * The cut: from here on frames from these ports are of the new epoch. The caller has drained the ports: nothing the
   * paused VM has sent may still wait in a socket. `residue[i]`: frames of ports[i] that lie unread in its TAP queue.
   * Returns, per port, how many residue frames went into the channel state and how many could not.
   */
  flip(
    ports: readonly number[],
    epoch: number,
    residue: readonly number[],
    now: number,
  ): { recorded: number; lost: number }[] {
    const results = ports.map((index, at) => {
      const port = this.#network.byIndex[index]
      if (port === undefined || !port.isMember) return { recorded: 0, lost: 0 }
      const copies = port.armed?.last(residue[at]) ?? []
      const recorded = this.#open?.recordResidue(port, copies, now) ?? 0
      this.#network.counters[port.row + Counter.recorded] += recorded
      if (this.#network.observer !== null) this.#writeResidue(port, copies)
      port.armed = null
      port.epoch = Math.max(port.epoch, epoch)
      this.#network.observer?.mark(Event.flip, port, port.epoch, now)
      // Nothing to do behind a closed gate; behind an open one, what waited for this goes before anything later.
      this.#siftHeld(port, now)
      return { recorded, lost: residue[at] - copies.length }
    })
    this.#network.raiseEpoch(epoch)
    this.#open?.announceCut(now)
    return results
  }

  /**
   * Opens gates; what was held is judged again, in order, before any later frame. Of ports[i], at most `most[i]` frames
   * (all when left out) are let out at once: a gate with more behind it stays closed for what comes, and opens by
   * `drain`. Returns how many frames were released.
   */
  release(ports: readonly number[], now: number, most: readonly number[] = []): number {
    let released = 0
    for (const [at, index] of ports.entries()) {
      const port = this.#network.byIndex[index]
      if (port?.isMember) released += this.#openGate(port, now, most[at])
    }
    return released
  }

  /**
   * Lets out the next portions behind gates that are opening; those that were closed again meanwhile are left alone.
   */
  drain(ports: readonly number[], now: number, most: readonly number[] = []): number {
    const opening = ports.filter((index) => this.#network.byIndex[index]?.opening)
    return this.release(
      opening,
      now,
      opening.map((index) => most[ports.indexOf(index)] ?? Number.POSITIVE_INFINITY),
    )
  }

  /** Ports whose gates are opening: there is more to drain. */
  opening(): number[] {
    return this.#network.ports.filter((port) => port.opening).map((port) => port.index)
  }

  /** Ends the open snapshot. */
  end(): ChannelState {
    const open = this.#open
    this.#open = null
    return open?.channelState() ?? { frames: [], overflow: new Map(), closures: [] }
  }

  /**
   * Calls a snapshot off: every member moves on to `epoch` without a cut, gates open, held frames go out. Epochs never
   * go back, and it may come late: a newer snapshot that is open, or gates that a newer restore or another network has
   * closed, are left alone. `most`: as for `release`, the same for each port.
   */
  advance(epoch: number, now: number, most?: number): void {
    if (this.#open !== null && this.#open.epoch > epoch) return
    this.#open = null
    this.#network.raiseEpoch(epoch)
    for (const port of this.#network.ports) {
      if (!port.isMember || port.epoch > epoch) continue
      port.epoch = Math.max(port.epoch, epoch)
      if (!port.closedForOther) this.#openGate(port, now, most)
    }
  }

  /**
   * Restored ports: fresh epoch, gates closed, and nothing from before it may pass. What was held is the old
   * incarnation's. Members that are not restored move on to the same epoch, or the fence would cut them off; what they
   * waited for is no longer early. Machines may have moved, so what was learned of where they are is forgotten.
   */
  fence(ports: readonly number[], epoch: number, now: number): void {
    for (const port of this.#members(ports)) {
      port.fence = epoch
      this.#closeGate(port)
      this.#network.counters[port.row + Drop.fenced] += port.hold.clear()
    }
    this.#network.fdb.clear()
    this.#network.raiseFence(epoch)
    this.#network.raiseEpoch(epoch)
    this.#actions.fenced()
    for (const port of this.#network.ports) {
      if (!port.isMember) continue
      port.epoch = Math.max(port.epoch, epoch)
      this.#siftHeld(port, now)
    }
  }

  /**
   * Recorded channel state goes to the head of a gated port's hold queue, colored as what it now is: part of this
   * incarnation.
   */
  preload(index: number, copies: readonly Omit<FrameCopy, 'color'>[]): void {
    const port = this.#network.byIndex[index]
    if (port === undefined) return
    port.hold.prepend(copies.map((copy) => ({ ...copy, color: port.epoch })))
  }

  /**
   * A port becomes a member or is one no more, while nothing is under way in its network. What is held for it, from
   * peers that are ahead, goes out.
   */
  changesKind(port: PortState, change: () => void, now: number): void {
    port.armed = null
    port.copies = null
    port.closed = false
    port.closedForOther = false
    port.opening = false
    change()
    port.fence = port.isMember ? this.#network.fence : 0
    port.hold.sift((copy) => {
      this.#actions.deliver(port, this.#frame.pointAt(copy), now)
      return false
    })
  }

  /** An in-transit frame is being delivered. */
  inTransit(port: PortState, frame: Frame, now: number): void {
    const open = this.#open
    const { counters } = this.#network
    // Closed or not: a late frame is in transit all the same, as long as somebody can take note of it.
    if (open === null || !open.takes(port, frame)) {
      counters[port.row + Counter.stragglers]++
      this.#network.observer?.note(Event.straggler, port, frame)
      return
    }
    if (open.record(port, frame, now)) {
      counters[port.row + Counter.recorded]++
      this.#network.observer?.note(Event.recorded, port, frame)
      return
    }
    counters[port.row + Drop['record-overflow']]++
    this.#network.observer?.dropped(port, frame, 'record-overflow')
  }

  held(port: PortState, frame: Frame, now: number): void {
    this.#open?.held.add(port, frame, now)
  }

  early(port: PortState, color: number): void {
    if (color <= port.earlyNotified) return
    port.earlyNotified = color
    this.#events.early(port.index, color)
  }

  /** A trunk's port is being removed, another end of the peer was heard, or nothing more is heard of it. */
  channelBroke(port: PortState): void {
    const open = this.#open
    if (open === null || !open.awaits(port) || port.channel!.host === null) return
    this.#events.broken?.(open.epoch, port.spec.index, port.channel!.host)
  }

  /** A peer has cut: if we have not begun, it is time. */
  markerCame(trunk: PortState, epoch: number, now: number): void {
    for (const port of this.#network.ports) if (port.isMember && port.epoch < epoch) this.early(port, epoch)
    if (trunk.channel!.hasMarker(epoch)) this.tick(now)
  }

  tick(now: number): void {
    const open = this.#open
    if (open === null) return
    const closures = open.tick(now)
    if (closures === null) {
      for (const port of this.#network.ports) {
        if (port.channel !== null && now - port.channel.lastHeard > SILENT_PEER) this.channelBroke(port)
      }
      return
    }
    this.#network.observer?.mark(Event.closed, null, open.epoch, now)
    this.#events.closed(open.epoch, closures)
  }

  #writeResidue(port: PortState, copies: readonly FrameCopy[]): void {
    for (const copy of copies) this.#network.observer?.note(Event.residue, port, this.#frame.pointAt(copy))
  }

  #closeGate(port: PortState): void {
    port.closed = true
    port.opening = false
  }

  #openGate(port: PortState, now: number, most = Number.POSITIVE_INFINITY): number {
    const { observer } = this.#network
    port.closed = false
    port.closedForOther = false
    port.armed = null
    observer?.mark(Event['gate-opened'], port, port.epoch, now)
    const released = this.#siftHeld(port, now, most)
    // What comes now must not overtake what still waits.
    port.opening = released >= most && port.hold.some((copy) => copy.color <= port.epoch)
    port.closed = port.opening
    if (port.closed) observer?.mark(Event['gate-closed'], port, port.epoch, now)
    return released
  }

  #siftHeld(port: PortState, now: number, most = Number.POSITIVE_INFINITY): number {
    if (port.hold.length === 0 || port.closed) return 0
    // Frames still early stay, in order; the others are judged as if they came now.
    return port.hold.sift((copy) => {
      if (copy.color > port.epoch) return true
      this.#actions.deliver(port, this.#frame.pointAt(copy), now)
      return false
    }, most)
  }

  *#members(ports: readonly number[]): Iterable<PortState> {
    for (const index of ports) {
      const port = this.#network.byIndex[index]
      if (port?.isMember) yield port
    }
  }
}

function boundsFor(queueLength: number): HoldBounds {
  return { ...ARMED_BOUNDS, frames: Math.min(MOST_ARMED, Math.max(ARMED_BOUNDS.frames, 2 * queueLength)) }
}
