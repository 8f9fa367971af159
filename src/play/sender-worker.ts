// The thread that sends a play's frames: ahead of ordinary processes, as the switch's own.

import { parentPort, workerData } from 'node:worker_threads'
import { raisePriority, runRealtime } from '../linux/priority.js'
import { Sender, type SenderInput } from './sender.js'

if (parentPort !== null) {
  const { realtime, ...input } = workerData as SenderInput & { readonly realtime: boolean }
  raisePriority()
  const sender = new Sender(input)
  parentPort.postMessage({ realtime: realtime && runRealtime() })
  sender.run()
}
