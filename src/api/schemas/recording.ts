// Recordings of runs, as daemon and CLI speak of them. The answer is the file itself.

import { type Static, Type } from '@sinclair/typebox'
import { closed } from './basic.js'

export const RecordingRequest = Type.Object(
  {
    /** It ends after so long, and after so many bytes of the file; left out: when it is asked to. */
    seconds: Type.Optional(Type.Number({ minimum: 0 })),
    bytes: Type.Optional(Type.Integer({ minimum: 1 })),
    /** MiB in which what is recorded waits for whoever reads; what finds no room leaves a gap. */
    buffer: Type.Optional(Type.Integer({ minimum: 1, maximum: 512 })),
    /** The network's key may be in the file, which cannot be replayed without it. */
    withKey: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type RecordingRequest = Static<typeof RecordingRequest>
