// Where every frame meets a port that it is for: it is judged by its color, and delivered, held or dropped. What
// switches say to one another (peers/) is not judged and leaves by the port's output.

import { judge, Verdict } from '../../src/epoch/delivery.js'
import { colorVid, UNCOLORED_VID } from '../../src/frame/color-tag.js'
import { EtherType, innerEtherType, vlanId } from '../../src/frame/ethernet.js'
import { type Frame, NO_COLOR } from '../../src/frame/frame.js'
import { segmentsOf } from '../../src/frame/segments.js'
import { Event } from '../../src/trace/events.js'
import { Counter, type CounterTable, Drop, type DropReason } from './counters.js'
import type { Network } from './network.js'
import { Membership } from './port-rules.js'
import type { PortState } from './port-state.js'

/** What snapshots have to do with the frames that meet their destinations. */
export interface Crossings {
  /** Early frames are dropped, not held. */
  readonly dropsEarly: boolean
  /** A frame from after its sender's cut has come before its receiver's. */
  early(port: PortState, color: number): void
  /** A frame from before its sender's cut is being delivered after its receiver's. */
  inTransit(port: PortState, frame: Frame, now: number): void
  /** A frame waits for its receiver. */
  held(port: PortState, frame: Frame, now: number): void
}

/** No service tag to push. */
const NO_TAG = -1

export class Egress {
  readonly #counters: CounterTable
  readonly #network: Network
  readonly #crossings: Crossings

  constructor(network: Network, crossings: Crossings) {
    this.#counters = network.counters
    this.#network = network
    this.#crossings = crossings
  }

  /**
   * A frame is for this port. Its VLAN's rule is asked here, once: what comes of it is held, recorded in channel states
   * and replayed after a restore as it was to leave. A bridge's rules, too, are behind a frame that waits in a device.
   * Where there are VLANs, an outermost 802.1Q tag lies beside the frame.
   */
  deliver(port: PortState, frame: Frame, now: number): void {
    const { rules } = port
    if (rules === null || rules.vlans === null) this.judge(port, frame, now)
    else this.#deliverInVlan(port, rules.vlans.members[vlanId(frame)], frame, now)
  }

  #deliverInVlan(port: PortState, membership: number, frame: Frame, now: number): void {
    if (membership === Membership.TAGGED) this.judge(port, frame, now)
    else if (membership === Membership.UNTAGGED) {
      const { tagTpid, tagTci } = frame
      frame.tagTpid = 0
      frame.tagTci = 0
      this.judge(port, frame, now)
      frame.tagTpid = tagTpid
      frame.tagTci = tagTci
    } else this.leftOut(port, frame, 'vlan')
  }

  /** Judges a frame at its destination by its color and delivers, holds or drops it. */
  judge(port: PortState, frame: Frame, now: number): void {
    if (!port.isMember) {
      this.#emit(port, frame, port.channel !== null ? trunkTag(frame, port.channel.sends) : NO_TAG)
      return
    }
    const counters = this.#counters
    const crossings = this.#crossings
    switch (judge(frame.color, port.epoch, port.closed, port.fence)) {
      case Verdict.DELIVER:
        this.#emit(port, frame, NO_TAG)
        return
      case Verdict.DELIVER_AND_RECORD:
        crossings.inTransit(port, frame, now)
        this.#emit(port, frame, NO_TAG)
        return
      case Verdict.HOLD_EARLY:
        crossings.early(port, frame.color)
        if (crossings.dropsEarly) {
          this.drop(port, frame, 'early-dropped')
          return
        }
        counters[port.row + Counter.early]++
        this.#hold(port, frame, now)
        return
      case Verdict.HOLD:
        if (frame.color > port.epoch) {
          crossings.early(port, frame.color)
          counters[port.row + Counter.early]++
        }
        this.#hold(port, frame, now)
        return
      case Verdict.DROP_FENCED:
        this.drop(port, frame, 'fenced')
    }
  }

  /** Counts a frame that does not leave by this port, which it was for. */
  drop(port: PortState, frame: Frame, reason: DropReason): void {
    this.#counters[port.row + Drop[reason]]++
    this.#network.observer?.dropped(port, frame, reason)
  }

  /** The same by the port's rules, which say it of several frames where one stands for them (GSO). */
  forbid(port: PortState, frame: Frame, reason: DropReason): void {
    this.#counters[port.row + Drop[reason]] += segmentsOf(frame)
    this.#network.observer?.dropped(port, frame, reason)
  }

  /** Counts a frame that goes no further than the port that it came in by; by the port's rules, as `forbid` does. */
  refuse(port: PortState, frame: Frame, reason: DropReason, byRules: boolean): void {
    this.#counters[port.row + Drop[reason]] += byRules ? segmentsOf(frame) : 1
    this.#network.observer?.refused(port, frame, reason)
  }

  /** The same of a frame that has no color yet. */
  misread(port: PortState, frame: Frame, reason: DropReason, now: number): null {
    this.#counters[port.row + Drop[reason]]++
    this.#network.observer?.unread(port, frame, reason, now)
    return null
  }

  /** A port that a flood does not reach: an audit is to know why, and nobody else. */
  leftOut(port: PortState, frame: Frame, reason: DropReason): void {
    this.#network.observer?.leftOut(port, frame, reason)
  }

  #hold(port: PortState, frame: Frame, now: number): void {
    if (port.hold.push(frame)) {
      this.#counters[port.row + Counter.held]++
      this.#crossings.held(port, frame, now)
      this.#network.observer?.note(Event.held, port, frame)
    } else this.drop(port, frame, 'hold-overflow')
  }

  #emit(port: PortState, frame: Frame, serviceTci: number): void {
    const { observer } = this.#network
    if (!port.output.send(frame, serviceTci)) {
      observer?.dropped(port, frame, port.output.refusal ?? 'tx-error')
      return
    }
    if (observer !== null) observer.left(port, frame)
    // Whatever the verdict was: what may lie unread at the cut are the last frames that went out.
    if (port.armed !== null) port.armed.push(frame)
    if (port.channel !== null && frame.color !== NO_COLOR) port.channel.sent.add(frame.color, segmentsOf(frame))
  }
}

/** The service tag that `frame` travels under on a trunk; NO_TAG when it needs none. */
function trunkTag(frame: Frame, generation: number): number {
  if (frame.color !== NO_COLOR) return colorVid(frame.color, generation)
  const outer = frame.tagTpid !== 0 ? frame.tagTpid : innerEtherType(frame)
  // From outside the network, yet it looks like ours: the escape makes it payload.
  return outer === EtherType.SERVICE_VLAN || outer === EtherType.CONTROL ? UNCOLORED_VID : NO_TAG
}
