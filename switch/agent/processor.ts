// The daemon's share of its host's cores and memory, as snapshots and restores see it.

import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { runAhead } from '../../src/linux/priority.js'
import { collectGarbage } from '../../src/runtime/engine.js'
import type { Processor } from './host.js'

export function createProcessor(): Processor {
  return {
    cores: availableParallelism(),
    runAhead: (threads, limitMs) => runAhead(threads, 'switch', limitMs),
    collectGarbage,
    availableMemory,
  }
}

/** Bytes; null where the kernel does not tell. */
function availableMemory(): number | null {
  const text = readFileSync('/proc/meminfo', 'latin1')
  const of = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN) * 1024
  const available = of('MemAvailable') + of('SwapFree')
  return Number.isNaN(available) ? null : available
}
