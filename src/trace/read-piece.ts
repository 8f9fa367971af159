// Reads a file or pipe for who cannot wait for events.

import { readSync } from 'node:fs'
import { SnapswitchError } from '../errors/errors.js'

/** Until there is more in a pipe that whoever made it has made non-blocking. */
const LOOK_MS = 5

/** At most so many bytes, those that are there; none at the end. `name`: for TRACE_UNREADABLE, which it throws. */
export function readPiece(fd: number, most: number, name: string): Uint8Array {
  const piece = new Uint8Array(most)
  for (;;) {
    try {
      return piece.subarray(0, readSync(fd, piece, 0, most, null))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw unreadable(name, error)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK_MS)
    }
  }
}

export function unreadable(name: string, error: unknown): SnapswitchError {
  return new SnapswitchError(
    'TRACE_UNREADABLE',
    `${name} cannot be read: ${(error as Error).message}`,
    'Check the path and its permissions.',
    error,
  )
}
