// Whether the files of snapshots are still there and as they were.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Epoch, ErrorReportSchema, FileReference, Milliseconds, Name, nullable } from './basic.js'

/** A file that a snapshot needs and that its host has nowhere with the right content. */
export const FileFault = Type.Object(
  {
    file: FileReference,
    fault: Type.Union([
      Type.Literal('missing'),
      /** Of another size, or of another content. */
      Type.Literal('changed'),
      Type.Literal('unreadable'),
    ]),
    detail: Type.String(),
    /** Hosts that have a file of that content. Left out when none was asked. */
    elsewhere: Type.Optional(Type.Array(Name)),
  },
  closed,
)
export type FileFault = Static<typeof FileFault>

/** POST /v1/networks/:network/snapshots/:snapshot/verify */
export const VerifyFiles = Type.Object(
  {
    files: Type.Array(FileReference),
    /** Presence and size only. */
    quick: Type.Optional(Type.Boolean()),
    deadlineMs: Milliseconds,
  },
  closed,
)
export type VerifyFiles = Static<typeof VerifyFiles>

/** `unchecked`: files that there was no time for. */
export const FilesFound = Type.Object({ faults: Type.Array(FileFault), unchecked: Count })
export type FilesFound = Static<typeof FilesFound>

/**
 * GET /v1/networks/:network/health: the snapshots of which the host has a part, by presence and size of their files.
 */
export const HostHealth = Type.Object({
  parts: Type.Array(
    Type.Object({
      snapshot: Name,
      epoch: Epoch,
      faults: Type.Array(FileFault),
      /** There may be more faults than are told. */
      faultCount: Count,
      unchecked: Count,
    }),
  ),
})
export type HostHealth = Static<typeof HostHealth>

export const HealthVerdict = Type.Union([
  Type.Literal('ok'),
  Type.Literal('damaged'),
  /** The host does not answer, or cannot be asked. */
  Type.Literal('away'),
  /** There was no time for it. */
  Type.Literal('unchecked'),
])
export type HealthVerdict = Static<typeof HealthVerdict>

export const SnapshotHealth = Type.Object(
  {
    verdict: HealthVerdict,
    hosts: Type.Array(
      Type.Object(
        {
          host: Name,
          verdict: HealthVerdict,
          faults: Type.Array(FileFault),
          faultCount: Count,
          /** Why it is away, or damaged as a whole. */
          error: nullable(ErrorReportSchema),
        },
        closed,
      ),
    ),
  },
  closed,
)
export type SnapshotHealth = Static<typeof SnapshotHealth>

export const VerifyRequest = Type.Object(
  {
    /** Presence and size only. */
    quick: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type VerifyRequest = Static<typeof VerifyRequest>

/** POST /v1/snapshots/:network/:name/verify */
export const VerifyReport = Type.Object({
  network: Name,
  name: Name,
  quick: Type.Boolean(),
  health: SnapshotHealth,
  files: Count,
  bytes: Count,
  /** Everything is on some host that answers: a restore can fetch it. null: not known, for a quick look. */
  restorable: nullable(Type.Boolean()),
  verifyMs: Type.Number(),
})
export type VerifyReport = Static<typeof VerifyReport>
