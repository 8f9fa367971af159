// Pre-copy for a machine that cannot be saved in the background: QEMU writes its memory while it runs, ahead of its
// cut, and is held shortly before the end of that first pass. Behind the cut come the rest of the pass, and the pages
// that the guest has written to since: milliseconds for most, where the whole of memory takes seconds.
//
// QEMU ends a migration by itself as soon as little is left to send, and stops the guest for it (migration.c,
// migration_iteration_run). It must not come that far before the cut. So its thread is held within the pass, at a pipe
// that is full. A page of zeros is nine bytes in the stream. QEMU may still write as much as the pipe holds, and the
// writer may have read as much last: with more pages to go than both can hold, some 2,000 are left for certain. QEMU
// takes that for little where it can send them in its `downtime-limit` of a millisecond (qemu-migration-settings.ts),
// which would be 8 GiB a second, by way of a pipe of 16 KiB.

import { storeError } from '../../files/durable.js'
import type { CaptureMode, Deadline } from '../hypervisor.js'
import { remaining, within } from './deadline.js'
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
 * Waits until a migration that has been told to begin is held. `end` resolves when the migration has ended; `state`
 * asks for the guest's run state. Returns whether it is held, and the guest runs. Throws STORE_FULL or STORE_IO.
 */
export async function sendAhead(
  sink: ImageSink,
  end: Promise<unknown>,
  state: (deadline: Deadline) => Promise<string>,
  deadline: Deadline,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), remaining(deadline) * share)
  })
  try {
    const held = sink.sendAhead(sparePages).catch((error) => {
      throw storeError(`cannot write ${sink.file}`, error)
    })
    if (!(await Promise.race([held, end.then(() => false), late]))) return false
  } finally {
    clearTimeout(timer)
  }
  // A QEMU that had come to the migration's end would stand at the pipe with its big lock held, its guest stopped.
  const found = await state(within(answerMs, deadline)).catch(() => null)
  return found !== null && found !== 'finish-migrate' && found !== 'postmigrate'
}

/** How long a QEMU may take that is called off, or asked for its state, and does not answer while it holds its lock. */
export const answerMs = 1000
