// An ordinary LAN that joins the hosts' uplinks, with a station of the outside world on it: a switch that learns where
// addresses are and floods what it does not know. To each receiver there is a way of its own.

import { EtherType, isGroup, macHigh, macLow } from '../../src/frame/ethernet.js'
import { copyFrame, type Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { macNumber } from '../../switch/forwarding/peers/addresses.js'
import { carriedId, frameId, kindOf } from './frames.js'
import { LAN_STATION } from './scenario.js'
import { UPLINK_PORT } from './trunk.js'
import { Way } from './way.js'
import type { World } from './world.js'

export class SharedLan {
  readonly #world: World
  /** By sender and receiver. */
  readonly #ways: Way[][]
  readonly #learned = new Map<number, number>()

  constructor(world: World) {
    this.#world = world
    const stations = [...world.hosts.map(({ index }) => index), LAN_STATION]
    this.#ways = stations.map((from) =>
      stations
        .filter((to) => to !== from)
        .map(
          (to) =>
            new Way(world, 0, from, to, (copy) => (to === LAN_STATION ? this.#overhear(copy) : this.#give(to, copy))),
        ),
    )
  }

  get inFlight(): number {
    let sum = 0
    for (const ways of this.#ways) for (const way of ways) sum += way.inFlight
    return sum
  }

  /** From a host, or from the station. */
  transmit(from: number, frame: Frame): void {
    const copy = copyFrame(frame)
    const { bytes } = copy
    const source = VNET_HEADER_LENGTH + 6
    this.#learned.set(macNumber(macHigh(bytes, source), macLow(bytes, source)), from)
    const to = isGroup(bytes, VNET_HEADER_LENGTH) ? undefined : this.#whereIs(bytes)
    const kind = kindOf(bytes)
    this.#mark(kind, bytes)
    const id = kind === 'frame' ? frameId(bytes, VNET_HEADER_LENGTH) : kind === 'carrier' ? carriedId(bytes) : -1
    const ways = this.#ways[Math.min(from, this.#ways.length - 1)]
    for (const way of ways) if (to === undefined || way.to === to) way.transmit(copy, id, kind === 'control')
  }

  #whereIs(bytes: Uint8Array): number | undefined {
    return this.#learned.get(macNumber(macHigh(bytes, VNET_HEADER_LENGTH), macLow(bytes, VNET_HEADER_LENGTH)))
  }

  #mark(kind: ReturnType<typeof kindOf>, bytes: Uint8Array): void {
    const { marks } = this.#world
    if (kind === 'carrier') marks.add(carriedId(bytes) < 0 ? 'carried in pieces' : 'carried')
    if (kind !== 'frame') return
    const id = frameId(bytes, VNET_HEADER_LENGTH)
    if (id >= 0 && !this.#world.isAsSent(id, bytes, VNET_HEADER_LENGTH, bytes.length)) marks.add('by the bit')
  }

  /** Each receiver has memory of its own. */
  #give(host: number, copy: FrameCopy): void {
    this.#world.hosts[host].arrive(UPLINK_PORT, { ...copy, bytes: copy.bytes.slice() })
  }

  /**
   * What the station is given: frames of members and stations as they were sent, and nothing else but what is for all
   * switches.
   */
  #overhear(copy: FrameCopy): void {
    const world = this.#world
    const { bytes, tagTpid } = copy
    const kind = kindOf(bytes)
    if (kind !== 'frame') {
      if (kind === 'carrier' || !isGroup(bytes, VNET_HEADER_LENGTH))
        world.violation(6, `a host that is no part of the network was given a ${kind} frame for a switch`)
      return
    }
    const id = frameId(bytes, VNET_HEADER_LENGTH)
    if (tagTpid === EtherType.SERVICE_VLAN)
      world.violation(6, `${id < 0 ? 'a frame' : `#${id}`} reached the outside world under a service tag`)
    if (id < 0) return
    if (!world.isAsSent(id, bytes, VNET_HEADER_LENGTH, bytes.length))
      world.violation(6, `#${id} reached the outside world with a color`)
    world.heardOutside(LAN_STATION, id)
    world.marks.add('heard outside on the LAN')
  }
}
