// The datapath thread: its loop, with the control thread at the other end of its message port.

import { parentPort, workerData } from 'node:worker_threads'
import { ownThread, raisePriority } from '../../src/linux/priority.js'
import { CommandHandlers, post } from './commands.js'
import type { WorkerInput } from './protocol.js'

if (parentPort !== null) {
  raisePriority()
  const handlers = new CommandHandlers(workerData as WorkerInput)
  post({ kind: 'ready', thread: ownThread() })
  handlers.run()
}
