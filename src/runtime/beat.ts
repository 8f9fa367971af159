// For what looks at something ten times a second: all of it in one go. Waking a process costs more than such a look.
// Where somebody tells when there is something to look at (src/linux/news.ts), it is seldom looked without.

const BEAT_MS = 100
const SELDOM_MS = 500

interface Act {
  /** False: it wants the next beat soon. */
  readonly act: () => unknown
  readonly everyMs: number
  dueMs: number
}

const acts = new Set<Act>()
let timer: NodeJS.Timeout | undefined
let lastMs = 0
let isTold = () => false

/**
 * Calls `act` at each beat, or at those that come after so many milliseconds, until the answer is called. When `act`
 * says false, the next beat comes soon in any case.
 */
export function onBeat(act: () => unknown, everyMs = 0): () => void {
  const one = { act, everyMs, dueMs: performance.now() + everyMs }
  acts.add(one)
  if (acts.size === 1) plan(BEAT_MS)
  return () => {
    acts.delete(one)
    if (acts.size === 0) clearTimeout(timer)
  }
}

/** While it is so, `beatSoon` is called when there is something to look at. */
export function tellsOfNews(tells: () => boolean): void {
  isTold = tells
  beatSoon()
}

/** There is something to look at. */
export function beatSoon(): void {
  if (acts.size > 0) plan(Math.max(0, lastMs + BEAT_MS - performance.now()))
}

function plan(ms: number): void {
  clearTimeout(timer)
  timer = setTimeout(beat, ms)
}

function beat(): void {
  lastMs = performance.now()
  let isCalm = isTold()
  for (const one of acts) {
    // What is due before the next beat may have come half a beat later.
    if (lastMs < one.dueMs - BEAT_MS / 2) continue
    one.dueMs = lastMs + one.everyMs
    if (one.act() === false) isCalm = false
  }
  if (acts.size > 0) plan(isCalm ? SELDOM_MS : BEAT_MS)
}
