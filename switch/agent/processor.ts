// The daemon's share of its host's cores and memory, as snapshots and restores see it.

import { availableParallelism } from 'node:os'
import { availableWithSwapBytes } from '../../src/linux/memory.js'
import { runAhead } from '../../src/linux/priority.js'
import { collectGarbage } from '../../src/runtime/engine.js'
import type { Processor } from './host.js'

export function createProcessor(): Processor {
  return {
    cores: availableParallelism(),
    runAhead: (threads, limitMs) => runAhead(threads, 'switch', limitMs),
    collectGarbage,
    availableMemory: availableWithSwapBytes,
  }
}
