// The frames that a snapshot found on their way, one by one.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Epoch, Name, nullable } from './basic.js'

export const SnapshotFrame = Type.Object(
  {
    /** Where its receiver is. */
    host: Name,
    port: Type.String(),
    vm: nullable(Type.String()),
    /**
     * `in-transit`: it reached the switch after its receiver's cut; `residue`: it lay unread in its receiver's device.
     * Both are part of the snapshot. `held`: it waited for its receiver, which was making its cut, or had not made it
     * while the sender had; it may be in transit as well.
     */
    fate: Type.Union([Type.Literal('in-transit'), Type.Literal('residue'), Type.Literal('held')]),
    /** Cuts that its sender had made. */
    color: Count,
    /** When the switch got it, or held it; microseconds since 1970. */
    timeUs: Type.Number(),
    bytes: Count,
    /** Of a held frame, what its first bytes tell. */
    summary: Type.String(),
  },
  closed,
)
export type SnapshotFrame = Static<typeof SnapshotFrame>

/** GET /v1/snapshots/:network/:name/frames */
export const SnapshotFrames = Type.Object(
  {
    network: Name,
    name: Name,
    epoch: Epoch,
    /** Host by host, in the order in which a restore delivers them, then those that were held. */
    frames: Type.Array(SnapshotFrame),
    /** How many more there are. */
    omitted: Count,
    hosts: Type.Array(
      Type.Object(
        {
          host: Name,
          /** Frames held, as the switch has counted them. */
          held: Count,
          /** Whether held frames were written down. */
          recorded: Type.Boolean(),
          /** Why frames of this host are missing. */
          problem: nullable(Type.String()),
        },
        closed,
      ),
    ),
  },
  closed,
)
export type SnapshotFrames = Static<typeof SnapshotFrames>
