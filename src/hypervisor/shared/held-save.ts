// A background save that is started ahead of the pause and held at the image's gate (image-writer.ts), where it has
// done all of its slow work but the guest's own state.

import type { Deadline } from '../hypervisor.js'
import { pauseFor, remaining, within } from './deadline.js'
import { type ProcessIdentity, waitsForPipe } from './process.js'

/**
 * Whether the migration may be started ahead and held at the gate. QEMU writes the stream's head without holding its
 * big lock up to 8.1; from 8.2 on it holds it (since "migration: hold the BQL during setup"), and would stand still.
 */
export function canHoldAtGate({ major, minor }: { readonly major: number; readonly minor: number }): boolean {
  return major < 8 || (major === 8 && minor < 2)
}

/** Waits until a migration stands at the gate. `answers` rejects when QEMU itself stands still there. */
export async function standsAtGate(
  process: ProcessIdentity | null,
  answers: (deadline: Deadline) => Promise<unknown>,
  deadline: Deadline,
): Promise<void> {
  await answers(within(2000, deadline))
  const limit = within(1000, deadline)
  while (remaining(limit) > 0) {
    const waits = process === null ? null : waitsForPipe(process.pid)
    if (waits === true) return
    await pauseFor(waits === null ? 50 : 2, limit)
    if (waits === null) return
  }
}
