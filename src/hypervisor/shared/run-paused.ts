// Lets a machine run that a daemon has paused and cannot run any more, because it is dead. Part of the process that
// outlives the daemon (image-writer-process.ts). QEMU serves one client a socket: the daemon's end made room for this
// one.

import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining } from './deadline.js'
import { makeFitForGate } from './held-save.js'
import { capabilities, isUnderWay, migrationStatus } from './qemu-migration.js'
import { type Qmp, QmpClient } from './qmp.js'
import { protectedMemory } from './run-on.js'
import { runState } from './run-state.js'

/**
 * Tells the machine to go on. `atGate`: its save stands at the gate meanwhile. Otherwise a save in the background is
 * waited for (`protectedMemory`), and one that keeps its guest paused is called off. Never throws: nobody is left to
 * hear it.
 */
export async function runPaused(socket: string, atGate: boolean, deadline: Deadline): Promise<void> {
  try {
    const qmp = await QmpClient.connect(socket, deadline)
    if (!atGate) {
      const isBehind = (await capabilities(qmp, deadline)).get('background-snapshot') === true
      await (isBehind ? protectedMemory : callOff)(qmp, deadline)
    }
    // One that had stopped by itself is paused now, and stays so until its save is through the gate.
    if (atGate && (await makeFitForGate(qmp, deadline)) !== null) return qmp.close()
    while (remaining(deadline) > 0) {
      const status = await runState(qmp, deadline)
      if (status === 'paused' || status === 'postmigrate') await qmp.execute('cont', {}, deadline)
      else if (status !== 'finish-migrate') break
      await pauseFor(10, deadline)
    }
    qmp.close()
  } catch {
    // Another daemon has the socket, or the machine is gone.
  }
}

/** Ends a save of a paused guest. At its end it would stop a guest that has been told to run before. */
async function callOff(qmp: Qmp, deadline: Deadline): Promise<void> {
  if (!isUnderWay(await migrationStatus(qmp, deadline))) return
  await qmp.execute('migrate_cancel', {}, deadline)
  while (isUnderWay(await migrationStatus(qmp, deadline))) {
    if (remaining(deadline) === 0) throw deadlinePassed('Calling a save off')
    await pauseFor(10, deadline)
  }
}
