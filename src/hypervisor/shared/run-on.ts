// The end of a background save's pause. QEMU up to 8.2 lets the guest run when its memory is write-protected, whatever
// ran before. Since 9.0 it puts back the run state from before the save ("migration: preserve suspended for
// bg_migration", migration.c, bg_migration_vm_start_bh). A machine that was paused for its cut stays paused then, and
// nothing says when it may run.

import { nowUs } from '../../runtime/clock.js'
import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining } from './deadline.js'
import { isUnderWay, migrationStatus } from './qemu-migration.js'
import type { Qmp } from './qmp.js'
import { isObject, type JsonObject } from './qmp-messages.js'

/** Whether a machine that is paused stays paused when it is saved in the background. */
export const staysPaused = ({ greeting }: Qmp): boolean => greeting.major >= 9

/**
 * Waits until the guest may run while it is saved: its devices are saved, and its memory is write-protected. QEMU
 * counts the first page only after both, and without its big lock. Also returns when the save has ended.
 *
 * Before that no `cont` may come to a guest that runs when its save leaves the gate (held-save.ts). The save stops it
 * by itself for a moment; a `cont` in that moment lets the guest run, and the save wait for its stop for ever (QEMU
 * 7.2, cpus.c, pause_all_vcpus).
 */
export async function protectedMemory(qmp: Pick<Qmp, 'execute'>, deadline: Deadline): Promise<void> {
  for (;;) {
    const status = await migrationStatus(qmp, deadline)
    if (countsPages(status) || !isUnderWay(status)) break
    if (remaining(deadline) === 0) throw deadlinePassed('Write-protecting the guest’s memory')
    await pauseFor(1, deadline)
  }
  // QEMU's main loop has put the run state back once it answers again: that was left to it before the first page.
  await qmp.execute('query-status', {}, deadline)
}

/** Lets a machine run on that is saved in the background and stays paused by itself. Returns since when, in us. */
export async function runOn(qmp: Qmp, wasRunning: boolean, deadline: Deadline): Promise<number> {
  await protectedMemory(qmp, deadline)
  return wasRunning ? cont(qmp, deadline) : nowUs()
}

/** Tells a machine to run. Returns since when it does, in microseconds. */
export async function cont(qmp: Pick<Qmp, 'execute' | 'onEvent'>, deadline: Deadline): Promise<number> {
  let runsSinceUs: number | null = null
  const stop = qmp.onEvent(({ name, atUs }) => {
    if (name === 'RESUME') runsSinceUs = atUs
  })
  try {
    await qmp.execute('cont', {}, deadline)
  } finally {
    stop()
  }
  return runsSinceUs ?? nowUs()
}

function countsPages({ ram }: JsonObject): boolean {
  if (!isObject(ram)) return false
  return [ram.normal, ram.duplicate].some((pages) => typeof pages === 'number' && pages > 0)
}
