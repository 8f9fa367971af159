// What a forwarder tells of its decisions to whoever can repeat them without it (datapath/kernel/). Without one, which
// is how tests, the simulation and replay run, nothing differs but the frames that it sees.

import type { Frame } from '../../src/frame/frame.js'
import type { PortState } from './port-state.js'

export interface FastPath {
  /**
   * A unicast frame has been delivered, by nothing but its addresses, its VLAN and its color: the next one like it
   * would be, too, until `outdated` or `slow`. `came`: the tag that lay beside it when it came, TPID and TCI; 0: none.
   */
  reached(from: PortState, to: PortState, frame: Frame, vlan: number, came: number): void
  /** An address has left a port: what was noted of the port's addresses is void. */
  outdated(port: number): void
  /**
   * What was counted elsewhere of a trunk's frames is in the counts of its channel when this returns. False: so may be
   * frames that came behind the one in hand.
   */
  count(port: number): boolean
  /**
   * A trunk's peer is about to be told how many frames it was sent: none is in the count when this returns that is not
   * through. Unless the trunk is rushed, these are all, and none follows them elsewhere before what is sent by the
   * port's output has left.
   */
  pause(port: number): void
  /** A HELLO by a trunk is better sent later: its frames have become more, which both ends are to see first. */
  postpones(port: number): boolean
  /** From when this returns, every frame comes to the forwarder, and all that it has not seen is counted. */
  slow(): void
}
