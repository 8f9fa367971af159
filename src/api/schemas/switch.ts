// What a host's switch daemon shows of itself: status, ports, counters, peers, the FDB.

import { type Static, Type } from '@sinclair/typebox'
import { addressesShown } from '../../hypervisor/drivers.js'
import { Count, Epoch, ErrorReportSchema, Mac, Name, nullable } from './basic.js'
import { BridgeInfo } from './bridges.js'
import { PortRules } from './rules.js'

export const Peer = Type.Object({
  port: Type.String(),
  /** The peer's name for itself; null until its first HELLO. */
  host: nullable(Type.String()),
  bootId: nullable(Type.String()),
  alive: Type.Boolean(),
  /** Milliseconds since its last HELLO. */
  lastHeardMs: nullable(Type.Number()),
})
export type Peer = Static<typeof Peer>

/** `host`: the host's own side of a bridge that was taken over; it forwards as a plain one does. */
export const PortKind = Type.Union([
  Type.Literal('member'),
  Type.Literal('plain'),
  Type.Literal('trunk'),
  Type.Literal('uplink'),
  Type.Literal('host'),
])
export type PortKind = Static<typeof PortKind>

export const PortCounters = Type.Object({
  rxFrames: Count,
  rxBytes: Count,
  txFrames: Count,
  txBytes: Count,
  rxGso: Count,
  txGso: Count,
  /** Frames lost by the kernel before the switch saw them (PACKET_STATISTICS). */
  kernelDrops: Count,
  held: Count,
  recorded: Count,
  /** Frames whose source address was not learned, for want of room. They were forwarded. */
  unlearned: Type.Optional(Count),
  ringRenewals: Type.Optional(Count),
  /** By reason; only reasons that occurred. */
  drops: Type.Record(Type.String(), Count),
})
export type PortCounters = Static<typeof PortCounters>

/** Behind a port without a machine: one that could be driven, one that cannot, or one that is being started. */
export const PortHolder = Type.Object({
  kind: Type.Union([Type.Literal('machine'), Type.Literal('undrivable'), Type.Literal('pending')]),
  /** What it is called; null: it does not say. */
  name: nullable(Type.String()),
  /** Why it cannot be driven. */
  problem: nullable(ErrorReportSchema),
})
export type PortHolder = Static<typeof PortHolder>

/** A port whose TAP is held by somebody that no driver can drive. */
export const UndrivenPort = Type.Object({
  port: Type.String(),
  name: nullable(Type.String()),
  problem: ErrorReportSchema,
})
export type UndrivenPort = Static<typeof UndrivenPort>

export const PortInfo = Type.Object({
  name: Type.String(),
  network: Type.String(),
  /** As the configuration calls it. */
  device: Type.String(),
  /** As it is called now; null while the port has none. */
  ifname: Type.Optional(nullable(Type.String())),
  kind: PortKind,
  vm: nullable(Type.String()),
  /** What it lets in and out; left out: all, as a port without rules. */
  rules: Type.Optional(PortRules),
  epoch: nullable(Epoch),
  gate: Type.Union([Type.Literal('open'), Type.Literal('closed')]),
  up: Type.Boolean(),
  /** It has no device, and takes one of that name when it comes. */
  waiting: Type.Optional(Type.Boolean()),
  /** Why it carries no frames, when it carries none. */
  problem: nullable(ErrorReportSchema),
  /** What is not right though it carries frames: what of the host hears nothing any more, a trunk without room, … */
  warnings: Type.Optional(Type.Array(ErrorReportSchema)),
  mtu: Count,
  counters: PortCounters,
  /** Whether the kernel hands its frames on by itself (`datapath: { fastPath: auto }`), or why not. */
  fastPath: Type.Optional(Type.Object({ fast: Type.Boolean(), why: nullable(Type.String()) })),
  /** Who holds the TAP of a port that belongs to no machine; null: nobody. Left out of other ports. */
  holder: Type.Optional(nullable(PortHolder)),
})
export type PortInfo = Static<typeof PortInfo>

/** One forwarding entry, with the words of `bridge -j fdb show`. */
export const FdbEntry = Type.Object({
  mac: Mac,
  ifname: Type.String(),
  port: Type.String(),
  vlan: Type.Optional(Type.Integer()),
  flags: Type.Array(Type.String()),
  master: Type.String(),
  state: Type.String(),
  /** Seconds since the address was last seen as a source. */
  used: Type.Number(),
})
export type FdbEntry = Static<typeof FdbEntry>

/** What the kernel does by itself with the frames of a pair of addresses. */
export const FastVerdict = Type.Object({
  from: Type.String(),
  to: Type.String(),
  source: Mac,
  destination: Mac,
  vlan: Type.Optional(Type.Integer()),
  /** Seconds since it was last used. */
  idle: Type.Number(),
})
export type FastVerdict = Static<typeof FastVerdict>

/** POST /v1/machines/:vm/flatten: the number of images in each disk's chain that was made short. */
export const Flattened = Type.Object({
  disks: Type.Array(Type.Object({ disk: Type.String(), before: Count, after: Count })),
})
export type Flattened = Static<typeof Flattened>

/** GET /v1/machines/:vm/disks: where a machine's disks are now. */
export const MachineDisks = Type.Object({
  vm: Name,
  /** False: as last known. */
  running: Type.Boolean(),
  disks: Type.Array(
    Type.Object({
      name: Type.String(),
      /** Top first: what the machine writes to, or must be started on, is the first. */
      layers: Type.Array(
        Type.Object({ file: Type.String(), format: Type.Union([Type.Literal('qcow2'), Type.Literal('raw')]) }),
      ),
    }),
  ),
  /** A machine that runs on a frozen image, or stands still. */
  problems: Type.Array(ErrorReportSchema),
})
export type MachineDisks = Static<typeof MachineDisks>

/** POST /v1/reload: what has changed, in words. */
export const Reloaded = Type.Object({ changes: Type.Array(Type.String()) })
export type Reloaded = Static<typeof Reloaded>

export const SwitchStatus = Type.Object({
  host: Type.String(),
  version: Type.String(),
  bootId: Type.String(),
  pid: Type.Integer(),
  uptimeSeconds: Type.Number(),
  datapathRestarts: Count,
  /** Taken over, or to be taken over. */
  bridges: Type.Optional(Type.Array(BridgeInfo)),
  /** The coordinator that serves this host, as far as the switch is told; null: none. */
  coordinator: Type.Optional(nullable(Type.Object({ embedded: Type.Boolean(), socket: Type.String() }))),
  networks: Type.Array(
    Type.Object({
      name: Type.String(),
      epoch: Epoch,
      /** The snapshot or restore under way, if any. */
      busy: nullable(Type.String()),
      ports: Count,
      /** Of those: ports that have no device. */
      waiting: Type.Optional(Type.Array(Type.String())),
      /** Of those: ports whose machines cannot be driven. */
      undriven: Type.Optional(Type.Array(UndrivenPort)),
      fdbEntries: Count,
      /** Ports whose frames the kernel hands on by itself; left out where it never does. */
      fast: Type.Optional(Count),
      peers: Type.Array(Peer),
    }),
  ),
  machines: Type.Array(
    Type.Object({
      name: Type.String(),
      ports: Type.Array(Type.String()),
      /** How it is reached: one of these. */
      ...addressesShown,
      /** The images that it writes to, as last known; only of machines that have had snapshots. */
      disks: Type.Optional(Type.Array(Type.Object({ name: Type.String(), file: Type.String() }))),
      problems: Type.Optional(Type.Array(ErrorReportSchema)),
    }),
  ),
})
export type SwitchStatus = Static<typeof SwitchStatus>
