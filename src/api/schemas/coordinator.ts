// The coordinator: manifests, orders, reports, progress.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Epoch, ErrorReportSchema, Milliseconds, Name, nullable, TimeUs } from './basic.js'
import { SnapshotHealth } from './health.js'
import { LocalPart, Policy, Pruned, PruneRequest, Removal } from './local-snapshot.js'

export const SnapshotState = Type.Union([Type.Literal('pending'), Type.Literal('complete'), Type.Literal('failed')])

export const SnapshotFigures = Type.Object(
  {
    /** From the TAKE going out to the manifest being complete. */
    globalMs: Type.Number(),
    /** From the request to the manifest being complete: what whoever asked has waited. */
    tookMs: Type.Optional(Type.Number()),
    /** First to last cut. */
    skewMs: Type.Number(),
    /** Longest pause of a member. */
    downtimeMaxMs: Type.Number(),
    held: Count,
    early: Count,
    recorded: Count,
    lost: Count,
    /** Frames that found no room in a hold queue, or were early under the policy `drop`. */
    dropped: Type.Optional(Count),
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
    /** Only in answers, when it was asked for: whether its files are still there. */
    health: Type.Optional(nullable(SnapshotHealth)),
  },
  closed,
)
export type Manifest = Static<typeof Manifest>

/** POST /v1/snapshots answers with a stream of Progress; the last has `manifest` or `error`. */
export const CreateRequest = Type.Object(
  {
    network: Name,
    /** Default: s1, s2 and so on, above the highest that the network has, and none that a host has a part of. */
    name: Type.Optional(Name),
    policy: Type.Optional(Policy),
    deadlineMs: Type.Optional(Milliseconds),
    /** Wait for a snapshot that is under way, up to the deadline, instead of being refused. */
    wait: Type.Optional(Type.Boolean()),
    /** Record what an audit needs. */
    record: Type.Optional(Type.Boolean()),
    /** Load every image once it is sealed; left out: as the coordinator's configuration says. */
    verify: Type.Optional(Type.Boolean()),
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
    /**
     * End them before their next selves are loaded, for want of room for both: then a load that fails leaves none
     * running.
     */
    endFirst: Type.Optional(Type.Boolean()),
    deadlineMs: Type.Optional(Milliseconds),
    /** As of a snapshot. */
    wait: Type.Optional(Type.Boolean()),
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
  /** The instant that the machines are back at. */
  cutAtUs: Type.Optional(TimeUs),
  /** Where peers may be that know more than the machines now do. */
  outsidePorts: Type.Optional(Type.Array(Type.String())),
  /** The files that the machines' disks are in from now on, each on its host. */
  disks: Type.Record(Type.String(), Type.Array(Type.Object({ name: Type.String(), file: Type.String() }))),
  /** What came back otherwise than it was, or may surprise. */
  warnings: Type.Array(Type.String()),
})
export type RestoreReport = Static<typeof RestoreReport>

/** POST /v1/prune. */
export const PruneOrder = Type.Composite(
  [Type.Omit(PruneRequest, ['released']), Type.Object({ network: Type.Optional(Name) })],
  closed,
)
export type PruneOrder = Static<typeof PruneOrder>

/** What pruning did, or would do: failed snapshots whose records went, and each host. */
export const PruneReport = Type.Object({
  failed: Type.Array(Type.Object({ network: Name, name: Name, error: nullable(ErrorReportSchema) })),
  hosts: Type.Array(
    Type.Object({ host: Name, pruned: nullable(Type.Omit(Pruned, ['copies'])), error: nullable(ErrorReportSchema) }),
  ),
})
export type PruneReport = Static<typeof PruneReport>

/** DELETE /v1/snapshots/:network/:name: what each host did. */
export const DeleteReport = Type.Object({
  network: Name,
  name: Name,
  hosts: Type.Array(Type.Composite([Type.Object({ host: Name }), Removal])),
})
export type DeleteReport = Static<typeof DeleteReport>

export const Progress = Type.Union([
  Type.Object({
    type: Type.Literal('step'),
    text: Type.String(),
    host: Type.Optional(Type.String()),
    vm: Type.Optional(Type.String()),
    /** While files are copied between hosts: all of them together. Such steps come several times a second. */
    copied: Type.Optional(Type.Object({ bytes: Count, ofBytes: Count, files: Count, ofFiles: Count })),
    atUs: TimeUs,
  }),
  Type.Object({ type: Type.Literal('manifest'), manifest: Manifest }),
  Type.Object({ type: Type.Literal('restored'), report: RestoreReport }),
  Type.Object({ type: Type.Literal('error'), error: ErrorReportSchema }),
])
export type Progress = Static<typeof Progress>

/**
 * What flattening a snapshot did: the images of each disk's chain before; one is left. Disks that had one are left out.
 */
export const FlattenReport = Type.Object({
  network: Name,
  name: Name,
  disks: Type.Array(
    Type.Object({ host: Name, vm: Name, disk: Type.String(), images: Count, file: Type.String(), bytes: Count }),
  ),
})
export type FlattenReport = Static<typeof FlattenReport>

export const CoordinatorStatus = Type.Object({
  version: Type.String(),
  pid: Type.Integer(),
  /** It runs inside `snapswitch switch`. */
  embedded: Type.Optional(Type.Boolean()),
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
