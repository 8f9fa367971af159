// Unpacks a stream that is compressed, as its first bytes tell. What was unpacked before damage is given out, and then
// the damage is told. Memory is bounded: little is unpacked at a time, however well it was packed.

import { createGunzip } from 'node:zlib'
import { SnapswitchError } from '../errors/errors.js'
import { Unzstd } from '../linux/zstd.js'
import { damaged, unsupported } from './input.js'

const GZIP = [0x1f, 0x8b]
const ZSTD = [0x28, 0xb5, 0x2f, 0xfd]
/** Bytes unpacked at once: gzip makes at most 1032 times as much of them. */
const SLICE = 16 * 1024
const OUTPUT = 256 * 1024

type Chunks = AsyncIterable<Uint8Array>

/** By the first bytes of a file, four of them where it has as many. */
export function isCompressed(head: Uint8Array): boolean {
  return startsWith(head, GZIP) || startsWith(head, ZSTD)
}

export async function* decompressed(chunks: Chunks): AsyncGenerator<Uint8Array, void, undefined> {
  const iterator = chunks[Symbol.asyncIterator]()
  try {
    let head: Uint8Array = new Uint8Array(0)
    let isDone = false
    while (head.length < ZSTD.length && !isDone) {
      const { value, done } = await iterator.next()
      if (done === true) isDone = true
      else head = head.length === 0 ? value : Buffer.concat([head, value])
    }
    const rest = withHead(head, iterator)
    if (startsWith(head, GZIP)) yield* gunzipped(rest)
    else if (startsWith(head, ZSTD)) yield* unzstd(rest)
    else yield* rest
  } finally {
    await iterator.return?.()
  }
}

async function* withHead(
  head: Uint8Array,
  iterator: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (head.length > 0) yield head
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value
}

function startsWith(bytes: Uint8Array, start: readonly number[]): boolean {
  return start.every((byte, at) => bytes[at] === byte)
}

/**
 * By events: a stream that is iterated over drops what it has not given out yet when an error comes. The end of a file
 * that was cut short is no error here; the trace's reader sees it.
 */
async function* gunzipped(chunks: Chunks): AsyncGenerator<Uint8Array, void, undefined> {
  const gunzip = createGunzip({ chunkSize: OUTPUT, finishFlush: 2 })
  let ready: Uint8Array[] = []
  let failure: Error | null = null
  let wake: (() => void) | null = null
  let total = 0
  gunzip.on('data', (data: Uint8Array) => {
    ready.push(data)
    total += data.length
  })
  const settled = (): void => wake?.()
  gunzip.on('error', (error) => {
    failure = error
    settled()
  })
  gunzip.on('end', settled)
  const step = (act: () => void): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve
      act()
    })
  function* taken(): Generator<Uint8Array, void, undefined> {
    const pieces = ready
    ready = []
    yield* pieces
    if (failure !== null) throw damagedAfter(total, failure)
  }
  try {
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; at += SLICE) {
        await step(() => gunzip.write(chunk.subarray(at, at + SLICE), settled))
        yield* taken()
      }
    }
    await step(() => gunzip.end())
    yield* taken()
  } finally {
    gunzip.destroy()
  }
}

async function* unzstd(chunks: Chunks): AsyncGenerator<Uint8Array, void, undefined> {
  let unpacker: Unzstd
  try {
    unpacker = new Unzstd()
  } catch {
    throw unsupported(
      'the file is compressed with zstd, and there is no libzstd',
      'Install libzstd1, or unpack it first.',
    )
  }
  let total = 0
  try {
    for await (const chunk of chunks) {
      for (const piece of unpacker.unpack(chunk)) {
        total += piece.length
        yield piece
      }
    }
  } catch (cause) {
    throw cause instanceof SnapswitchError ? cause : damagedAfter(total, cause)
  } finally {
    unpacker.close()
  }
}

function damagedAfter(total: number, cause: unknown): SnapswitchError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  return damaged(total, `the compressed data are damaged: ${reason}`, cause)
}
