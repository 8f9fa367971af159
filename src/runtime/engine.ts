// The JavaScript engine around a cut: it must neither collect garbage nor compile while guests stand still. Measured: the
// first snapshot of a daemon met 15 ms of incremental marking between its first gate and its last.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Functions that have not run for a while stay compiled. Call once, when a process starts. */
export function keepCompiled(): void {
  setFlagsFromString('--no-flush-bytecode')
}

let collect: (() => void) | null = null

/** Collects all garbage of the calling thread now, some milliseconds, so that the engine has no reason to soon afterwards. */
export function collectGarbage(): void {
  if (collect === null) {
    setFlagsFromString('--expose-gc')
    // A context that is made from now on has it; the flag is not for the others.
    collect = runInNewContext('gc') as () => void
    setFlagsFromString('--no-expose-gc')
  }
  collect()
}
