// Loaded into a daemon by `node --import`, by tests only: SIGUSR2 breaks its datapath worker. The worker is sent
// something that is no command, which it cannot but fail on, as it would on a defect.

import { syncBuiltinESMExports } from 'node:module'
import threads from 'node:worker_threads'

class BreakableWorker extends threads.Worker {
  constructor(...args: ConstructorParameters<typeof threads.Worker>) {
    super(...args)
    const crash = () => this.postMessage(null)
    process.on('SIGUSR2', crash)
    this.once('exit', () => process.off('SIGUSR2', crash))
  }
}

threads.Worker = BreakableWorker
syncBuiltinESMExports()
