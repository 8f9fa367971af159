// The JavaScript engine around a cut: it must neither collect garbage nor compile while guests stand still, nor wait
// for threads of its own that get no core. Measured: the first snapshot of a daemon met 15 ms of incremental marking
// between its first gate and its last; and a collection of young objects, a millisecond's work, took 21 ms, because the
// engine's helper threads are ordinary ones and had begun a part of it when those of the cut went ahead
// (src/linux/priority.ts).

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * Where Node would open its inspector, were it asked to: an address of the discard-only block (RFC 6666), which no host
 * has. Node opens it for any SIGUSR1 that comes before a listener of ours is there, on 127.0.0.1 unless it is told
 * otherwise, and whoever reaches it commands the process. `--disable-sigusr1` says the same better, but Node 20 knows
 * no such flag.
 */
export const NO_INSPECTOR = '--inspect-port=[100::1]:9229'

/**
 * What Node is told when a process starts, in bin/snapswitch; later is too late. To V8 (`node --v8-options`): whoever
 * collects does all of it, and functions that have not run for a while stay compiled.
 */
export const ENGINE_FLAGS: readonly string[] = ['--single-threaded-gc', '--no-flush-bytecode', NO_INSPECTOR]

/** Those that this process was started without. */
export function missingFlags(): string[] {
  return ENGINE_FLAGS.filter((flag) => !process.execArgv.includes(flag))
}

let collect: (() => void) | null = null

/**
 * Collects all garbage of the calling thread now, some milliseconds, so that the engine has no reason to soon
 * afterwards.
 */
export function collectGarbage(): void {
  if (collect === null) {
    setFlagsFromString('--expose-gc')
    // A context that is made from now on has it; the flag is not for the others.
    collect = runInNewContext('gc') as () => void
    setFlagsFromString('--no-expose-gc')
  }
  collect()
}
