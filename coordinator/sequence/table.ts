// The frame that both sequences share: a table of state x event, complete by its type; time comes in with each event.
// A sequence is sans-I/O: `step` takes an event and gives the next data and a list of effects, nothing else. The runner
// performs the effects and feeds back what came of them; a simulator can do the same in virtual time.

import type { ErrorReport } from '../../src/errors/errors.js'
import type { Instant } from '../../src/runtime/clock.js'

export type { Instant }

/** What a handler decides: where the sequence is now, what it knows now, what is to be done. */
export interface Step<State extends string, Data, Effect> {
  readonly state: State
  readonly data: Data
  readonly effects: readonly Effect[]
}

export type EventOf<Event extends { kind: string }, T extends Event['kind']> = Extract<Event, { kind: T }>

export type Handler<State extends string, Data, Event, Effect> = (
  data: Data,
  event: Event,
  now: Instant,
) => Step<State, Data, Effect>

/** Every state answers every event; a hole is a type error. */
export type Table<State extends string, Data, Event extends { kind: string }, Effect> = {
  readonly [S in State]: {
    readonly [T in Event['kind']]: Handler<State, Data, EventOf<Event, T>, Effect>
  }
}

/** Looks the event up in the state's row. */
export function step<State extends string, Data, Event extends { kind: string }, Effect>(
  table: Table<State, Data, Event, Effect>,
  at: { readonly state: State; readonly data: Data },
  event: Event,
  now: Instant,
): Step<State, Data, Effect> {
  const row = table[at.state]
  const handler = row[event.kind as Event['kind']] as Handler<State, Data, Event, Effect>
  return handler(at.data, event, now)
}

/** The same report with its host named in front. */
export function onHost(host: string, error: ErrorReport): ErrorReport {
  return { ...error, message: `host ${host}: ${error.message}` }
}

/** Several findings as one report: the first gives code and action, all are named. */
export function joinReports(reports: readonly ErrorReport[]): ErrorReport | null {
  const first = reports[0]
  if (first === undefined) return null
  // Some are whole sentences.
  const messages = reports.map(({ message }) => message.replace(/\.$/, ''))
  return { ...first, message: messages.join('; ') }
}

export function listed(names: readonly string[]): string {
  if (names.length < 2) return names.join('')
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`
}

/** Milliseconds left until a deadline, at least 1 (requests do not take 0). */
export function left(deadlineAtMs: number, now: Instant): number {
  return Math.max(1, Math.round(deadlineAtMs - now.ms))
}

/** ISO 8601 of a wall-clock instant. */
export function isoTime(now: Instant): string {
  return new Date(now.wallUs / 1000).toISOString()
}

/** Pause before attempt n (from 2) of a call that must get through: 200 ms, doubling to 3.2 s. */
export function retryDelayMs(attempt: number): number {
  return Math.min(3_200, 100 * 2 ** (attempt - 1))
}
