// Pre-copy for a machine that cannot be saved in the background: QEMU writes its memory while it runs, ahead of its
// cut, and is held shortly before the end of that first pass. Behind the cut come the rest of the pass, and the pages
// that the guest has written to since: milliseconds for most, where the whole of memory takes seconds.
//
// QEMU ends a migration by itself as soon as little is left to send, and stops the guest for it (migration.c,
// migration_iteration_run). It must not come that far before the cut. So its thread is held within the pass, at a pipe
// that is full. A page of zeros is nine bytes in the stream. QEMU may still write as much as the pipe holds, and the
// writer may have read as much last: with more pages to go than both can hold, a thousand are left for certain. QEMU
// takes that for little where it can send them in its `downtime-limit` of a millisecond (qemu-migration-settings.ts),
// which would be 4 GiB a second, by way of a pipe of 16 KiB.
//
// QEMU's thread has locks while it writes, if not the big one (ram.c, ram_save_iterate: RCU, bitmap_mutex), and
// whatever waits for those waits for the cut. So a QEMU that is held is watched.

import { storeError } from '../../files/durable.js'
import { aborted } from '../../runtime/aborted.js'
import type { CaptureMode, Deadline } from '../hypervisor.js'
import { by, deadlinePassed, remaining, within } from './deadline.js'
import type { ImageSink } from './image-writer.js'

const zeroPageBytes = 9
/** Pages that are left for certain. */
const leastPages = 1024
/** A pipe that holds more than this, as pipes do where pages are large, would leave too much for the cut. */
const mostPipeBytes = 64 * 1024
/** Of the time that is left, what the pass may take. */
const share = 0.8

/** How often a QEMU that is held is looked at, and how long it may take to answer. */
const lookMs = 500
const answerMs = 2000
/** How long a QEMU that is called off is listened to. It may not hear it before the pipe is read on. */
export const cancelMs = 100

/** How a machine is saved, `obstacle` being why it cannot be in the background, and `atBest` what is wanted. Pure. */
export function captureModeFor(obstacle: string | null, atBest: CaptureMode, isRunning: boolean): CaptureMode {
  if (obstacle === null) return 'background'
  return atBest === 'stopped' || !isRunning ? 'stopped' : 'precopy'
}

/** Why, in words for its user, where it is not by an obstacle. */
export const notInBackground = (atBest: 'precopy' | 'stopped'): string =>
  atBest === 'precopy' ? 'most of its memory shall be saved ahead of its cut' : 'it shall be saved standing still'

/** A migration that has been told to begin. */
export interface Ahead {
  readonly machine: string
  readonly sink: ImageSink
  /** Resolves when it has ended. */
  readonly end: Promise<unknown>
  /** The guest's run state. */
  readonly state: (deadline: Deadline) => Promise<string>
  /** Aborted when the snapshot is called off. */
  readonly calledOff?: AbortSignal | undefined
}

/**
 * Waits until the migration is held, and watches it from then on: one that QEMU does not answer in is broken off.
 * Returns false when it has ended, or cannot be held. Throws STORE_FULL, STORE_IO, DEADLINE, and the signal's reason.
 */
export async function sendAhead(ahead: Ahead, deadline: Deadline): Promise<boolean> {
  const { machine, sink, end, calledOff } = ahead
  if (sink.capacity > mostPipeBytes) return false
  const spare = Math.ceil((2 * sink.capacity) / zeroPageBytes) + leastPages
  const held = sink.sendAhead(spare).catch((error) => {
    throw storeError(`cannot write ${sink.file}`, error)
  })
  const off = calledOff === undefined ? [] : [aborted(calledOff)]
  const limit = within(remaining(deadline) * share)
  const late = () => deadlinePassed(`Saving the memory of ${machine} ahead of its cut`)
  if (!(await by(limit, Promise.race([held, end.then(() => false), ...off]), late))) return false
  if (!(await answers(ahead, deadline))) return false
  void watch(ahead)
  return true
}

/** A QEMU that had come to the migration's end would stand at the pipe with its big lock held, its guest stopped. */
async function answers({ state }: Ahead, deadline: Deadline): Promise<boolean> {
  const found = await state(within(answerMs, deadline)).catch(() => null)
  return found !== null && found !== 'finish-migrate' && found !== 'postmigrate'
}

async function watch(ahead: Ahead): Promise<void> {
  const { sink } = ahead
  while (sink.isAhead) {
    await new Promise((resolve) => setTimeout(resolve, lookMs).unref())
    if (sink.isAhead && !(await answers(ahead, Number.POSITIVE_INFINITY))) sink.breakOff()
  }
}
