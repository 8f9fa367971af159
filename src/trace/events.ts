// What happened to members' frames around a cut, at one host: a trace of events in the order in which its switch took
// them, for `snapshot audit`. pcapng that Wireshark opens as it is: an interface per port, a packet per event with the
// frame's first bytes, its digest as packet id, and what happened in the comment. The frames' contents are not kept.
// Here is what such a trace says; event-writer.ts writes one, event-reader.ts reads it.
//
// After some thousand events a record holds the running digest of all bytes before it, so that a change shows where it
// is. That guards against accidents and careless hands: who rewrites the file can compute these anew (but see the
// manifest's digests).

/** Kinds of events; the index is what the datapath writes. Those from `state` on are of ports, not of frames. */
export const eventKinds = [
  /** Read from a member's port, with the port's epoch as its color. */
  'sent',
  /** Read from a trunk, with a color. */
  'from-trunk',
  /** Given to a member's device. */
  'delivered',
  'to-trunk',
  /** Put into the hold queue of a member's port. */
  'held',
  'dropped',
  /** Put into the channel state; `delivered` follows. */
  'recorded',
  /** In transit, but the channel state is closed already. */
  'straggler',
  /** Lay unread at the cut: put into the channel state. */
  'residue',
  /** The port's epoch and gate when the recording began. */
  'state',
  'gate-closed',
  /** The port's cut. */
  'flip',
  'gate-opened',
  /** The snapshot begins on this host: from here on all hosts record. */
  'begin',
  /** All incoming channels are closed, all gates open. */
  'closed',
] as const
export type EventKind = (typeof eventKinds)[number]
export const Event = Object.fromEntries(eventKinds.map((kind, at) => [kind, at])) as Record<EventKind, number>

export interface TracePort {
  readonly name: string
  readonly kind: 'member' | 'trunk'
  readonly vm: string | null
  /** Of a trunk: the host on its other end. */
  readonly peer: string | null
  /** Frames that its device or the kernel has lost while the trace ran, as their counters tell. */
  readonly lostAtDevice: number
}

/** What the trace is of. */
export interface TraceHead {
  readonly host: string
  readonly network: string
  readonly snapshot: string
  readonly epoch: number
}

/** One event as it is written. */
export interface TraceEvent {
  readonly kind: number
  /** Index into the trace's ports; -1 for events of the whole host. */
  readonly port: number
  readonly color: number
  /** The port's. */
  readonly epoch: number
  /** Of the frame on the wire. */
  readonly length: number
  /**
   * Number of the event with which the frame came in, when that has led to this one at once; -1: it was held meanwhile.
   */
  readonly cause: number
  readonly digest: bigint
  /** Why it was dropped. */
  readonly reason: string | null
  readonly timeNs: bigint
  /** The frame's first bytes: addresses and type. */
  readonly head: Uint8Array
}

/** The comment of the file's section. */
export const TITLE = 'snapswitch frame events, version 1'

/** Kinds of the records beside the events. */
export const RECORD = { head: 2, chunk: 3, end: 4 } as const
