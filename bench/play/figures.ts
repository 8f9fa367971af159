// From what was captured and what arrived to how exact a player was.

import { openTrace } from '../../src/trace/source.js'

/** Times in microseconds. Errors count from the first frame: where each one should have been, and where it was. */
export interface Exactness {
  readonly frames: number
  readonly lost: number
  readonly p50: number
  readonly p99: number
  readonly max: number
  /** Median error of the last hundredth of the frames, less that of the first: positive, the player falls behind. */
  readonly drift: number
  /** Of the first gap between two frames. */
  readonly firstGap: number
}

/** Nanoseconds since the first frame, by the number in each frame. */
export async function arrivals(file: string, numberAt: number): Promise<Map<number, number>> {
  const found = new Map<number, number>()
  let first: { seconds: number; nanoseconds: number } | null = null
  for await (const cursor of openTrace(file)) {
    for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
      if (kind !== 'packet') continue
      const { buffer, start, seconds, nanoseconds } = cursor.packet
      first ??= { seconds, nanoseconds }
      const at = start + numberAt
      const number = (buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!
      found.set(number, (seconds - first.seconds) * 1e9 + nanoseconds - first.nanoseconds)
    }
  }
  return found
}

/** `captured`: nanoseconds since the first frame, by number from 0 on. */
export function exactness(captured: readonly number[], arrived: ReadonlyMap<number, number>): Exactness {
  const begin = arrived.get(0) ?? 0
  const errors = captured.flatMap((time, number) => {
    const at = arrived.get(number)
    return at === undefined ? [] : [(at - begin - time) / 1000]
  })
  const sizes = errors.map(Math.abs).sort((a, b) => a - b)
  const share = Math.max(1, Math.floor(errors.length / 100))
  return {
    frames: errors.length,
    lost: captured.length - errors.length,
    p50: quantile(sizes, 0.5),
    p99: quantile(sizes, 0.99),
    max: quantile(sizes, 1),
    drift: median(errors.slice(-share)) - median(errors.slice(0, share)),
    firstGap: errors[1] ?? 0,
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return (quantile(sorted, 0.5) + (sorted[Math.floor(sorted.length / 2)] ?? 0)) / 2
}

/** By nearest rank. */
function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0
}
