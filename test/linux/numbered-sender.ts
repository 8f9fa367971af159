// A thread that sends numbered frames from a device as fast as it can, until it is told to stop; its last word is how
// many those were. A few at a time, for a receiver's buffer to hold them.

import { parentPort, workerData } from 'node:worker_threads'
import { libc } from '../../src/linux/libc.js'
import { experimentalFrame, packetSocket, send } from './wire.js'

export interface Sender {
  readonly index: number
  /** One word: not 0, stop. */
  readonly stop: SharedArrayBuffer
  readonly pauseMs: number
}

/** Where a frame has its number, behind the virtio-net header. */
export const NUMBER_AT = 20

if (parentPort !== null) {
  const { index, stop, pauseMs } = workerData as Sender
  const word = new Int32Array(stop)
  const fd = packetSocket(index)
  const frame = experimentalFrame()
  const view = new DataView(frame.buffer)
  let sent = 0
  while (Atomics.load(word, 0) === 0) {
    for (let burst = 0; burst < 20; burst++) {
      view.setUint32(10 + NUMBER_AT, sent)
      if (send(fd, frame)) sent++
    }
    Atomics.wait(word, 0, 0, pauseMs)
  }
  libc().close(fd)
  parentPort.postMessage(sent)
}
