// One direction of a path between two switches: delay, jitter, loss, doubling, reordering, breaks. In order unless the
// scenario says otherwise.

import type { FrameCopy } from '../../src/frame/frame.js'
import { isOfNetwork, type TrunkWeather, waysOf } from './networks.js'
import type { Fault } from './scenario.js'
import type { World } from './world.js'

const LOSS = 21
const COPY = 22
const DELAY_MS = 23
const OTHER_KEY = 0x4000_0000
const DOUBLED_KEY = 0x2000_0000

export class Way {
  readonly from: number
  readonly to: number
  /** Frames under way. */
  inFlight = 0
  readonly #world: World
  readonly #arrive: (copy: FrameCopy) => void
  readonly #key: number
  readonly #trunk: TrunkWeather
  readonly #faults: readonly Fault[]
  readonly #controlDelay: number
  #lastArrival = 0
  #others = 0

  constructor(world: World, network: number, from: number, to: number, arrive: (copy: FrameCopy) => void) {
    this.#world = world
    this.from = from
    this.to = to
    this.#arrive = arrive
    this.#key = network * 256 + from * 16 + to
    this.#trunk = waysOf(world.scenario, network).trunk
    this.#faults = world.scenario.faults.filter((fault) => isOfNetwork(fault, network))
    this.#controlDelay = this.#faults.reduce(
      (ms, fault) => (fault.kind === 'delay control' && fault.a === from && fault.b === to ? ms + fault.by : ms),
      0,
    )
  }

  /** `id`: of the frame, or -1. The bytes are kept as they are until they have arrived. */
  transmit(copy: FrameCopy, id: number, control: boolean): void {
    const world = this.#world
    // A frame may pass more than once: a counter beside the id would not shrink well, the time does.
    const which = id >= 0 ? id : OTHER_KEY + this.#others++
    if (this.#isBroken(control)) return
    const trunk = this.#trunk
    if (trunk.loss > 0 && world.chance(LOSS, this.#key, which) < trunk.loss) {
      if (id >= 0) world.note(`h${this.from}`, `#${id} lost on the way to h${this.to}`)
      return
    }
    this.#send(copy, which, control)
    if (trunk.duplicate > 0 && !control && world.chance(COPY, this.#key, which) < trunk.duplicate) {
      world.doubled++
      this.#send(copy, which + DOUBLED_KEY, control)
    }
  }

  #send(copy: FrameCopy, which: number, control: boolean): void {
    const world = this.#world
    const { delay, jitter, reorder } = this.#trunk
    let arrival = world.time.now + delay + jitter * world.chance(DELAY_MS, this.#key, which)
    const late = control && this.#controlDelay > 0
    if (late) arrival += this.#controlDelay
    if (!reorder) {
      arrival = Math.max(arrival, this.#lastArrival)
      // Frames pass what is late; it passes none.
      if (!late) this.#lastArrival = arrival
    }
    this.inFlight++
    world.time.at(arrival, () => {
      this.inFlight--
      this.#arrive(copy)
    })
  }

  #isBroken(control: boolean): boolean {
    const { now } = this.#world.time
    for (const fault of this.#faults) {
      if (fault.kind !== 'break trunk' && fault.kind !== 'lose control') continue
      if (now < fault.at || now >= fault.at + fault.for) continue
      const along = fault.a === this.from && fault.b === this.to
      if (fault.kind === 'lose control') {
        if (along && control) return true
      } else if (along || (fault.b === this.from && fault.a === this.to)) return true
    }
    return false
  }
}
