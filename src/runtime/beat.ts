// For what looks at something ten times a second: all of it in one go. Waking a process costs more than such a look.

const BEAT_MS = 100

const acts = new Set<() => void>()
let timer: NodeJS.Timeout | undefined

/** Calls `act` at each beat, until the answer is called. */
export function onBeat(act: () => void): () => void {
  acts.add(act)
  timer ??= setInterval(() => {
    for (const one of acts) one()
  }, BEAT_MS)
  return () => {
    acts.delete(act)
    if (acts.size > 0) return
    clearInterval(timer)
    timer = undefined
  }
}
