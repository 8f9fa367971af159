// A snapshot as one host's agent takes part in it: preflight, requests, its events, and its part of the manifest.

import { type Static, Type } from '@sinclair/typebox'
import {
  Count,
  closed,
  Digest,
  Epoch,
  ErrorReportSchema,
  FileReference,
  Mac,
  Milliseconds,
  Name,
  nullable,
  TimeUs,
} from './basic.js'
import { PortRules } from './rules.js'
import { Peer, UndrivenPort } from './switch.js'

/** What early frames meet: a bounded buffer, or (as VNsnap and the UnaCloud study did) the floor. */
export const Policy = Type.Union([Type.Literal('buffer'), Type.Literal('drop')])
export type Policy = Static<typeof Policy>

/** How a machine's memory is saved (hypervisor.ts). */
export const CaptureMode = Type.Union([Type.Literal('background'), Type.Literal('precopy'), Type.Literal('stopped')])

/** The query of a preflight. */
export const PreflightQuery = Type.Object(
  {
    /** How long the asker waits, in milliseconds: machines that have not answered by then are named in `problems`. */
    deadlineMs: Type.Optional(Type.String({ pattern: '^[1-9][0-9]{0,6}$' })),
  },
  closed,
)
export type PreflightQuery = Static<typeof PreflightQuery>

/**
 * GET /v1/networks/:network/preflight?deadlineMs=. Changes nothing. `problems` empty: this host could take part now.
 */
export const Preflight = Type.Object({
  host: Type.String(),
  version: Type.String(),
  bootId: Type.String(),
  /** Highest epoch that any port of the network here has, or has ever had. */
  epoch: Epoch,
  members: Type.Array(
    Type.Object({
      vm: Name,
      ports: Type.Array(Type.String()),
      memoryBytes: Count,
      captureMode: CaptureMode,
      captureModeReason: nullable(Type.String()),
    }),
  ),
  /** Ports whose machines cannot be driven, and are no part of the snapshot. */
  undriven: Type.Optional(Type.Array(UndrivenPort)),
  /** Bridges of the network that are not as they should be: what is on them may be no part of the snapshot. */
  bridges: Type.Optional(Type.Array(Type.Object({ bridge: Type.String(), problem: ErrorReportSchema }))),
  peers: Type.Array(Peer),
  /** Ports to a LAN, where every other host with one must be a peer. */
  uplinks: Type.Optional(Type.Array(Type.String())),
  freeBytes: Count,
  neededBytes: Count,
  /** What a recording needs besides, at most. */
  recordingBytes: Type.Optional(Count),
  problems: Type.Array(ErrorReportSchema),
})
export type Preflight = Static<typeof Preflight>

/** POST /v1/networks/:network/snapshots/:snapshot/prepare. Does the slow work before the cut; undone by discard. */
export const PrepareRequest = Type.Object(
  {
    epoch: Epoch,
    policy: Policy,
    deadlineMs: Milliseconds,
    /** Write down what happens to every member's frame around the cut, for an audit. */
    record: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type PrepareRequest = Static<typeof PrepareRequest>

/** POST .../take answers with a stream of LocalEvent, one JSON object a line; the last is `done` or `failed`. */

/** POST .../discard: whatever was prepared or taken under this name here is undone; epochs go forward to `epoch`. */
export const DiscardRequest = Type.Object({ epoch: Epoch }, closed)
export type DiscardRequest = Static<typeof DiscardRequest>

export const PortRecord = Type.Object(
  {
    name: Name,
    device: Type.String(),
    mac: nullable(Mac),
    mtu: Type.Optional(Count),
    /** Left out: the snapshot's. A machine's ports in others go where it goes, and are no part of the snapshot. */
    network: Type.Optional(Name),
    rules: Type.Optional(PortRules),
  },
  closed,
)
/** What a member's port needs to exist again on another host. */
export type PortRecord = Static<typeof PortRecord>

/** `data`: the external data file of a qcow2 image. */
export const FrozenLayer = Type.Object(
  {
    file: FileReference,
    format: Type.Union([Type.Literal('qcow2'), Type.Literal('raw')]),
    data: Type.Optional(FileReference),
  },
  closed,
)
export type FrozenLayer = Static<typeof FrozenLayer>

/** What was in a read-only or removable drive at the cut. */
export const MediumRecord = Type.Object(
  {
    name: Type.String(),
    /** null: nothing. */
    file: nullable(FileReference),
    format: Type.String(),
    removable: Type.Boolean(),
    /** What `file` stands on, from the top down. */
    backing: Type.Optional(Type.Array(FrozenLayer)),
  },
  closed,
)
export type MediumRecord = Static<typeof MediumRecord>

export const FrozenDiskRecord = Type.Object(
  {
    name: Type.String(),
    /** The frozen chain, top first. */
    layers: Type.Array(FrozenLayer),
    /** The overlay that the machine wrote to after the cut. */
    overlay: Type.String(),
    /** The first layer is a copy made for the snapshot; the overlay stands on the second. */
    copied: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type FrozenDiskRecord = Static<typeof FrozenDiskRecord>

/** Whether an image was seen to load. `unknown`: it could not be tried. */
export const Verdict = Type.Object(
  {
    verdict: Type.Union([Type.Literal('loads'), Type.Literal('fails'), Type.Literal('unknown')]),
    reason: nullable(Type.String()),
  },
  closed,
)
export type Verdict = Static<typeof Verdict>

export const MemberPart = Type.Object(
  {
    vm: Name,
    ports: Type.Array(PortRecord),
    /** hypervisor.ts MachineDefinition, kept as it is. */
    definition: Type.Unknown(),
    memory: FileReference,
    disks: Type.Array(FrozenDiskRecord),
    media: Type.Optional(Type.Array(MediumRecord)),
    /** What the snapshot changed for the machine's user, or could not keep. */
    warnings: Type.Optional(Type.Array(Type.String())),
    /** Files that it needs besides its disks: kernel, firmware and the like. */
    files: Type.Optional(Type.Array(Type.Object({ role: Type.String(), file: FileReference }, closed))),
    /** Only when it was asked for. */
    verified: Type.Optional(Verdict),
    /** NICs on TAPs that are no ports of the switch: what they led to, by name. */
    outside: Type.Optional(
      Type.Array(Type.Object({ device: Type.String(), master: nullable(Type.String()), mtu: Count }, closed)),
    ),
    captureMode: CaptureMode,
    gatedAtUs: TimeUs,
    /** When the guest had read what it was sent, or was waited for no longer: the pause was asked for. */
    settledAtUs: Type.Optional(TimeUs),
    pausedAtUs: TimeUs,
    /** When its ports flipped: the cut's instant. */
    cutAtUs: TimeUs,
    /**
     * When its overlays were in place, and when the hypervisor was told to save memory and go on; if the driver can
     * tell.
     */
    disksAtUs: Type.Optional(TimeUs),
    savingAtUs: Type.Optional(TimeUs),
    resumedAtUs: TimeUs,
    releasedAtUs: TimeUs,
    sealedAtUs: TimeUs,
    /** Frames that waited behind the gate, of any color. */
    held: Count,
    /** Of those and others: frames from after their sender's cut that waited for this member's. */
    early: Count,
    /** In-transit frames in the channel state, residue included. */
    recorded: Count,
    residue: Count,
    lost: Count,
    /** Frames for it that were not held though they should have been: no room, or early under the policy `drop`. */
    dropped: Type.Optional(Count),
  },
  closed,
)
export type MemberPart = Static<typeof MemberPart>

/** How one incoming channel (from one peer switch) closed. */
export const ChannelClosure = Type.Object(
  {
    port: Type.String(),
    host: nullable(Type.String()),
    expected: Count,
    received: Count,
    lost: Count,
    /** From before the cut, come after the closure: in the channel state, and not among the lost. */
    late: Type.Optional(Count),
    /** True: by count; false: the closure deadline passed first. */
    byCount: Type.Boolean(),
  },
  closed,
)
export type ChannelClosure = Static<typeof ChannelClosure>

/** One host's share of a snapshot; also kept there as part.json. */
export const LocalPart = Type.Object(
  {
    host: Name,
    bootId: Type.String(),
    network: Name,
    snapshot: Name,
    epoch: Epoch,
    members: Type.Array(MemberPart),
    channel: FileReference,
    closures: Type.Array(ChannelClosure),
    /**
     * What happened to every member's frame around the cut (src/trace/events.ts); only of snapshots made with `record`.
     */
    events: Type.Optional(FileReference),
    /** The run around the cut, for `snapswitch replay`; the same. `runProblem`: why there is none, or not all of it. */
    run: Type.Optional(FileReference),
    runProblem: Type.Optional(Type.String()),
    /** The first bytes of frames that were held (src/trace/held.ts); where there were some. */
    held: Type.Optional(FileReference),
  },
  closed,
)
export type LocalPart = Static<typeof LocalPart>

/** POST .../rehearse: loads every machine's image into a throw-away machine, and writes down what came of it. */
export const RehearseRequest = Type.Object({ deadlineMs: Milliseconds }, closed)
export type RehearseRequest = Static<typeof RehearseRequest>
export const Rehearsal = Type.Object({
  members: Type.Array(Type.Object({ vm: Name, verified: Verdict })),
  tookMs: Type.Number(),
})
export type Rehearsal = Static<typeof Rehearsal>

/** POST .../flatten: copies each disk's chain of images into one image. Nothing names the copies yet. */
export const FlattenRequest = Type.Object({ deadlineMs: Milliseconds }, closed)
export type FlattenRequest = Static<typeof FlattenRequest>
/**
 * Disks whose chains are one image now; its answer, and the body of POST .../flatten/adopt: from then on the part names
 * the copies.
 */
export const FlatDisks = Type.Object(
  { members: Type.Array(Type.Object({ vm: Name, disks: Type.Array(FrozenDiskRecord) }, closed)) },
  closed,
)
export type FlatDisks = Static<typeof FlatDisks>

export const LocalEvent = Type.Union([
  Type.Object({ type: Type.Literal('paused'), vm: Name, atUs: TimeUs }),
  Type.Object({ type: Type.Literal('cut'), vm: Name, atUs: TimeUs }),
  Type.Object({ type: Type.Literal('resumed'), vm: Name, atUs: TimeUs }),
  Type.Object({ type: Type.Literal('sealed'), vm: Name, bytes: Count }),
  Type.Object({ type: Type.Literal('closed'), closures: Type.Array(ChannelClosure) }),
  Type.Object({ type: Type.Literal('done'), part: LocalPart }),
  Type.Object({ type: Type.Literal('failed'), error: ErrorReportSchema }),
])
export type LocalEvent = Static<typeof LocalEvent>

/** POST /v1/disks/prune. */
export const PruneRequest = Type.Object(
  {
    /** Also remove what left a machine's chain without snapswitch's doing. */
    orphans: Type.Optional(Type.Boolean()),
    /** Say what would be done, and do nothing. */
    dryRun: Type.Optional(Type.Boolean()),
    /** Of the copies that were told: contents that no snapshot has. They go, too. */
    released: Type.Optional(Type.Array(Digest)),
  },
  closed,
)
export type PruneRequest = Static<typeof PruneRequest>

/** The query of a removal. */
export const RemovalQuery = Type.Object(
  {
    /** A part that has another epoch is of another snapshot of that name, and stays. */
    epoch: Type.Optional(Type.String({ pattern: '^[0-9]{1,10}$' })),
  },
  closed,
)
export type RemovalQuery = Static<typeof RemovalQuery>

/** What a removal did: DELETE /v1/networks/:network/snapshots/:snapshot?epoch=. */
export const Removal = Type.Object({
  freedBytes: Count,
  /** Image files that were merged into the one below them. */
  merged: Type.Array(Type.Object({ vm: Name, disk: Type.String(), files: Type.Array(Type.String()) })),
  removed: Type.Array(Type.String()),
  /** Files that stay though no snapshot needs them, and why. */
  kept: Type.Array(Type.Object({ file: Type.String(), reason: Type.String() })),
})
export type Removal = Static<typeof Removal>

/**
 * What pruning did on a host; `failures`: merges that did not come to their end. `copies`, with `orphans`: those that
 * nothing on the host needs, if no snapshot has their content.
 */
export const Pruned = Type.Composite([
  Removal,
  Type.Object({
    failures: Type.Array(ErrorReportSchema),
    copies: Type.Optional(Type.Array(Type.Object({ file: Type.String(), digest: Digest, bytes: Count }))),
  }),
])
export type Pruned = Static<typeof Pruned>
