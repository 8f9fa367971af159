// Lets a machine run that a daemon has paused and cannot run any more, because it is dead. Part of the process that
// outlives the daemon (image-writer-process.ts). QEMU serves one client a socket: the daemon's end made room for this
// one.

import type { Deadline } from '../hypervisor.js'
import { pauseFor, remaining } from './deadline.js'
import { QmpClient } from './qmp.js'
import { isObject } from './qmp-messages.js'
import { protectedMemory } from './run-on.js'

/**
 * Tells the machine to go on. `atGate`: its save stands at the gate meanwhile; otherwise that is waited for, see
 * `protectedMemory`. Never throws: nobody is left to hear it.
 */
export async function runPaused(socket: string, atGate: boolean, deadline: Deadline): Promise<void> {
  try {
    const qmp = await QmpClient.connect(socket, deadline)
    if (!atGate) await protectedMemory(qmp, deadline)
    while (remaining(deadline) > 0) {
      const answer = await qmp.execute('query-status', {}, deadline)
      const status = isObject(answer) ? answer.status : null
      if (status === 'paused' || status === 'postmigrate') await qmp.execute('cont', {}, deadline)
      else if (status !== 'finish-migrate') break
      await pauseFor(10, deadline)
    }
    qmp.close()
  } catch {
    // Another daemon has the socket, or the machine is gone.
  }
}
