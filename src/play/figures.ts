// What the sending thread counts, in memory that the other thread reads: frames and bytes, refusals, and how late each
// frame was when it was handed to the kernel.

import { Errno } from '../linux/libc.js'

/** Indexes of numbers (f64). */
export const Count = {
  FRAMES: 0,
  BYTES: 1,
  /** Unix time in milliseconds at which the play began, and of the last frame. */
  BEGAN_MS: 2,
  LAST_MS: 3,
  LATE_MAX_NS: 4,
  /** Times that a socket had no room and was waited for. */
  WAITS: 5,
  /** The frames to come were not read in time. */
  STARVED: 6,
  TOO_LONG: 7,
  FULL: 8,
  MALFORMED: 9,
  FAILED: 10,
  /** Of the refusal that ended the play; 0: none. */
  ERRNO: 11,
  /** Frames by target follow. */
  TARGETS: 16,
} as const

export const MOST_TARGETS = 4096

/** Buckets of lateness: one for each 1/16 of a power of two, in nanoseconds. */
const PER_OCTAVE = 16
const OCTAVES = 48
const BUCKETS = PER_OCTAVE * OCTAVES

export interface FiguresHandle {
  readonly counts: SharedArrayBuffer
  readonly late: SharedArrayBuffer
}

export function figuresHandle(): FiguresHandle {
  return {
    counts: new SharedArrayBuffer((Count.TARGETS + MOST_TARGETS) * 8),
    late: new SharedArrayBuffer(BUCKETS * 4),
  }
}

/** Also without threads: of lateness that is measured elsewhere. */
export class Figures {
  readonly counts: Float64Array
  readonly #late: Uint32Array

  constructor({ counts, late }: FiguresHandle) {
    this.counts = new Float64Array(counts)
    this.#late = new Uint32Array(late)
  }

  late(ns: number): void {
    if (ns > this.counts[Count.LATE_MAX_NS]) this.counts[Count.LATE_MAX_NS] = ns
    this.#late[bucketOf(ns)]++
  }

  /** The lateness that `share` of all frames have at most, in nanoseconds; null: none was measured. */
  lateAt(share: number): number | null {
    const total = this.#late.reduce((sum, count) => sum + count, 0)
    if (total === 0) return null
    let left = Math.ceil(total * share)
    const at = this.#late.findIndex((count) => {
      left -= count
      return left <= 0
    })
    return Math.min(upperBoundOf(at), this.counts[Count.LATE_MAX_NS])
  }

  refuse(error: number): void {
    this.counts[refusalOf(error)]++
  }
}

function refusalOf(error: number): number {
  if (error === Errno.EMSGSIZE) return Count.TOO_LONG
  if (error === Errno.EAGAIN || error === Errno.ENOBUFS) return Count.FULL
  return error === Errno.EINVAL ? Count.MALFORMED : Count.FAILED
}

function bucketOf(ns: number): number {
  if (ns < 1) return 0
  const octave = Math.min(OCTAVES - 1, Math.floor(Math.log2(ns)))
  const part = Math.min(PER_OCTAVE - 1, Math.floor((ns / 2 ** octave - 1) * PER_OCTAVE))
  return octave * PER_OCTAVE + part
}

function upperBoundOf(bucket: number): number {
  const octave = Math.floor(bucket / PER_OCTAVE)
  return 2 ** octave * (1 + ((bucket % PER_OCTAVE) + 1) / PER_OCTAVE)
}
