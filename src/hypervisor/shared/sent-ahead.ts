// Pre-copy for a machine that cannot be saved in the background: QEMU writes its memory while it runs, ahead of its
// cut, and is held shortly before the end of that first pass. Behind the cut come the rest of the pass, and the pages
// that the guest has written to since: milliseconds for most, where the whole of memory takes seconds.
//
// QEMU ends a migration by itself as soon as a pass leaves little behind, and stops the guest for it (migration.c,
// migration_iteration_run). It must not come that far before the cut. So its thread is held within the pass, at a pipe
// that is full. A page of zeros is nine bytes in the stream. What QEMU may still write is the pipe's content, and what
// the writer has read last may be as much: with more pages to go than both can hold, some are left for certain.

import type { CaptureMode, Deadline } from '../hypervisor.js'
import { remaining } from './deadline.js'
import type { ImageSink } from './image-writer.js'
import { aheadBytes } from './image-writer-protocol.js'

const zeroPageBytes = 9
/** Pages that are left of the first pass. */
const sparePages = Math.ceil((2 * aheadBytes) / zeroPageBytes) + 256
/** Of the time that is left, what the pass may take. A machine that is not done then is saved standing still. */
const share = 1 / 2

/** How a machine is saved, `obstacle` being why it cannot be in the background, and `atBest` what is wanted. Pure. */
export function captureModeFor(obstacle: string | null, atBest: CaptureMode, isRunning: boolean): CaptureMode {
  if (obstacle === null) return 'background'
  return atBest === 'stopped' || !isRunning ? 'stopped' : 'precopy'
}

/** Why, in words for its user, where it is not by an obstacle. */
export const notInBackground = (atBest: 'precopy' | 'stopped'): string =>
  atBest === 'precopy' ? 'most of its memory shall be saved ahead of its cut' : 'it shall be saved standing still'

/**
 * Waits until a migration that has been told to begin is held. `end` resolves when the migration has ended. Returns
 * whether it is held; rejects when the image cannot be written.
 */
export async function sendAhead(sink: ImageSink, end: Promise<unknown>, deadline: Deadline): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), remaining(deadline) * share)
  })
  try {
    return await Promise.race([sink.sendAhead(sparePages), end.then(() => false), late])
  } finally {
    clearTimeout(timer)
  }
}
