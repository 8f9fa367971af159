// The thread that sends a play's frames.

import { parentPort, workerData } from 'node:worker_threads'
import { runRealtime } from '../linux/priority.js'
import { Sender, type SenderInput } from './sender.js'

if (parentPort !== null) {
  const { realtime, ...input } = workerData as SenderInput & { readonly realtime: boolean }
  const sender = new Sender(input)
  parentPort.postMessage({ realtime: realtime && runRealtime() })
  sender.run()
}
