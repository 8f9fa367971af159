// What a run keeps, raw: everything that the figures are computed from.

import type { Cell } from './plan.js'

/** Microseconds of CLOCK_REALTIME. */
export interface MemberStamps {
  readonly vm: string
  readonly host: string
  readonly gatedAtUs: number
  readonly settledAtUs: number
  readonly pausedAtUs: number
  readonly cutAtUs: number
  readonly disksAtUs: number
  readonly savingAtUs: number
  readonly resumedAtUs: number
  readonly releasedAtUs: number
  readonly sealedAtUs: number
  readonly held: number
  readonly early: number
  readonly recorded: number
  readonly residue: number
  readonly lost: number
  readonly memoryImageBytes: number
}

/** Sums over all guests of a cell, since their boot. */
export interface Counted {
  readonly udpSent: number
  readonly udpReceived: number
  readonly udpLost: number
  readonly udpDoubled: number
  readonly udpReordered: number
  readonly udpCorrupt: number
  readonly ringHops: number
  readonly ringRetransmits: number
  /** Of all TCP in the guests (/proc/net/snmp, /proc/net/netstat): RetransSegs, TCPTimeouts, TCPLossProbes. */
  readonly tcpRetransmits: number
  readonly tcpTimeouts: number
  readonly tcpLossProbes: number
  /** Ring connections that broke; tokens doubled, skipped or damaged; disks that did not hold what memory said. */
  readonly faults: number
}

export type CountedKey = keyof Counted

export interface Round {
  readonly round: number
  /** Of CreateRequest to answer, and of the removal after it; CLOCK_REALTIME. */
  readonly askedAtUs: number
  readonly answeredAtUs: number
  readonly removedAtUs: number
  readonly globalMs: number
  readonly members: readonly MemberStamps[]
  readonly closures: readonly { readonly expected: number; readonly lost: number; readonly byCount: boolean }[]
  /** How the guests' counters grew from just before to just after. */
  readonly counted: Counted
  readonly error: string | null
}

/** A stretch of time in which a bulk flow stood still; microseconds. */
export type Gap = readonly [startUs: number, lengthUs: number]
export type Retransmission = readonly [atUs: number, count: number]

export interface Bulk {
  readonly bitsPerSecond: number
  /** Of at least 2 ms. */
  readonly gaps: readonly Gap[]
  /** As the sender's TCP_INFO or a capture at its TAP shows them. */
  readonly retransmitted: readonly Retransmission[]
  readonly retransmits: number
  /**
   * RTOs and tail loss probes (RFC 8985) of the sender's kernel. A probe counts as a retransmission, though nothing was
   * lost.
   */
  readonly timeouts: number
  readonly lossProbes: number
  /** Of the UDP stream beside it; null where there was none. */
  readonly udp: {
    readonly received: number
    readonly lost: number
    readonly doubled: number
    readonly reordered: number
  } | null
}

export interface Row {
  readonly cell: Cell
  readonly bootSeconds: number
  /** The same traffic for a few seconds without a snapshot. */
  readonly control: { readonly seconds: number; readonly counted: Counted } | null
  readonly rounds: readonly Round[]
  readonly bulk: Bulk | null
  readonly error: string | null
}
