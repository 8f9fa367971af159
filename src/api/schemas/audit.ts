// What an audit of a recorded snapshot finds.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Epoch, Name, nullable } from './basic.js'

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
    /** One of the protocol’s rules; docs/guide/snapshots.md says what must hold. */
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
