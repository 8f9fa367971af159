// A background save that is started ahead of the pause and held at the image's gate (image-writer.ts), where it has
// done all of its slow work but the guest's own state.

import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining, within } from './deadline.js'
import { type ProcessIdentity, waitsForPipe } from './process.js'
import type { Qmp } from './qmp.js'
import { runState } from './run-state.js'

/**
 * Run states of a guest that stopped by itself, and from which nothing leads to `paused` but running (runstate.c,
 * runstate_transitions_def). Behind the gate QEMU stops the guest for its save, and aborts when it finds one of these.
 */
const deadEnds = new Set(['io-error', 'watchdog', 'guest-panicked', 'debug', 'prelaunch', 'restore-vm'])

/**
 * Whether the migration may be started ahead and held at the gate. QEMU writes the stream's head without holding its
 * big lock up to 8.1; from 8.2 on it holds it (since "migration: hold the BQL during setup"), and would stand still.
 */
export function canHoldAtGate({ major, minor }: { readonly major: number; readonly minor: number }): boolean {
  return major < 8 || (major === 8 && minor < 2)
}

/** Reading a byte of each page, which is mapped already (mapped-memory.ts): a cache miss each. */
const readMsPerGiB = 100

/** Waits until a migration stands at the gate. `answers` rejects when QEMU itself stands still there. */
export async function standsAtGate(
  process: ProcessIdentity | null,
  memoryBytes: number,
  answers: (deadline: Deadline) => Promise<unknown>,
  deadline: Deadline,
): Promise<void> {
  await answers(within(2000, deadline))
  const limit = within(1000 + (memoryBytes / 2 ** 30) * readMsPerGiB, deadline)
  while (remaining(limit) > 0) {
    const waits = process === null ? null : waitsForPipe(process.pid)
    if (waits === true) return
    await pauseFor(waits === null ? 50 : 2, limit)
    if (waits === null) return
  }
}

/**
 * To be called before the gate is opened. A guest that has stopped by itself since the save was started becomes a
 * paused one. Returns its state before; null when it had not stopped by itself.
 */
export async function makeFitForGate(qmp: Pick<Qmp, 'execute' | 'executeAll'>, deadline: Deadline) {
  let found: string | null = null
  for (;;) {
    const status = await runState(qmp, deadline)
    if (!deadEnds.has(status)) return found
    if (remaining(deadline) === 0) throw deadlinePassed('Pausing a guest that has stopped by itself')
    found ??= status
    // In one write: it barely runs. One whose disk is full may stop between the two, and is asked again.
    const commands = [
      ['cont', {}],
      ['stop', {}],
    ] as const
    await Promise.all(qmp.executeAll(commands, deadline))
  }
}

const ends = new Set(['watchdog', 'guest-panicked', 'debug', 'restore-vm', 'internal-error', 'shutdown'])

/**
 * Whether a guest that has come to this run state by itself stays there when its capture is undone. One whose disk had
 * no room is told to go on: there may be room now.
 */
export const staysStopped = (state: string | null | undefined): boolean => ends.has(state ?? '')
