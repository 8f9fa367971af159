// Steps a sequence and keeps its queue, its timers and its end; what an effect means is the caller's (runner.ts).

import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import type { Agents } from './agents.js'
import { type Step, step, type Table } from './sequence/table.js'

export type OnProgress = (progress: {
  readonly text: string
  readonly host?: string
  readonly vm?: string
  readonly copied?: {
    readonly bytes: number
    readonly ofBytes: number
    readonly files: number
    readonly ofFiles: number
  }
  readonly atUs: number
}) => void

export interface RunOptions {
  readonly agents: Agents
  readonly clock: Clock
  readonly onProgress: OnProgress
  /** Aborting it cancels the sequence; its reason, if a SnapswitchError, becomes the reason given. */
  readonly signal?: AbortSignal
}

/** What a runner of one sequence offers to the code that performs its effects. */
export interface SequenceContext<Event> {
  feed(event: Event): void
  later(ms: number, act: () => void): void
  /** Aborted when the sequence has ended: nothing of it goes on. */
  readonly ended: AbortSignal
}

/** What every sequence understands. */
export interface Cancel {
  readonly kind: 'cancel'
  readonly error: ErrorReport
}

/** Steps a sequence until an effect finishes it. Events are taken one at a time, in the order they come. */
export function runSequence<State extends string, Data, Event extends { kind: string }, Effect, Outcome>(
  table: Table<State, Data, Event | Cancel, Effect>,
  first: Step<State, Data, Effect>,
  perform: (effect: Effect, context: SequenceContext<Event | Cancel>) => Outcome | undefined,
  options: RunOptions,
): Promise<Outcome> {
  const { clock, signal } = options
  const ended = new AbortController()
  const timers = new Set<() => void>()
  return new Promise<Outcome>((resolve, reject) => {
    let at: { state: State; data: Data } = first
    const queue: (Event | Cancel)[] = []
    let stepping = false
    const end = () => {
      for (const cancel of timers) cancel()
      timers.clear()
      signal?.removeEventListener('abort', cancelled)
      ended.abort()
    }
    const later = (ms: number, act: () => void) => {
      if (ms === 0) return act()
      const cancel = clock.after(ms, () => {
        timers.delete(cancel)
        act()
      })
      timers.add(cancel)
    }
    const context: SequenceContext<Event | Cancel> = {
      later,
      ended: ended.signal,
      feed: (event) => {
        if (ended.signal.aborted) return
        queue.push(event)
        if (!stepping) drain()
      },
    }
    const take = (next: Step<State, Data, Effect>) => {
      at = { state: next.state, data: next.data }
      for (const effect of next.effects) {
        const outcome = perform(effect, context)
        if (outcome === undefined) continue
        end()
        resolve(outcome)
        return
      }
    }
    const drain = () => {
      stepping = true
      try {
        for (let event = queue.shift(); event !== undefined && !ended.signal.aborted; event = queue.shift()) {
          take(step(table, at, event, clock.now()))
        }
      } catch (error) {
        end()
        reject(error)
      } finally {
        stepping = false
      }
    }
    const cancelled = () => {
      const reason: unknown = signal?.reason
      const error = reason instanceof SnapswitchError ? reason : calledOff
      context.feed({ kind: 'cancel', error: error.report() })
    }
    stepping = true
    try {
      take(first)
    } catch (error) {
      end()
      reject(error)
      return
    } finally {
      stepping = false
    }
    if (ended.signal.aborted) return
    signal?.addEventListener('abort', cancelled, { once: true })
    if (signal?.aborted === true) cancelled()
    drain()
  })
}

const calledOff = new SnapswitchError('SNAPSHOT_DISCARDED', 'it was called off', 'Nothing to do.')

/** Starts a call now, and feeds what comes of it. */
export function settle<Event>(
  act: () => Promise<Event | null>,
  feed: (event: Event) => void,
  failed: (error: ErrorReport) => Event,
): void {
  act().then(
    (event) => {
      if (event !== null) feed(event)
    },
    (error: unknown) => feed(failed(asSnapswitchError(error).report())),
  )
}
