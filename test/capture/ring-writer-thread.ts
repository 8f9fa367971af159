// A thread that writes numbered records of changing lengths into a ring as fast as it can.

import { workerData } from 'node:worker_threads'
import { RingWriter } from '../../switch/capture/record-ring.js'

const { memory, records, longest } = workerData as { memory: SharedArrayBuffer; records: number; longest: number }
const ring = new RingWriter(memory)
for (let i = 0; i < records; i++) {
  const length = 4 + ((i * 7919) % longest)
  const at = ring.reserve(length)
  if (at < 0) continue
  ring.words[at / 4] = i
  ring.bytes.fill(i & 0xff, at + 4, at + length)
  ring.publish()
}
