// The datapath thread: its loop, with the control thread at the other end of its message port.

import { parentPort, workerData } from 'node:worker_threads'
import { asSnapswitchError } from '../../src/errors/errors.js'
import { ownThread, raisePriority } from '../../src/linux/priority.js'
import { CommandHandlers, post } from './commands.js'
import type { WorkerInput } from './protocol.js'

if (parentPort !== null) {
  raisePriority()
  const handlers = begin(workerData as WorkerInput)
  handlers?.run()
}

/** null: it cannot, as has been said. */
function begin(input: WorkerInput): CommandHandlers | null {
  try {
    const handlers = new CommandHandlers(input)
    post({ kind: 'ready', thread: ownThread() })
    return handlers
  } catch (thrown) {
    post({ kind: 'unable', error: asSnapswitchError(thrown).report() })
    // Nothing else is asked of it.
    parentPort?.close()
    return null
  }
}
