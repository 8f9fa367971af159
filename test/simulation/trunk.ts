// A trunk in one direction: frames travel it with their tags.

import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { frameId, kindOf } from './frames.js'
import { Way } from './way.js'
import type { World } from './world.js'

/** Port indexes: NICs first, then trunks by peer, then the uplink and the plain port. */
export const TRUNK_PORTS = 24
export const UPLINK_PORT = 29
export const PLAIN_PORT = 30
export const PORTS = 32

export class Trunk {
  readonly way: Way

  constructor(world: World, from: number, to: number) {
    this.way = new Way(world, from, to, (copy) => world.hosts[to].daemon?.arrive(TRUNK_PORTS + from, copy))
  }

  /** The bytes are taken as they are: nobody writes to them. `serviceTci` < 0: no tag of ours. */
  transmit(bytes: Uint8Array, serviceTci: number): void {
    const tagged = serviceTci >= 0
    const control = !tagged && kindOf(bytes) === 'control'
    const copy: FrameCopy = {
      bytes,
      tagTpid: tagged ? EtherType.SERVICE_VLAN : 0,
      tagTci: tagged ? serviceTci : 0,
      color: NO_COLOR,
    }
    this.way.transmit(copy, control ? -1 : frameId(bytes, VNET_HEADER_LENGTH), control)
  }
}
