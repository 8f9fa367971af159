// Bridges of the kernel that the switch takes over.

import { type Static, Type } from '@sinclair/typebox'
import { closed, ErrorReportSchema, Name, nullable } from './basic.js'

/** Of a device, as the kernel has them. */
export const BridgeName = Type.String({ pattern: '^[^/\\s]{1,15}$', description: 'the name of a bridge' })

/** POST /v1/bridges */
export const TakeRequest = Type.Object(
  {
    bridge: BridgeName,
    /** What it is called as a network; default: as the bridge is. */
    network: Type.Optional(Name),
    /** The port of it that leads to a LAN with peer switches. */
    uplink: Type.Optional(Type.String({ minLength: 1, maxLength: 15 })),
    /** Goes on though packet filters between its ports are passed by. */
    ignoreFilters: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type TakeRequest = Static<typeof TakeRequest>

export const BridgeInfo = Type.Object({
  bridge: Type.String(),
  network: Name,
  /** The switch forwards in its place. */
  taken: Type.Boolean(),
  /** It is taken whenever it is there. */
  configured: Type.Boolean(),
  /** It is, and somebody has given it back: it is the kernel's until the configuration is read again. */
  given: Type.Optional(Type.Boolean()),
  /** Why it is not taken, or not as it should be. */
  problem: nullable(ErrorReportSchema),
  /** What is otherwise than on the bridge. */
  warnings: Type.Array(Type.String()),
})
export type BridgeInfo = Static<typeof BridgeInfo>

/** DELETE /v1/bridges/:bridge. `configured`: it is taken again when the configuration is read again. */
export const GivenBack = Type.Object({ configured: Type.Optional(Type.Boolean()) })
export type GivenBack = Static<typeof GivenBack>
