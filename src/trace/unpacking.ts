// Unpacks a compressed file for a reader that cannot wait for events: another thread unpacks, some pieces ahead, and
// this one sleeps until the next piece is there. Memory is bounded by those pieces, whatever the file's size.

import { closeSync } from 'node:fs'
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { SnapswitchError } from '../errors/errors.js'
import { type Unpacked, type UnpackingInput, Word } from './unpacking-messages.js'

const STDIN = 0
/** Longer than any disk takes. */
const PATIENCE_MS = 600_000

/** Takes `fd` over. Throws what unpacking throws, once what comes before has been given out. */
export function* unpacked(fd: number, head: Uint8Array): Generator<Uint8Array, void, undefined> {
  const { port1, port2 } = new MessageChannel()
  const words = new Int32Array(new SharedArrayBuffer(8))
  const input: UnpackingInput = { fd, head, port: port2, words }
  const url = new URL('./unpacking-worker.js', import.meta.url)
  const worker = new Worker(url, { workerData: input, transferList: [port2], name: 'unpacking' })
  worker.unref()
  // Only when the thread has gone does nobody read from it any more.
  worker.once('exit', () => fd === STDIN || closeSync(fd))
  try {
    for (let seen = 0; ; ) {
      const received = receiveMessageOnPort(port1) as { message: Unpacked } | undefined
      if (received === undefined) {
        if (Atomics.wait(words, Word.PIECES, seen, PATIENCE_MS) === 'timed-out') throw silent()
        seen = Atomics.load(words, Word.PIECES)
        continue
      }
      const { message } = received
      if (message.kind === 'end') {
        if (message.error !== null) throw SnapswitchError.fromReport(message.error)
        return
      }
      yield message.bytes
      Atomics.add(words, Word.TAKEN, 1)
      Atomics.notify(words, Word.TAKEN)
    }
  } finally {
    port1.close()
    void worker.terminate()
  }
}

function silent(): SnapswitchError {
  return new SnapswitchError('TRACE_UNREADABLE', 'nothing more comes of the file', 'Unpack it first.')
}
