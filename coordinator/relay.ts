// A file's bytes on their way from one host to another, through the coordinator: counted, and given up when nothing
// moves. No more of a file is ever in memory than the streams' buffers hold.

import { type Readable, Transform } from 'node:stream'
import type { SwitchClient } from '../src/api/switch-client.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { Transfer } from './sequence/restore/plan.js'
import { onHost } from './sequence/table.js'

/** A transfer of which nothing has moved for so long is given up. */
export const stalledAfterMs = 10_000
const lookEveryMs = 250

export interface RelayOptions {
  readonly network: string
  readonly snapshot: string
  readonly source: Pick<SwitchClient, 'downloadFile'>
  readonly target: Pick<SwitchClient, 'uploadFile'>
  /** Milliseconds until it must be done. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
  /** Told how many bytes more have gone through. */
  readonly onBytes: (bytes: number) => void
  readonly stalledAfterMs?: number
}

/** Rejects with an error that names the host it is about. */
export async function relay({ file, from, to }: Transfer, options: RelayOptions): Promise<void> {
  const { network, snapshot, source, target, onBytes } = options
  const calledOff = new AbortController()
  const abort = () => calledOff.abort()
  options.signal?.addEventListener('abort', abort, { once: true })
  if (options.signal?.aborted === true) abort()
  const call = { deadlineMs: options.timeoutMs, signal: calledOff.signal }
  let bytes = 0
  let body: Readable | null = null
  let sourceFailed: unknown = null
  const counting = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      bytes += chunk.length
      onBytes(chunk.length)
      done(null, chunk)
    },
  })
  const stalled = watch(options.stalledAfterMs ?? stalledAfterMs, () => ({
    bytes,
    // When all is under way the receiver makes it durable, which takes as long as its disk does.
    over: bytes >= file.bytes,
  }))
  stalled.then(abort, () => undefined)
  try {
    body = await source.downloadFile(network, snapshot, file.digest, call)
    body.once('error', (error) => {
      sourceFailed ??= error
      counting.destroy(error)
    })
    counting.on('error', () => {})
    body.pipe(counting)
    await target.uploadFile(network, snapshot, file, counting, call)
  } catch (thrown) {
    if (stalled.happened()) {
      const waits = body !== null && counting.writableNeedDrain ? to : from
      const does = waits === from ? 'sends' : 'takes'
      throw new SnapswitchError(
        'DEADLINE',
        `host ${waits} ${does} nothing more of ${file.path} (${bytes} of ${file.bytes} bytes went from host ${from} to host ${to})`,
        `Look at host ${waits}: its disk, its switch, and the link to it; then restore again.`,
        thrown,
      )
    }
    throw blamed(thrown, body === null || sourceFailed !== null)
  } finally {
    stalled.end()
    options.signal?.removeEventListener('abort', abort)
    body?.on('error', () => {}).destroy()
    counting.destroy()
  }

  function blamed(thrown: unknown, isSource: boolean): SnapswitchError {
    const error = asSnapswitchError(thrown)
    if (isSource) return SnapswitchError.fromReport(onHost(from, asSnapswitchError(sourceFailed ?? thrown).report()))
    // The receiver has counted and digested what came.
    if (error.code === 'STORE_DAMAGED') {
      const message = `what host ${from} sent for ${file.path} is not that file any more`
      return new SnapswitchError('STORE_DAMAGED', message, error.action, error)
    }
    return SnapswitchError.fromReport(onHost(to, error.report()))
  }
}

interface Watch extends Promise<void> {
  happened(): boolean
  end(): void
}

/** Resolves when nothing has moved for `ms`; `end` lets go of it. */
function watch(ms: number, look: () => { readonly bytes: number; readonly over: boolean }): Watch {
  let happened = false
  let timer: NodeJS.Timeout | undefined
  let seen = -1
  let since = performance.now()
  const promise = new Promise<void>((resolve) => {
    timer = setInterval(
      () => {
        const { bytes, over } = look()
        const now = performance.now()
        if (over || bytes !== seen) since = now
        seen = bytes
        if (now - since < ms) return
        happened = true
        clearInterval(timer)
        resolve()
      },
      Math.min(lookEveryMs, ms),
    )
  })
  return Object.assign(promise, { happened: () => happened, end: () => clearInterval(timer) })
}
