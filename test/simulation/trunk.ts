// A trunk in one direction: frames travel it with their tags.

import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { frameId, kindOf } from './frames.js'
import { Way } from './way.js'
import type { World } from './world.js'

/**
 * Port indexes: NICs first, then of each network: trunks by peer, the uplink and the plain port; the latter two in the
 * first only.
 */
export const TRUNK_PORTS = 24
export const UPLINK_PORT = 29
export const PLAIN_PORT = 30
const PORTS_PER_NETWORK = 8

export const trunkPort = (network: number, peer: number): number => TRUNK_PORTS + PORTS_PER_NETWORK * network + peer

export const portCount = (networks: number): number => TRUNK_PORTS + PORTS_PER_NETWORK * networks

export class Trunk {
  readonly way: Way

  constructor(world: World, network: number, from: number, to: number) {
    const arrive = (copy: FrameCopy) => world.hosts[to].arrive(trunkPort(network, from), copy)
    this.way = new Way(world, network, from, to, arrive)
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
