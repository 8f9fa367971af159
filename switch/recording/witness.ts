// What comes out of a forwarder, as it is digested while a run is recorded and again while it is replayed: every frame
// that leaves and whether its port took it, every event and answer; and, at each mark, what was dropped and held, where
// addresses are, epochs, fences and gates.

import type { Frame } from '../../src/frame/frame.js'
import { Counter, Drop, type DropReason, dropReasons } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import { avalanche, RunDigest } from './digest.js'

/** Counted by ports and the kernel, who are not part of a replay. */
const BY_PORTS: readonly DropReason[] = [
  'tx-full',
  'tx-error',
  'too-long',
  'truncated',
  'device-down',
  'device-dropped',
  'gso-unsupported',
]
/** Recordings from before there were mirrors have no such count. What a mirror turns away is in rxFrames. */
const LATER: readonly DropReason[] = ['mirror']
/** Slots of a port's row that the forwarder alone counts in. */
export const COUNTED: readonly number[] = [
  ...(['rxFrames', 'rxBytes', 'rxGso', 'held', 'recorded', 'early', 'stragglers', 'unlearned'] as const).map(
    (field) => Counter[field],
  ),
  ...dropReasons
    .filter((reason) => !BY_PORTS.includes(reason) && !LATER.includes(reason))
    .map((reason) => Drop[reason]),
]

export class Witness {
  readonly digest = new RunDigest()
  readonly #forwarder: () => Forwarder
  /** Frames that the present input has sent so far. */
  sent = 0
  #fdb = 0

  constructor(forwarder: () => Forwarder) {
    this.#forwarder = forwarder
  }

  /** An input comes: it is its number that frames sent are counted from. */
  begin(): void {
    this.sent = 0
  }

  /** A frame is about to leave. Returns which one it is of those that the input has sent. */
  sending(port: number, frame: Frame, serviceTci: number): number {
    const { digest } = this
    digest.word(port)
    digest.word(serviceTci)
    digest.frame(frame)
    return this.sent++
  }

  /** The frame that was about to leave did not. */
  refused(): void {
    this.digest.word(REFUSED)
  }

  /** An event, or what an input has answered. */
  said(what: unknown): void {
    this.digest.plain(what)
  }

  /** All that is not said when it happens. */
  mark(): void {
    const { digest } = this
    const { network, ports, counters, byIndex } = this.#forwarder()
    digest.word(network.epoch)
    digest.word(network.fence)
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      digest.word(port.index)
      digest.word(port.epoch)
      digest.word(port.fence)
      digest.word((port.closed ? 1 : 0) | (port.opening ? 2 : 0) | (port.closedForOther ? 4 : 0))
      digest.word(port.hold.length)
      if (byIndex[port.spec.index] !== port) continue
      for (let at = 0; at < COUNTED.length; at++) digest.number(counters[port.row + COUNTED[at]])
    }
    digest.word(network.fdb.size)
    digest.word(network.fdb.refused)
    this.#fdb = 0
    network.fdb.visitAll(this.#addEntry)
    digest.word(this.#fdb)
  }

  /** Summed up: two tables with the same entries are alike, wherever these lie. */
  readonly #addEntry = (high: number, low: number, port: number, seen: number): void => {
    this.#fdb = (this.#fdb + avalanche(Math.imul(high, 31) ^ avalanche(low ^ avalanche((port << 20) ^ seen)))) | 0
  }
}

const REFUSED = 0x7ef05ed
