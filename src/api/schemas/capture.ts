// Captures of live traffic, as daemon and CLI speak of them. The frames themselves come as a stream of records
// (src/capture/stream.ts).

import { type Static, Type } from '@sinclair/typebox'
import { closed, Name } from './basic.js'

export const CaptureRequest = Type.Object(
  {
    /** In the words of src/capture/filter.ts; left out: every frame, at every port. */
    filter: Type.Optional(Type.String({ maxLength: 4096 })),
    /** Bytes kept of each frame; left out: all. */
    snaplen: Type.Optional(Type.Integer({ minimum: 14, maximum: 262_144 })),
    /** MiB in which frames wait for whoever reads; what finds no room is counted. */
    buffer: Type.Optional(Type.Integer({ minimum: 1, maximum: 256 })),
  },
  closed,
)
export type CaptureRequest = Static<typeof CaptureRequest>

export const CaptureInfo = Type.Object({
  id: Type.Integer(),
  network: Name,
  filter: Type.String(),
  since: Type.String(),
  /** Bytes of records sent, and frames that found no room. */
  bytes: Type.Integer(),
  lost: Type.Integer(),
})
export type CaptureInfo = Static<typeof CaptureInfo>
