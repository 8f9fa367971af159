// Pure helpers: medians, spread, and the search for the highest rate without loss.

/** Middle value; the mean of the two middle ones for an even count. NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length % 2 === 1) return sorted[middle]!
  return sorted.length === 0 ? Number.NaN : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Half the range from smallest to largest, relative to the median: how far the rounds disagree. */
export function spread(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN
  const middle = median(values)
  return middle === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / 2 / middle
}

export interface SearchOptions {
  /** Ends when the interval is narrower than this share of its upper end. */
  readonly resolution: number
  /** A rate is given up only after this many lossy trials: one hiccup of the machine must not decide. */
  readonly attempts: number
}

/**
 * The highest rate at which a trial loses nothing, by bisection between 0 and `ceiling`, which is tried first. Returns
 * 0 when every rate tried lost something. Assumes that less load loses no more, as RFC 2544 section 26.1 does.
 */
export async function highestLosslessRate(
  lossless: (rate: number) => Promise<boolean>,
  ceiling: number,
  { resolution, attempts }: SearchOptions,
): Promise<number> {
  const passes = async (rate: number) => {
    for (let attempt = 0; attempt < attempts; attempt++) if (await lossless(rate)) return true
    return false
  }
  if (await passes(ceiling)) return ceiling
  let [good, bad] = [0, ceiling]
  while (bad - good > resolution * bad && bad > ceiling * resolution) {
    // The answer is seldom far below the ceiling: look there first instead of halving from the start.
    const middle = good === 0 ? bad * 0.85 : (good + bad) / 2
    if (await passes(middle)) good = middle
    else bad = middle
  }
  return good
}
