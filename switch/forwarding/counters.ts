// Per-port counters in shared memory: the datapath adds, everybody else just reads. One writer each, and every counter
// is an aligned 8-byte float (exact to 2^53), so a reader sees a whole value.

import type { PortCounters } from '../../src/api/schemas.js'

export const MAX_PORTS = 1024

/** Why a frame was not forwarded. Add at the end: the index is the slot in shared memory. */
export const dropReasons = [
  'malformed',
  'bad-source',
  'link-local',
  'tag-unknown',
  'hold-overflow',
  'early-dropped',
  'fenced',
  'record-overflow',
  'control-malformed',
  'control-version',
  'control-unexpected',
  'tx-full',
  'tx-error',
  'too-long',
  'truncated',
  'device-down',
  // Taken by the device and dropped there: a TAP whose guest does not read. Kept by the control thread, see
  // agent/unread.ts.
  'device-dropped',
  // With a `controlKey` only: no seal or a wrong one; a copy of what came before, or too old to be an answer to us.
  'control-unauthenticated',
  'control-replayed',
  // On uplinks: a frame that would have been taken for a switch's, kept from the LAN; a carrier that is not of a peer's
  // present boot; pieces of a carried frame whose other pieces are missing.
  'control-forged',
  'carrier-unexpected',
  'carrier-broken',
  // From a peer: sent before both sides agreed on what they count, come after (src/epoch/peer-channel.ts).
  'other-generation',
  // On uplinks: what peers or we might misread, for they may not know yet that a switch has started anew.
  'starting',
  // Flow control for one end of a cable, with `pause: drop`.
  'pause',
  // A frame to be cut by rules that are not known, or cannot be.
  'gso-unsupported',
  // By a port's rules: of a VLAN that it is not in; to an isolated port from another; from an address that a locked
  // port does not know. What a flood leaves out is not counted, as a bridge does not.
  'vlan',
  'isolated',
  'locked',
  // Came in by a mirror.
  'mirror',
] as const
export type DropReason = (typeof dropReasons)[number]

const fields = [
  'rxFrames',
  'rxBytes',
  'txFrames',
  'txBytes',
  'rxGso',
  'txGso',
  'kernelDrops',
  'held',
  'recorded',
  'early',
  'stragglers',
  // Frames whose source address the FDB had no room for.
  'unlearned',
  // Receive rings that took no frame any more and were made anew.
  'ringRenewals',
  // Not counters but states, published after every command.
  'epoch',
  'gateClosed',
] as const
type Field = (typeof fields)[number]

/** Slot of each field within a port's row. */
export const Counter = Object.fromEntries(fields.map((name, at) => [name, at])) as Record<Field, number>
export const Drop = Object.fromEntries(dropReasons.map((name, at) => [name, fields.length + at])) as Record<
  DropReason,
  number
>

/** Slots per port; a power of two keeps rows on their own cache lines. */
export const ROW = 64

export type CounterTable = Float64Array

export function createCounters(): CounterTable {
  return new Float64Array(new SharedArrayBuffer(MAX_PORTS * ROW * 8))
}

export function readPortCounters(table: CounterTable, port: number): PortCounters {
  const at = port * ROW
  const drops: Record<string, number> = {}
  for (const reason of dropReasons) {
    const count = table[at + Drop[reason]]
    if (count > 0) drops[reason] = count
  }
  const read = (field: Field) => table[at + Counter[field]]
  return {
    rxFrames: read('rxFrames'),
    rxBytes: read('rxBytes'),
    txFrames: read('txFrames'),
    txBytes: read('txBytes'),
    rxGso: read('rxGso'),
    txGso: read('txGso'),
    kernelDrops: read('kernelDrops'),
    held: read('held'),
    recorded: read('recorded'),
    unlearned: read('unlearned'),
    ringRenewals: read('ringRenewals'),
    drops,
  }
}
