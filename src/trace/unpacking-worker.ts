// The thread that unpacks a file for another one (unpacking.ts).

import { parentPort, workerData } from 'node:worker_threads'
import { asSnapswitchError } from '../errors/errors.js'
import { decompressed } from './compression.js'
import { readPiece } from './read-piece.js'
import { type Unpacked, type UnpackingInput, Word } from './unpacking-messages.js'

const CHUNK = 256 * 1024
/** Pieces that wait to be taken. */
const AHEAD = 8

async function* chunksOf({ fd, head }: UnpackingInput): AsyncGenerator<Uint8Array, void, undefined> {
  yield head
  for (;;) {
    const chunk = readPiece(fd, CHUNK, 'the file')
    if (chunk.length === 0) return
    yield chunk
  }
}

async function unpack(input: UnpackingInput): Promise<void> {
  const { port, words } = input
  let given = 0
  const give = (message: Unpacked): void => {
    port.postMessage(message)
    given++
    Atomics.add(words, Word.PIECES, 1)
    Atomics.notify(words, Word.PIECES)
  }
  try {
    for await (const bytes of decompressed(chunksOf(input))) {
      for (let taken = Atomics.load(words, Word.TAKEN); given - taken >= AHEAD; taken = Atomics.load(words, Word.TAKEN))
        Atomics.wait(words, Word.TAKEN, taken)
      give({ kind: 'piece', bytes })
    }
    give({ kind: 'end', error: null })
  } catch (error) {
    give({ kind: 'end', error: asSnapswitchError(error).report() })
  }
}

if (parentPort !== null) void unpack(workerData as UnpackingInput)
