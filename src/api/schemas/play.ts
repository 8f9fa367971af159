// Frames of a capture that are played into ports: as if the machines behind these ports had sent them.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, ErrorReportSchema, Name } from './basic.js'

/** POST /v1/plays. The answer is a stream; the play is over when the client ends it. */
export const PlayRequest = Type.Object({ ports: Type.Array(Name, { minItems: 1, maxItems: 1024 }) }, closed)
export type PlayRequest = Static<typeof PlayRequest>

export const PlayEvent = Type.Union([
  Type.Object({
    type: Type.Literal('ready'),
    /**
     * A unix socket (SOCK_SEQPACKET) that takes one connection, within seconds. Each message is a frame: the port's
     * place in `ports` (u16, little endian), 6 zero bytes, an empty virtio-net header of 10, the frame from its
     * destination address on. A full socket means that the switch is behind.
     */
    socket: Type.String(),
    /** In the order in which they were asked for. */
    ports: Type.Array(Type.Object({ name: Name, network: Name, mtu: Count })),
  }),
  /** The connection was closed. Frames that came in; messages that were no frames, or for ports that are gone. */
  Type.Object({ type: Type.Literal('over'), frames: Count, refused: Count }),
  Type.Object({ type: Type.Literal('failed'), error: ErrorReportSchema }),
])
export type PlayEvent = Static<typeof PlayEvent>
