// Receives a machine's memory through a pipe, and writes and digests it in one pass, in a worker thread: sealing neither
// reads the file again nor holds up the thread that talks to hypervisors. One worker serves all captures.
//
// The pipe is also a gate. Filled to the brim beforehand, it stops QEMU's migration thread at its first write, after it has
// done its slow preparation and before it looks at the guest; emptying it lets the thread go on. Should this process die,
// the pipe breaks, the migration fails, and QEMU runs the guest on by itself.

import { Worker } from 'node:worker_threads'
import { SnapswitchError } from '../errors/errors.js'
import { check, libc } from '../linux/libc.js'
import { closeDescriptor, makePipe, resizePipe } from './descriptors.js'

/** Rounded up to a page by the kernel. */
const gateBytes = 4096
const streamBytes = 1 << 20

/** What the worker is told. It owns `readFd` from then on, and opens and closes `file` itself. */
export interface WriteOrder {
  readonly id: number
  readonly readFd: number
  readonly file: string
}

export interface WriteResult {
  readonly id: number
  readonly bytes: number
  readonly digest: string
  /** The failed call's errno name and text, or null. */
  readonly error: { readonly code: string; readonly message: string } | null
}

export interface WrittenImage {
  readonly bytes: number
  readonly digest: string
}

/** Where one capture's memory goes. */
export class ImageSink {
  readonly file: string
  /** To be passed to QEMU, then closed with `closeWriteEnd`. */
  readonly writeFd: number
  readonly #readFd: number
  readonly #writer: ImageWriter
  /** Bytes of the gate's filling: they come out first. */
  readonly #padding: number
  #writeOpen = true
  #state: 'waiting' | 'receiving' | 'ended' = 'waiting'
  #id = 0

  constructor(writer: ImageWriter, file: string, gated: boolean) {
    const pipe = makePipe(gated ? gateBytes : streamBytes)
    this.file = file
    this.writeFd = pipe.writeFd
    this.#readFd = pipe.readFd
    this.#writer = writer
    this.#padding = gated ? pipe.capacity : 0
    if (gated) check(libc().write(pipe.writeFd, new Uint8Array(this.#padding), this.#padding), 'fill a pipe')
  }

  closeWriteEnd(): void {
    if (!this.#writeOpen) return
    this.#writeOpen = false
    closeDescriptor(this.writeFd)
  }

  /** Opens the gate and starts to write. Resolves when the writer's end is closed and the file is on disk. */
  receive(): Promise<WrittenImage> {
    if (this.#state !== 'waiting') throw new SnapswitchError('INTERNAL', 'An image is received twice.', 'Report this.')
    this.#state = 'receiving'
    if (this.#padding > 0) {
      check(libc().read(this.#readFd, new Uint8Array(this.#padding), this.#padding), 'empty a pipe')
      resizePipe(this.#readFd, streamBytes)
    }
    const { id, result } = this.#writer.order(this.#readFd, this.file)
    this.#id = id
    return result.finally(() => {
      this.#state = 'ended'
    })
  }

  /** Breaks the pipe: the writer's next write fails. What `receive` returned rejects. The file is left to the caller. */
  stop(): void {
    this.closeWriteEnd()
    if (this.#state === 'waiting') closeDescriptor(this.#readFd)
    else if (this.#state === 'receiving') this.#writer.cancel(this.#id)
    this.#state = 'ended'
  }
}

interface Waiting {
  resolve(image: WrittenImage): void
  reject(error: Error): void
}

export class ImageWriter {
  #worker: Worker | null = null
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1

  /** Starts the worker ahead of need. */
  start(): Worker {
    if (this.#worker !== null) return this.#worker
    const worker = new Worker(new URL('./image-writer-worker.js', import.meta.url))
    worker.on('message', (result: WriteResult) => this.#settle(result))
    worker.on('error', (error) => this.#broken(worker, error))
    worker.on('exit', () => this.#broken(worker, new Error('the worker ended')))
    // Last, because a listener takes a reference: the worker alone shall not keep the process alive.
    worker.unref()
    this.#worker = worker
    return worker
  }

  order(readFd: number, file: string): { id: number; result: Promise<WrittenImage> } {
    const id = this.#nextId++
    const result = new Promise<WrittenImage>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
    })
    result.catch(() => {}) // looked at once the hypervisor has said its part
    this.start().postMessage({ id, readFd, file } satisfies WriteOrder)
    return { id, result }
  }

  cancel(id: number): void {
    this.#worker?.postMessage({ cancel: id })
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #settle(result: WriteResult): void {
    const waiting = this.#waiting.get(result.id)
    this.#waiting.delete(result.id)
    if (result.error === null) waiting?.resolve({ bytes: result.bytes, digest: result.digest })
    else waiting?.reject(Object.assign(new Error(result.error.message), { code: result.error.code }))
  }

  #broken(worker: Worker, error: Error): void {
    if (this.#worker !== worker) return
    this.#worker = null
    for (const waiting of this.#waiting.values()) waiting.reject(error)
    this.#waiting.clear()
  }
}
