// The words of the snapshot sequence: its states, what it is told, what it asks for, what it knows.

import type { LocalEvent, LocalPart, Manifest, Policy, Preflight, PrepareRequest } from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import type { Step } from '../table.js'

export const snapshotStates = [
  'preflight',
  'recording',
  'preparing',
  'taking',
  'committing',
  'discarding',
  'failing',
  'complete',
  'failed',
  'refused',
] as const
export type SnapshotState = (typeof snapshotStates)[number]

export interface SnapshotInput {
  readonly network: string
  readonly name: string
  readonly policy: Policy
  /** Whether hosts write down what an audit needs. */
  readonly record?: boolean
  readonly version: string
  /** All hosts of the network. */
  readonly hosts: readonly string[]
  /** Highest epoch in any manifest of the network. */
  readonly maxKnownEpoch: number
  /** For the whole of it, from `begin` on. */
  readonly deadlineMs: number
  /** How long whoever asked has waited before `begin`. */
  readonly waitedMs?: number
}

export type SnapshotCall = 'preflight' | 'prepare' | 'take' | 'discard'

export type SnapshotEvent =
  | { readonly kind: 'preflighted'; readonly host: string; readonly preflight: Preflight }
  | { readonly kind: 'stored' }
  | { readonly kind: 'storeFailed'; readonly error: ErrorReport }
  | { readonly kind: 'prepared'; readonly host: string }
  | { readonly kind: 'local'; readonly host: string; readonly event: LocalEvent }
  | { readonly kind: 'discarded'; readonly host: string }
  /** A call failed, went unanswered, or its stream ended too soon. */
  | { readonly kind: 'agentFailed'; readonly host: string; readonly call: SnapshotCall; readonly error: ErrorReport }
  | { readonly kind: 'deadline'; readonly timer: number }
  /** The coordinator is being stopped. */
  | { readonly kind: 'cancel'; readonly error: ErrorReport }

export type SnapshotOutcome =
  | { readonly kind: 'complete'; readonly manifest: Manifest }
  /** `manifest` is null when none was written: nothing had begun. */
  | { readonly kind: 'failed'; readonly error: ErrorReport; readonly manifest: Manifest | null }

export type SnapshotEffect =
  | { readonly do: 'preflight'; readonly host: string; readonly timeoutMs: number }
  | { readonly do: 'prepare'; readonly host: string; readonly request: PrepareRequest; readonly timeoutMs: number }
  | { readonly do: 'take'; readonly host: string; readonly timeoutMs: number }
  | {
      readonly do: 'discard'
      readonly host: string
      readonly epoch: number
      readonly delayMs: number
      readonly timeoutMs: number
    }
  /** Durable, in the order given; answered by `stored` or `storeFailed`. */
  | { readonly do: 'store'; readonly manifest: Manifest }
  | { readonly do: 'timer'; readonly timer: number; readonly afterMs: number }
  | { readonly do: 'progress'; readonly text: string; readonly host?: string; readonly vm?: string }
  | { readonly do: 'finish'; readonly outcome: SnapshotOutcome }

export interface SnapshotData {
  readonly input: SnapshotInput
  readonly deadlineAtMs: number
  /** Serial of the one timer in force; the ring of an older one means nothing. */
  readonly timer: number
  readonly preflights: Readonly<Record<string, Preflight>>
  readonly epoch: number
  /** As last given to the store; null before `recording`. */
  readonly manifest: Manifest | null
  readonly prepared: readonly string[]
  readonly askedAtMs: number
  readonly takenAtMs: number
  readonly parts: Readonly<Record<string, LocalPart>>
  readonly failure: ErrorReport | null
  /** Attempts so far, per host that has not yet confirmed its discard. */
  readonly discarding: Readonly<Record<string, number>>
  readonly undiscarded: readonly string[]
}

export type SnapshotStep = Step<SnapshotState, SnapshotData, SnapshotEffect>
export type SnapshotAt = { readonly state: SnapshotState; readonly data: SnapshotData }

export const discardAttempts = 5
// A discard may have to merge disks back.
export const discardCallMs = 20_000
export const discardLimitMs = 45_000
