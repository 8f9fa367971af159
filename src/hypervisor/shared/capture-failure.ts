// Why a capture failed, in words that help.

import { statfs } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, remaining } from './deadline.js'
import { storeFull } from './qemu-overlays.js'

/** `lost`: the connection's own failure, if it has one; `log`: where the machine's hypervisor says more. */
export async function explainFailure(
  thrown: unknown,
  about: {
    readonly machine: string
    readonly file: string
    readonly lost: SnapswitchError | null
    readonly log: string
  },
  deadline: Deadline,
): Promise<SnapswitchError> {
  // Whoever has no room left may have stopped for it.
  if (thrown instanceof SnapswitchError && thrown.code === 'MACHINE_NOT_RUNNING') return thrown
  const directory = path.dirname(about.file)
  const code = (thrown as NodeJS.ErrnoException | null)?.code
  const space = await statfs(directory).catch(() => null)
  const full = space !== null && space.bavail * space.bsize < 1 << 20
  if (code === 'ENOSPC' || code === 'EDQUOT' || full) return storeFull(directory, thrown)
  if (about.lost !== null) return about.lost
  // Timers count whole milliseconds.
  if (remaining(deadline) <= 1) return deadlinePassed(`Saving ${about.machine}`)
  if (thrown instanceof SnapswitchError && thrown.code !== 'HYPERVISOR_REFUSED') return thrown
  return new SnapswitchError(
    'CAPTURE_FAILED',
    `${about.machine} could not be saved: ${thrown instanceof Error ? thrown.message : String(thrown)}`,
    `The machine runs on as before. See ${about.log} for the reason, then try again.`,
    thrown,
  )
}
