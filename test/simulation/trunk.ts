// One direction of a trunk: delay, jitter, loss, doubling, reordering, breaks. In order unless the scenario says otherwise.

import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { frameId } from './guest.js'
import type { World } from './world.js'

const LOSS = 21
const COPY = 22
const DELAY = 23
const CONTROL_KEY = 0x4000_0000

export class Trunk {
  readonly from: number
  readonly to: number
  /** Frames under way. */
  inFlight = 0
  private readonly world: World
  private readonly key: number
  private readonly controlDelay: number
  private lastArrival = 0
  private controls = 0

  constructor(world: World, from: number, to: number) {
    this.world = world
    this.from = from
    this.to = to
    this.key = from * 16 + to
    this.controlDelay = world.scenario.faults.reduce(
      (ms, fault) => (fault.kind === 'delay control' && fault.a === from && fault.b === to ? ms + fault.by : ms),
      0,
    )
  }

  /** The bytes are taken as they are: nobody writes to them. `serviceTci` < 0: no tag of ours. */
  transmit(bytes: Uint8Array, serviceTci: number): void {
    const { world } = this
    const control = serviceTci < 0 && isControl(bytes)
    const id = control ? -1 : frameId(bytes, VNET_HEADER_LENGTH)
    // A frame may pass a trunk more than once: a counter beside the id would not shrink well, the time does.
    const which = control ? CONTROL_KEY + this.controls++ : id >= 0 ? id : CONTROL_KEY - 1
    if (this.isBroken(control)) return
    const { trunk } = world.scenario
    if (trunk.loss > 0 && world.chance(LOSS, this.key, which) < trunk.loss) {
      if (id >= 0) world.note(world.hosts[this.from].name, `#${id} lost on the way to h${this.to}`)
      return
    }
    const tagged = serviceTci >= 0
    const copy: FrameCopy = {
      bytes,
      tagTpid: tagged ? EtherType.SERVICE_VLAN : 0,
      tagTci: tagged ? serviceTci : 0,
      color: NO_COLOR,
    }
    this.send(copy, which, control)
    if (trunk.duplicate > 0 && !control && world.chance(COPY, this.key, which) < trunk.duplicate) {
      world.doubled++
      this.send(copy, which + 0x2000_0000, control)
    }
  }

  private send(copy: FrameCopy, which: number, control: boolean): void {
    const { world } = this
    const { delay, jitter, reorder } = world.scenario.trunk
    let arrival = world.time.now + delay + jitter * world.chance(DELAY, this.key, which)
    if (control && this.controlDelay > 0) arrival += this.controlDelay
    else if (!reorder) {
      arrival = Math.max(arrival, this.lastArrival)
      this.lastArrival = arrival
    }
    this.inFlight++
    world.time.at(arrival, () => {
      this.inFlight--
      world.hosts[this.to].daemon?.arrive(TRUNK_PORTS + this.from, copy)
    })
  }

  private isBroken(control: boolean): boolean {
    const { now } = this.world.time
    for (const fault of this.world.scenario.faults) {
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

/** Port indexes: NICs first, then trunks by peer, then the plain port. */
export const TRUNK_PORTS = 24
export const PLAIN_PORT = 30
export const PORTS = 32

function isControl(bytes: Uint8Array): boolean {
  const at = VNET_HEADER_LENGTH + 12
  return ((bytes[at] << 8) | bytes[at + 1]) === EtherType.CONTROL
}
