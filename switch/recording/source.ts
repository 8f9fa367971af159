// The bytes of a recording from a path, compressed with gzip or zstd or not, a piece at a time.

import { closeSync, openSync } from 'node:fs'
import { isCompressed } from '../../src/trace/compression.js'
import { readPiece, unreadable } from '../../src/trace/read-piece.js'
import { unpacked } from '../../src/trace/unpacking.js'

const PIECE = 1024 * 1024
const STDIN = 0

/** Throws TRACE_UNREADABLE, TRACE_INVALID. `path` -: standard input. */
export function* piecesOf(path: string): Generator<Uint8Array, void, undefined> {
  const name = path === '-' ? 'the input' : path
  const fd = path === '-' ? STDIN : opened(path)
  let isOurs = fd !== STDIN
  try {
    for (let isFirst = true; ; isFirst = false) {
      const piece = readPiece(fd, PIECE, name)
      if (piece.length === 0) return
      if (isFirst && isCompressed(piece)) {
        isOurs = false
        yield* unpacked(fd, piece)
        return
      }
      yield piece
    }
  } finally {
    if (isOurs) closeSync(fd)
  }
}

function opened(path: string): number {
  try {
    return openSync(path, 'r')
  } catch (error) {
    throw unreadable(path, error)
  }
}
