// What an audit knows of one port while it walks through a host's recording (host-run.ts).

export class PortRun {
  epoch = -1
  closed = false
  /** Number of the event of its cut; -1: none. */
  flip = -1
  /** Number of the first frame that was sent after the cut; -1: none. */
  firstSent = -1
  /** Numbers of `held` events whose frames are still held, oldest first. */
  readonly held: number[] = []
  /** Numbers of deliveries before the cut. */
  readonly before: number[] = []
  readonly residue: number[] = []
  /** Deliveries, after the cut, of what was sent before its sender's. */
  readonly inTransit: number[] = []
  /** Of those: put into the channel state; too late for it. */
  recorded = 0
  stragglers = 0
  /** In-transit frames that found no room in the channel state. */
  overflow = 0
  /** By port of arrival, by source address: the last frame delivered, as the number of its arrival. */
  readonly lastOf = new Map<number, Map<number, number>>()
}
