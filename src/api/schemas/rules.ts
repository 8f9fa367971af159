// What a port lets in and out besides what its kind says: the rules that ports of the kernel's bridge have, under the
// names that bridge(8) gives them. Configuration, `port list` and the forwarder share them.

import { type Static, Type } from '@sinclair/typebox'
import { closed, Mac, Name } from './basic.js'

const VlanId = Type.Integer({ minimum: 1, maximum: 4094 })
/** A VLAN, or several: `100-199`. */
const Vlans = Type.Array(
  Type.Union([VlanId, Type.String({ pattern: '^[1-9][0-9]{0,3}-[1-9][0-9]{0,3}$' })], {
    description: 'a VLAN from 1 to 4094, or several: 100-199',
  }),
  { maxItems: 4094 },
)

export const PortVlan = Type.Object(
  {
    /** VLAN of untagged and priority-tagged frames that enter; left out, they are dropped. In no list: untagged. */
    pvid: Type.Optional(VlanId),
    /** VLANs whose frames leave without their tag. */
    untagged: Type.Optional(Vlans),
    /** VLANs whose frames leave with their tag. */
    tagged: Type.Optional(Vlans),
  },
  closed,
)
export type PortVlan = Static<typeof PortVlan>

export const StaticAddress = Type.Object(
  {
    mac: Mac,
    /** Left out: untagged frames, or the `pvid` where the port has `vlan`. */
    vlan: Type.Optional(VlanId),
    /** It stays here although its frames come from another port. Without, it moves, as in the kernel's bridge. */
    sticky: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type StaticAddress = Static<typeof StaticAddress>

export const Mirror = Type.Object(
  {
    /** Ports of the same network, by name. */
    of: Type.Array(Name, { minItems: 1, maxItems: 64, uniqueItems: true }),
    /** Frames that come in there, as they came; those that leave there, as they leave; or both. Default: both. */
    direction: Type.Optional(Type.Union([Type.Literal('in'), Type.Literal('out'), Type.Literal('both')])),
  },
  closed,
)
export type Mirror = Static<typeof Mirror>

export const portRules = {
  /**
   * VLANs that the port is in. Without it, it is in all, tagged: untagged frames are then of no VLAN, and meet only
   * ports without `vlan`.
   */
  vlan: Type.Optional(PortVlan),
  /** No frame passes between two isolated ports. Default: false. */
  isolated: Type.Optional(Type.Boolean()),
  /** Addresses are learned from what enters. Default: true. */
  learning: Type.Optional(Type.Boolean()),
  /** Frames to unknown addresses leave here. Default: true. */
  flood: Type.Optional(Type.Boolean()),
  /** Frames to groups leave here, unless they come from a port of kind host. Default: true. */
  mcastFlood: Type.Optional(Type.Boolean()),
  /** Broadcasts leave here, unless they come from a port of kind host. Default: true. */
  bcastFlood: Type.Optional(Type.Boolean()),
  /** A frame may leave by the port that it came in by. Default: false. */
  hairpin: Type.Optional(Type.Boolean()),
  /** Only frames from addresses that are known here enter: those under `fdb`, mostly. Default: false. */
  locked: Type.Optional(Type.Boolean()),
  /**
   * The port gets copies of these ports' frames, and nothing else; what comes in by it is dropped. It has no other
   * rules, and is of kind plain.
   */
  mirror: Type.Optional(Mirror),
  /** Addresses behind the port that are never forgotten. */
  fdb: Type.Optional(Type.Array(StaticAddress, { maxItems: 1024 })),
} as const

/** What is left out is as a bridge has it by default. */
export const PortRules = Type.Object(portRules, closed)
export type PortRules = Static<typeof PortRules>
