// Ports that get copies of other ports' frames: as they came in, before the switch has done anything with them, or as
// they left. Copies go to the mirror's device as it is: they are not judged, counted in a channel, recorded or held,
// and a snapshot knows nothing of them.

import { Frame } from '../../src/frame/frame.js'
import type { FrameObserver } from './observer.js'
import type { PortState } from './port-state.js'

const NO_TAG = -1

export class Mirrors implements FrameObserver {
  /** By index of the port: where copies of what comes in there go, and of what leaves. */
  readonly #in: PortState[][] = []
  readonly #out: PortState[][] = []
  readonly #copy = new Frame()

  constructor(ports: readonly PortState[]) {
    for (const mirror of ports) {
      const { of = [], direction = 'both' } = mirror.spec.rules?.mirror ?? {}
      for (const port of ports) {
        if (!of.includes(port.spec.name) || port.spec.rules?.mirror !== undefined) continue
        if (direction !== 'out') placesOf(this.#in, port).push(mirror)
        if (direction !== 'in') placesOf(this.#out, port).push(mirror)
      }
    }
  }

  came(port: PortState, frame: Frame): void {
    const to = this.#in[port.index]
    if (to !== undefined) this.#send(to, frame)
  }

  left(port: PortState, frame: Frame): void {
    const to = this.#out[port.index]
    if (to !== undefined) this.#send(to, frame)
  }

  at(): void {}
  lies(): void {}
  gone(): void {}
  refused(): void {}
  unread(): void {}
  dropped(): void {}
  leftOut(): void {}
  note(): void {}
  mark(): void {}

  /** The frame may yet be changed where it lies, its tag moved, a bit set: without an address it is copied at once. */
  #send(to: readonly PortState[], frame: Frame): void {
    const copy = this.#copy
    copy.bytes = frame.bytes
    copy.address = 0
    copy.vnet = frame.vnet
    copy.start = frame.start
    copy.length = frame.length
    copy.tagTpid = frame.tagTpid
    copy.tagTci = frame.tagTci
    copy.color = frame.color
    for (let i = 0; i < to.length; i++) to[i].output.send(copy, NO_TAG)
  }
}

function placesOf(table: PortState[][], port: PortState): PortState[] {
  table[port.index] ??= []
  return table[port.index]
}
