// The bytes of a recording from a path, packed with gzip or not, a piece at a time.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { SnapswitchError } from '../../src/errors/errors.js'

const PIECE = 1024 * 1024
const GZIP = [0x1f, 0x8b]
/** Of what was packed. */
const MOST_UNPACKED = 2 ** 31 - 1

/** Throws TRACE_UNREADABLE, TRACE_INVALID. `path` -: standard input. */
export function* piecesOf(path: string): Generator<Uint8Array, void, undefined> {
  const fd = attempt(path, () => (path === '-' ? 0 : openSync(path, 'r')))
  try {
    for (let isFirst = true; ; isFirst = false) {
      const piece = new Uint8Array(PIECE)
      const length = attempt(path, () => readSync(fd, piece, 0, PIECE, null))
      if (length === 0) return
      if (isFirst && GZIP.every((byte, at) => piece[at] === byte)) {
        const rest = length < PIECE ? [] : [attempt(path, () => readFileSync(fd))]
        yield unpacked(Buffer.concat([piece.subarray(0, length), ...rest]))
        return
      }
      yield piece.subarray(0, length)
    }
  } finally {
    if (fd !== 0) closeSync(fd)
  }
}

function attempt<T>(path: string, act: () => T): T {
  try {
    return act()
  } catch (error) {
    throw new SnapswitchError(
      'TRACE_UNREADABLE',
      `${path === '-' ? 'the input' : path} cannot be read: ${(error as Error).message}`,
      'Check the path and its permissions.',
      error,
    )
  }
}

function unpacked(packed: Uint8Array): Uint8Array {
  try {
    // One that was cut short is unpacked as far as it goes (Z_SYNC_FLUSH).
    return gunzipSync(packed, { finishFlush: 2, maxOutputLength: MOST_UNPACKED })
  } catch (error) {
    throw new SnapswitchError(
      'TRACE_INVALID',
      `the compressed data are damaged: ${(error as Error).message}`,
      'Check that the file was copied whole; gunzip may save some of it.',
      error,
    )
  }
}
