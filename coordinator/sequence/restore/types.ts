// The words of the restore sequence: its states, what it is told, what it asks for, what it knows.

import type {
  FileReference,
  Preflight,
  RestoreCheck,
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreReport,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
} from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import type { Step } from '../table.js'
import type { PlannedRestore, Transfer } from './plan.js'

export const restoreStates = [
  'preflight',
  'checking',
  'locating',
  'transferring',
  'loading',
  'pausing',
  'switching',
  'resuming',
  'aborting',
  'done',
  'failed',
  'refused',
] as const
export type RestoreState = (typeof restoreStates)[number]

export interface RestoreInput extends PlannedRestore {
  /** End originals that still run. */
  readonly replace: boolean
  /** Highest epoch in any manifest of the network. */
  readonly maxKnownEpoch: number
  /** For the whole of it, from `begin` on. */
  readonly deadlineMs: number
}

/**
 * What was looked at: the machines that come to this host, those that were here before, or files that another host
 * misses.
 */
export type CheckPurpose = 'target' | 'former' | 'holder'

export type RestoreEvent =
  /** `holds`: the machines that have a port of the network there, running or not. */
  | {
      readonly kind: 'preflighted'
      readonly host: string
      readonly preflight: Preflight
      readonly holds: readonly string[]
    }
  | { readonly kind: 'checked'; readonly host: string; readonly purpose: CheckPurpose; readonly check: RestoreCheck }
  | { readonly kind: 'transferred'; readonly host: string; readonly content: string }
  | { readonly kind: 'loaded'; readonly host: string; readonly loaded: RestoreLoaded }
  | { readonly kind: 'paused'; readonly host: string; readonly paused: RestorePaused }
  | { readonly kind: 'switched'; readonly host: string; readonly switched: RestoreSwitched }
  | { readonly kind: 'resumed'; readonly host: string; readonly resumed: RestoreResumed }
  /** `running`: machines that ran there before it was told, and go on. `standing`: former ones that do not. */
  | {
      readonly kind: 'aborted'
      readonly host: string
      readonly running: readonly string[]
      readonly standing: readonly string[]
    }
  | { readonly kind: 'agentFailed'; readonly host: string; readonly call: RestoreCall; readonly error: ErrorReport }
  | { readonly kind: 'deadline'; readonly timer: number }
  | { readonly kind: 'cancel'; readonly error: ErrorReport }

/** Which call failed; with what tells it from the host's other calls of the kind. */
export type RestoreCall =
  | { readonly do: 'preflight' | 'load' | 'pause' | 'switch' | 'resume' | 'abort' }
  | { readonly do: 'check'; readonly purpose: CheckPurpose }
  | { readonly do: 'transfer'; readonly content: string }

export type RestoreOutcome =
  | { readonly kind: 'done'; readonly report: RestoreReport }
  | { readonly kind: 'failed'; readonly error: ErrorReport }

export type RestoreEffect =
  | { readonly do: 'preflight'; readonly host: string; readonly timeoutMs: number }
  | {
      readonly do: 'check'
      readonly host: string
      readonly purpose: CheckPurpose
      readonly request: RestoreRequest
      readonly timeoutMs: number
    }
  | ({ readonly do: 'transfer'; readonly timeoutMs: number } & Transfer)
  | { readonly do: 'load'; readonly host: string; readonly request: RestoreRequest; readonly timeoutMs: number }
  | { readonly do: 'pause'; readonly host: string; readonly order: RestorePause; readonly timeoutMs: number }
  | { readonly do: 'switch'; readonly host: string; readonly delayMs: number; readonly timeoutMs: number }
  | { readonly do: 'resume'; readonly host: string; readonly delayMs: number; readonly timeoutMs: number }
  | {
      readonly do: 'abort'
      readonly host: string
      readonly epoch: number
      readonly delayMs: number
      readonly timeoutMs: number
    }
  | { readonly do: 'timer'; readonly timer: number; readonly afterMs: number }
  /** `copying`: the files that are about to be copied. */
  | {
      readonly do: 'progress'
      readonly text: string
      readonly host?: string
      readonly vm?: string
      readonly copying?: readonly Transfer[]
    }
  | { readonly do: 'finish'; readonly outcome: RestoreOutcome }

export interface RestoreData {
  readonly input: RestoreInput
  readonly startedAtMs: number
  readonly deadlineAtMs: number
  readonly timer: number
  readonly preflights: Readonly<Record<string, Preflight>>
  readonly holds: Readonly<Record<string, readonly string[]>>
  /** Hosts that get no machines and did not answer: done without. */
  readonly absent: readonly string[]
  readonly epoch: number
  /** Checks that are still awaited, as `purpose host`. */
  readonly checking: readonly string[]
  readonly checks: Readonly<Record<string, RestoreCheck>>
  readonly former: Readonly<Record<string, RestoreCheck>>
  /** What each host lacks of the files that some target misses; null: it could not say. */
  readonly lacking: Readonly<Record<string, readonly FileReference[] | null>>
  readonly waitingTransfers: readonly Transfer[]
  readonly runningTransfers: readonly Transfer[]
  readonly transferredBytes: number
  readonly loaded: Readonly<Record<string, RestoreLoaded>>
  /** Hosts that have been told to load or to pause. */
  readonly begun: readonly string[]
  readonly paused: Readonly<Record<string, RestorePaused>>
  readonly switched: Readonly<Record<string, RestoreSwitched>>
  readonly switchAttempts: Readonly<Record<string, number>>
  readonly resumed: Readonly<Record<string, RestoreResumed>>
  readonly resumeAttempts: Readonly<Record<string, number>>
  readonly failure: ErrorReport | null
  readonly aborting: Readonly<Record<string, number>>
  /** Machines that hosts which were told to abort have let run on. */
  readonly survivors: readonly string[]
  /** Former machines that were paused, and that hosts which were told to abort could not resume. */
  readonly standing: readonly string[]
  readonly unaborted: readonly string[]
}

export type RestoreStep = Step<RestoreState, RestoreData, RestoreEffect>
export type RestoreAt = { readonly state: RestoreState; readonly data: RestoreData }

export const transfersAtOnce = 4
export const resumeAttempts = 4
export const abortAttempts = 5
/** For pausing what runs, on one host: the guests stand still meanwhile, all of them. */
export const pauseLimitMs = 10_000
/** For the switch of a host that gets no machines. */
export const fenceLimitMs = 10_000
export const switchAttempts = 4
export const abortCallMs = 20_000
export const abortLimitMs = 60_000
export const resumeCallMs = 15_000

export const at = (state: RestoreState, data: RestoreData, ...effects: RestoreEffect[]): RestoreStep => ({
  state,
  data,
  effects,
})
