// A remote member's frame to the world, as it is seen on the LAN (a plain copy): the outside behind our own plain ports
// is part of the world.

import { isGroup, isLinkLocal, macHigh, macLow, vlanId } from '../../../src/frame/ethernet.js'
import type { Frame } from '../../../src/frame/frame.js'
import type { Egress } from '../egress.js'
import { NO_PORT } from '../fdb.js'
import type { Network } from '../network.js'
import { admitTo, bringTagBeside, NOT_ADMITTED } from '../port-rules.js'
import { Barrier, floodBarrier, type PortState, Side } from '../port-state.js'

// Methods are `private`, not #private: with these V8 allocates per frame here (test/forwarding/allocation.test.ts).
export class PlainCopies {
  readonly #network: Network
  readonly #egress: Egress
  /** The LAN as the outside world. */
  readonly #port: PortState

  constructor(network: Network, egress: Egress, port: PortState) {
    this.#network = network
    this.#egress = egress
    this.#port = port
  }

  pass(frame: Frame, now: number): void {
    const { observer } = this.#network
    if (observer === null) {
      this.passToOutside(frame, now)
      return
    }
    observer.came(this.#port, frame, now)
    this.passToOutside(frame, now)
    observer.gone()
  }

  private passToOutside(frame: Frame, now: number): void {
    const { fdb, ports, byIndex } = this.#network
    if (this.#network.hasVlans) bringTagBeside(frame)
    const vlans = this.#port.rules?.vlans ?? null
    const vlan = vlans === null ? vlanId(frame) : admitTo(vlans, frame)
    if (vlan === NOT_ADMITTED) {
      this.#egress.refuse(this.#port, frame, 'vlan', true)
      return
    }
    const { bytes, start } = frame
    const isolated = this.#port.blocked & Barrier.ISOLATED
    if (!isGroup(bytes, start)) {
      const to = fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlan, Math.floor(now / 1000))
      if (to !== NO_PORT) {
        const port = byIndex[to]!
        const isOutside = port.side === Side.PLAIN || now < port.outsiderUntil || port.leaving
        if (isOutside && (isolated & port.mask) === 0) this.#egress.deliver(port, frame, now)
        return
      }
    } else if (isLinkLocal(bytes, start) && this.#network.linkLocalRefusal(bytes, start) !== null) {
      return
    }
    const blocked = isolated | floodBarrier(frame, false)
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      if (port.side === Side.PLAIN && (blocked & port.mask) === 0) this.#egress.deliver(port, frame, now)
    }
  }
}
