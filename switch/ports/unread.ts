// How many frames lie unread in a TAP's queue: sent by us, neither taken by the guest nor dropped. The device counts
// what its reader takes as tx_packets (drivers/net/tun.c), so the difference is the queue. Needed to settle before a
// pause and to know the residue after it.
//
// The difference drifts when others send to the guest as well, or when the guest takes a GSO frame in segments (each
// counts); then it goes below zero, and is set right. `heal` is for doing that now and then, before the drift outgrows
// a queue.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { Link } from '../../src/linux/link-message.js'
import { TransmitCounters } from '../../src/linux/transmit-counters.js'
import { Counter, type CounterTable, Drop, MAX_PORTS, ROW } from '../forwarding/counters.js'
import { NO_DEVICE } from './devices.js'

/** More than the datapath sends between two looks at its counters. */
const BATCH = 1024

/** `healBusy` has looked at every port after so many calls. */
const TURNS = 10

const deviceWent = () =>
  new SnapswitchError(
    'DEVICE_MISSING',
    'a port’s device went away meanwhile',
    'See `snapswitch port list`: create it again, or take the port out of the network.',
  )

interface HealedPort {
  readonly index: number
  readonly ifindex: number
  readonly kind: string
}

export class UnreadFrames {
  readonly #counters: CounterTable
  readonly #reader = new TransmitCounters()
  /** Per port: its device. */
  readonly #devices = new Map<number, number>()
  /** Per port: the device's count when our own stood at zero. */
  readonly #base = new Map<number, number>()
  /** Per port: what the device had dropped when the port came. */
  readonly #dropped = new Map<number, number>()
  /** Per port: the device's count at the last `heal`. */
  readonly #seen = new Map<number, number>()

  /** Per port: what it had sent at the last `healBusy`, and how many more of these look at it. */
  readonly #sent = new Float64Array(MAX_PORTS)
  readonly #busy = new Uint8Array(MAX_PORTS)
  #turn = 0

  constructor(counters: CounterTable) {
    this.#counters = counters
  }

  /** Call when a port is taken on, before anything is sent to it. */
  start(port: number, link: Pick<Link, 'index' | 'name' | 'mac'>): void {
    this.#reader.watch(link)
    this.#devices.set(port, link.index)
    const { txPackets, txDropped } = this.#reader.read(link.index)
    this.#base.set(port, txPackets + txDropped)
    this.#dropped.set(port, txDropped)
    this.#seen.delete(port)
  }

  /**
   * Call when the guest has left its device: what lay unread was thrown away, and is in no counter. A datapath in the
   * middle of a batch has sent more than it has counted, so the base is set too low; `heal` brings it up.
   */
  emptied(port: number, ifindex: number): void {
    const { txPackets, txDropped } = this.#reader.read(ifindex)
    this.#base.set(port, txPackets + txDropped - this.#counters[port * ROW + Counter.txFrames] - BATCH)
    this.#seen.delete(port)
  }

  forget(port: number): void {
    this.#reader.forget(this.#devices.get(port) ?? 0)
    this.#devices.delete(port)
    this.#base.delete(port)
    this.#dropped.delete(port)
    this.#seen.delete(port)
  }

  /**
   * Call now and then, while traffic flows. The device may count a frame before the datapath has counted it as sent, so
   * a surplus is believed only when our own count has still not come up to it by the next call. What the device dropped
   * is published on the way.
   */
  heal(ports: Iterable<HealedPort>): void {
    for (const port of ports) this.#heal(port)
  }

  /**
   * The same for those ports only that frames have left by lately, and some of the others in turn: it takes two system
   * calls each.
   */
  healBusy(ports: readonly HealedPort[]): void {
    this.#turn = (this.#turn + 1) % TURNS
    for (const port of ports) {
      const sent = this.#counters[port.index * ROW + Counter.txFrames]
      const isBusy = sent !== this.#sent[port.index]
      this.#sent[port.index] = sent
      // Once more when it is over: the device counts a frame when its reader takes it.
      if (isBusy) this.#busy[port.index] = TURNS
      else if (this.#busy[port.index] > 0) this.#busy[port.index]--
      if (this.#busy[port.index] > 0 || port.index % TURNS === this.#turn) this.#heal(port)
    }
  }

  #heal({ index, ifindex, kind }: HealedPort): void {
    const base = this.#base.get(index) ?? 0
    const seen = this.#seen.get(index)
    const surplus = seen === undefined ? 0 : seen - base - this.#counters[index * ROW + Counter.txFrames]
    if (surplus > 0 && kind === 'member') this.#base.set(index, base + surplus)
    try {
      const { txPackets, txDropped } = this.#reader.read(ifindex)
      this.#seen.set(index, txPackets + txDropped)
      this.#counters[index * ROW + Drop['device-dropped']] = txDropped - (this.#dropped.get(index) ?? txDropped)
    } catch {
      // The device is going away; whoever needs the count will be told.
      this.#seen.delete(index)
    }
  }

  /** Frames that the guest has not taken yet. Throws DEVICE_MISSING. */
  of(port: number, ifindex: number): number {
    if (ifindex === NO_DEVICE) throw deviceWent()
    const { txPackets, txDropped } = this.#reader.read(ifindex)
    const sent = this.#counters[port * ROW + Counter.txFrames]
    const base = this.#base.get(port) ?? 0
    const unread = sent - (txPackets + txDropped - base)
    if (unread >= 0) return unread
    // Somebody else has sent to the guest too; those frames are not ours to count.
    this.#base.set(port, base - unread)
    return 0
  }
}
