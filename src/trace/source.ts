// A trace from a path or a pipe, compressed with gzip or not:
//
//   for await (const cursor of openTrace(path)) {         // '-': standard input; a Readable is taken, too
//     for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
//       if (kind === 'packet') use(cursor.packet)
//     }
//   }
//
// The cursor comes once for each piece that was read; the inner loop has to run until null (or leave the outer one).

import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { SnapswitchError } from '../errors/errors.js'
import { decompressed } from './compression.js'
import { type CursorOptions, TraceCursor } from './cursor.js'

const CHUNK = 1024 * 1024

/**
 * @throws SnapswitchError TRACE_INVALID at damage, once what comes before has been given out; TRACE_UNSUPPORTED;
 *   TRACE_UNREADABLE
 */
export async function* openTrace(
  source: string | Readable,
  options: CursorOptions = {},
): AsyncGenerator<TraceCursor, void, undefined> {
  const cursor = new TraceCursor(options)
  for await (const chunk of decompressed(chunksOf(source))) {
    cursor.push(chunk)
    yield cursor
  }
  cursor.end()
}

async function* chunksOf(source: string | Readable): AsyncGenerator<Uint8Array, void, undefined> {
  const stream = typeof source !== 'string' ? source : source === '-' ? process.stdin : fileStream(source)
  const name = typeof source !== 'string' || source === '-' ? 'the input' : source
  try {
    for await (const chunk of stream) yield chunk as Uint8Array
  } catch (cause) {
    throw new SnapswitchError(
      'TRACE_UNREADABLE',
      `${name} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
      'Check the path and its permissions.',
      cause,
    )
  }
}

function fileStream(path: string): Readable {
  return createReadStream(path, { highWaterMark: CHUNK })
}
