// Lets a machine run that a daemon has paused and cannot run any more, because it is dead. Part of the process that
// outlives the daemon (image-writer-process.ts). QEMU serves one client a socket: the daemon's end made room for this
// one.

import { pauseFor, remaining, within } from './deadline.js'
import { QmpClient } from './qmp.js'
import { isObject } from './qmp-messages.js'

/** As long as a save that stops its guest may take to its end. */
const patienceMs = 120_000

/** Tells the machine to go on once no save holds it any more. Never throws: nobody is left to hear it. */
export async function runPaused(socket: string): Promise<void> {
  const deadline = within(patienceMs)
  try {
    const qmp = await QmpClient.connect(socket, deadline)
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
