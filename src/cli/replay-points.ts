// Points of a run, as people name them: a time from the first input on, an input or a frame.

import { InvalidArgumentError } from 'commander'
import type { Replay } from '../../switch/recording/replay.js'

export interface Point {
  readonly kind: 'ms' | 'input' | 'frame'
  readonly value: number
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

export function parsePoint(text: string): Point {
  const counted = /^(input|frame):(\d{1,15})$/.exec(text)
  if (counted !== null) return { kind: counted[1] as 'input' | 'frame', value: Number(counted[2]) }
  const timed = /^(\d{1,12}(?:\.\d+)?)(ms|s|m|h)?$/.exec(text)
  if (timed === null) throw new InvalidArgumentError('Give a time such as 1.5, 20ms or 2m, or input:N or frame:N.')
  return { kind: 'ms', value: Number(timed[1]) * UNITS[timed[2] ?? 's'] }
}

/** Performs inputs as long as none is past the point; of a time, from `startMs` on. */
export function runTo(replay: Replay, point: Point | undefined, startMs: number): void {
  while (!isPast(replay, point, startMs) && replay.step()) {}
}

/** The same, up to just before the point: what is there comes next. */
export function runBefore(replay: Replay, { kind, value }: Point, startMs: number): void {
  runTo(replay, { kind, value: kind === 'ms' ? value - 1e-6 : value - 1 }, startMs)
}

/** What comes next is past the point. */
export function isPast(replay: Replay, point: Point | undefined, startMs: number): boolean {
  if (point === undefined) return false
  if (point.kind === 'ms') return replay.nextMs() > startMs + point.value
  return point.kind === 'input' ? replay.input.number >= point.value : replay.frames > point.value
}
