// The words that daemon, coordinator and CLI exchange, as JSON Schemas with their TypeScript types (TypeBox). Both ends
// validate with the same schema: a request that does not fit is refused with REQUEST_INVALID before any code sees it.

import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { type ErrorCode, errorCodes } from '../errors/errors.js'

const closed = { additionalProperties: false } as const
const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()])

/** Names of hosts, networks, ports, machines and snapshots. No slash, no leading dot: a name can be a file name. */
export const Name = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$',
  description: 'letters, digits, _ . -; at most 63',
})
export const Mac = Type.String({ pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' })
export const Digest = Type.String({ pattern: '^[0-9a-f]{64}$', description: 'sha256, hex' })
/** u32 that only grows: how many cuts a port has made. */
export const Epoch = Type.Integer({ minimum: 0, maximum: 0xffffffff })
/** Microseconds of CLOCK_REALTIME. */
export const TimeUs = Type.Integer({ minimum: 0 })
const Count = Type.Integer({ minimum: 0 })
const Milliseconds = Type.Integer({ minimum: 1, maximum: 3_600_000 })

export const ErrorReportSchema = Type.Object({
  code: Type.Unsafe<ErrorCode>(Type.String({ enum: Object.keys(errorCodes) })),
  message: Type.String(),
  action: Type.String(),
})

// --- a host's switch daemon: what it shows --------------------------------------------------------------------------

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

export const PortKind = Type.Union([
  Type.Literal('member'),
  Type.Literal('plain'),
  Type.Literal('trunk'),
  Type.Literal('uplink'),
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
  /** By reason; only reasons that occurred. */
  drops: Type.Record(Type.String(), Count),
})
export type PortCounters = Static<typeof PortCounters>

export const PortInfo = Type.Object({
  name: Type.String(),
  network: Type.String(),
  device: Type.String(),
  kind: PortKind,
  vm: nullable(Type.String()),
  epoch: nullable(Epoch),
  gate: Type.Union([Type.Literal('open'), Type.Literal('closed')]),
  up: Type.Boolean(),
  /** Why it carries no frames, when it carries none. */
  problem: nullable(ErrorReportSchema),
  mtu: Count,
  counters: PortCounters,
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

export const SwitchStatus = Type.Object({
  host: Type.String(),
  version: Type.String(),
  bootId: Type.String(),
  pid: Type.Integer(),
  uptimeSeconds: Type.Number(),
  datapathRestarts: Count,
  networks: Type.Array(
    Type.Object({
      name: Type.String(),
      epoch: Epoch,
      /** The snapshot or restore under way, if any. */
      busy: nullable(Type.String()),
      ports: Count,
      fdbEntries: Count,
      peers: Type.Array(Peer),
    }),
  ),
  machines: Type.Array(
    Type.Object({
      name: Type.String(),
      ports: Type.Array(Type.String()),
      qmp: nullable(Type.String()),
      /** For a domain of libvirt, instead of `qmp`. */
      libvirt: Type.Optional(Type.Object({ domain: Type.String(), uri: Type.Optional(Type.String()) })),
    }),
  ),
})
export type SwitchStatus = Static<typeof SwitchStatus>

// --- files ----------------------------------------------------------------------------------------------------------

/** A file on the host that holds it; `path` is absolute there. Elsewhere it is asked for by digest. */
export const FileReference = Type.Object({ path: Type.String(), bytes: Count, digest: Digest }, closed)
export type FileReference = Static<typeof FileReference>

// --- a snapshot, seen by one host's agent ---------------------------------------------------------------------------

/** What early frames meet: a bounded buffer, or (as VNsnap and the UnaCloud study did) the floor. */
export const Policy = Type.Union([Type.Literal('buffer'), Type.Literal('drop')])
export type Policy = Static<typeof Policy>

export const CaptureMode = Type.Union([Type.Literal('background'), Type.Literal('stopped')])

/** GET /v1/networks/:network/preflight. Changes nothing. `problems` empty: this host could take part now. */
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
  peers: Type.Array(Peer),
  /** Ports to a LAN, where every other host with one must be a peer. */
  uplinks: Type.Optional(Type.Array(Type.String())),
  freeBytes: Count,
  neededBytes: Count,
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
  },
  closed,
)
/** What a member's port needs to exist again on another host. */
export type PortRecord = Static<typeof PortRecord>

export const FrozenDiskRecord = Type.Object(
  {
    name: Type.String(),
    /** The frozen chain, top first. */
    layers: Type.Array(
      Type.Object({ file: FileReference, format: Type.Union([Type.Literal('qcow2'), Type.Literal('raw')]) }, closed),
    ),
    /** The overlay that the machine wrote to after the cut. */
    overlay: Type.String(),
  },
  closed,
)
export type FrozenDiskRecord = Static<typeof FrozenDiskRecord>

export const MemberPart = Type.Object(
  {
    vm: Name,
    ports: Type.Array(PortRecord),
    /** hypervisor.ts MachineDefinition, kept as it is. */
    definition: Type.Unknown(),
    memory: FileReference,
    disks: Type.Array(FrozenDiskRecord),
    captureMode: CaptureMode,
    gatedAtUs: TimeUs,
    /** When the guest had read what it was sent, or was waited for no longer: the pause was asked for. */
    settledAtUs: Type.Optional(TimeUs),
    pausedAtUs: TimeUs,
    /** When its ports flipped: the cut's instant. */
    cutAtUs: TimeUs,
    /** When its overlays were in place, and when the hypervisor was told to save memory and go on; if the driver can tell. */
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
    /** What happened to every member's frame around the cut (src/trace/events.ts); only of snapshots made with `record`. */
    events: Type.Optional(FileReference),
  },
  closed,
)
export type LocalPart = Static<typeof LocalPart>

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

// --- a restore, seen by one host's agent ----------------------------------------------------------------------------

/** POST /v1/networks/:network/restores/:snapshot/check and .../load share this body. */
export const RestoreRequest = Type.Object(
  {
    /** Fresh: above any epoch ever used in the network. */
    epoch: Epoch,
    /** The members to start on this host. */
    members: Type.Array(MemberPart),
    /** Channel files that hold frames for them, from the hosts they were cut on. */
    channels: Type.Array(FileReference),
    deadlineMs: Milliseconds,
  },
  closed,
)
export type RestoreRequest = Static<typeof RestoreRequest>

/** Answer of check: digests that are not on this host yet, machines of those names that run here now, other problems. */
export const RestoreCheck = Type.Object({
  missing: Type.Array(FileReference),
  running: Type.Array(Name),
  problems: Type.Array(ErrorReportSchema),
})
export type RestoreCheck = Static<typeof RestoreCheck>

/** Answer of load: everything is in memory, paused, gates closed, channel state queued. */
export const RestoreLoaded = Type.Object({ loaded: Type.Array(Name), channelFrames: Count })
export type RestoreLoaded = Static<typeof RestoreLoaded>

/** Answer of POST .../resume: guests run, gates open, addresses announced. */
export const RestoreResumed = Type.Object({ resumed: Type.Array(Type.Object({ vm: Name, atUs: TimeUs })) })
export type RestoreResumed = Static<typeof RestoreResumed>

/** Answer of abort: what never ran is ended; these ran already, and run on. */
export const RestoreAborted = Type.Object({ running: Type.Array(Name) })
export type RestoreAborted = Static<typeof RestoreAborted>

/** POST /v1/networks/:network/members/:vm/remove: the machine is ended if it runs and its ports leave the network. */
export const RemoveMemberAnswer = Type.Object({ destroyed: Type.Boolean(), ports: Type.Array(PortRecord) })
export type RemoveMemberAnswer = Static<typeof RemoveMemberAnswer>

// --- the coordinator ------------------------------------------------------------------------------------------------

export const SnapshotState = Type.Union([Type.Literal('pending'), Type.Literal('complete'), Type.Literal('failed')])

export const SnapshotFigures = Type.Object(
  {
    /** From the TAKE going out to the manifest being complete. */
    globalMs: Type.Number(),
    /** First to last cut. */
    skewMs: Type.Number(),
    /** Longest pause of a member. */
    downtimeMaxMs: Type.Number(),
    held: Count,
    early: Count,
    recorded: Count,
    lost: Count,
  },
  closed,
)
export type SnapshotFigures = Static<typeof SnapshotFigures>

export const Manifest = Type.Object(
  {
    format: Type.Literal(1),
    network: Name,
    name: Name,
    state: SnapshotState,
    epoch: Epoch,
    policy: Policy,
    createdAt: Type.String(),
    finishedAt: nullable(Type.String()),
    version: Type.String(),
    /** One per host that took part; empty while pending. */
    parts: Type.Array(LocalPart),
    figures: nullable(SnapshotFigures),
    error: nullable(ErrorReportSchema),
    /** Only in failed ones: hosts that could not be told to discard it; the coordinator tries again when it starts. */
    undiscarded: Type.Optional(Type.Array(Name)),
  },
  closed,
)
export type Manifest = Static<typeof Manifest>

/** POST /v1/snapshots answers with a stream of Progress; the last has `manifest` or `error`. */
export const CreateRequest = Type.Object(
  {
    network: Name,
    name: Name,
    policy: Type.Optional(Policy),
    deadlineMs: Type.Optional(Milliseconds),
    /** Wait for a snapshot that is under way, up to the deadline, instead of being refused. */
    wait: Type.Optional(Type.Boolean()),
    /** Record what an audit needs. */
    record: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type CreateRequest = Static<typeof CreateRequest>

/** POST /v1/snapshots/:network/:name/restore answers with a stream of Progress. */
export const RestoreOrder = Type.Object(
  {
    /** machine -> host; those left out go back to where they were cut. */
    placement: Type.Optional(Type.Record(Type.String(), Name)),
    /** End machines of those names that still run. */
    replace: Type.Optional(Type.Boolean()),
    deadlineMs: Type.Optional(Milliseconds),
  },
  closed,
)
export type RestoreOrder = Static<typeof RestoreOrder>

export const RestoreReport = Type.Object({
  network: Name,
  name: Name,
  epoch: Epoch,
  placement: Type.Record(Type.String(), Name),
  restoreMs: Type.Number(),
  transferredBytes: Count,
  channelFrames: Count,
  resumedSkewMs: Type.Number(),
})
export type RestoreReport = Static<typeof RestoreReport>

/** What an audit has found. */
export const AuditVerdict = Type.Union([
  Type.Literal('consistent'),
  Type.Literal('violated'),
  /** Nothing speaks against it, but not all that has happened was recorded. */
  Type.Literal('incomplete'),
])
export type AuditVerdict = Static<typeof AuditVerdict>

/** A piece of evidence: what is wrong, and where. */
export const AuditFinding = Type.Object(
  {
    what: Type.String(),
    host: nullable(Type.String()),
    port: nullable(Type.String()),
    /** File and byte at which the event lies. */
    file: nullable(Type.String()),
    offset: nullable(Count),
    /** The frame's digest, lower 53 bits, hex. */
    frame: nullable(Type.String()),
    atUs: nullable(Type.Number()),
  },
  closed,
)
export type AuditFinding = Static<typeof AuditFinding>

export const AuditCheck = Type.Object(
  {
    /** A room of protocol.md's invariants. */
    check: Type.Union([
      Type.Literal('files'),
      Type.Literal('events'),
      Type.Literal('no orphan'),
      Type.Literal('channel state'),
      Type.Literal('undisturbed run'),
      Type.Literal('termination'),
    ]),
    verdict: AuditVerdict,
    /** How many files, events, deliveries, ... were looked at. */
    examined: Count,
    violations: Count,
    /** Of the violations the first ones. */
    findings: Type.Array(AuditFinding),
    /** What else a reader should know: frames at the edges of the recording, losses that are accounted for. */
    notes: Type.Array(Type.String()),
  },
  closed,
)
export type AuditCheck = Static<typeof AuditCheck>

/** POST /v1/snapshots/:network/:name/audit */
export const AuditReport = Type.Object(
  {
    network: Name,
    name: Name,
    epoch: Epoch,
    verdict: AuditVerdict,
    checks: Type.Array(AuditCheck),
    hosts: Type.Array(
      Type.Object(
        {
          host: Name,
          /** Recorded events, and those that found no room. */
          events: Count,
          overflow: Count,
          /** Length of the recording in milliseconds. */
          recordedMs: Type.Number(),
        },
        closed,
      ),
    ),
    auditMs: Type.Number(),
  },
  closed,
)
export type AuditReport = Static<typeof AuditReport>

export const Progress = Type.Union([
  Type.Object({
    type: Type.Literal('step'),
    text: Type.String(),
    host: Type.Optional(Type.String()),
    vm: Type.Optional(Type.String()),
    atUs: TimeUs,
  }),
  Type.Object({ type: Type.Literal('manifest'), manifest: Manifest }),
  Type.Object({ type: Type.Literal('restored'), report: RestoreReport }),
  Type.Object({ type: Type.Literal('error'), error: ErrorReportSchema }),
])
export type Progress = Static<typeof Progress>

export const CoordinatorStatus = Type.Object({
  version: Type.String(),
  pid: Type.Integer(),
  networks: Type.Array(
    Type.Object({
      name: Type.String(),
      busy: nullable(Type.String()),
      hosts: Type.Array(
        Type.Object({
          host: Type.String(),
          socket: Type.String(),
          reachable: Type.Boolean(),
          error: nullable(ErrorReportSchema),
          members: Type.Array(Type.String()),
        }),
      ),
    }),
  ),
})
export type CoordinatorStatus = Static<typeof CoordinatorStatus>
