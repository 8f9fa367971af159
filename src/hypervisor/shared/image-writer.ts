// Receives a machine's memory through a pipe, and has it written and digested in one pass by a process of its own
// (image-writer-process.ts): sealing neither reads the file again nor holds up the thread that talks to hypervisors.
//
// The pipe is also a gate. Filled to the brim beforehand, it stops QEMU's migration thread at its first write, after it
// has done its slow preparation and before it looks at the guest; emptying it lets the thread go on.
//
// A machine that is not saved in the background has most of its memory sent ahead (sent-ahead.ts): the writer reads
// until little is left, and then no more, so that QEMU's thread stands at a full pipe again. If something goes wrong
// there, the pipe is broken: the migration fails then, and the guest runs on.
//
// Otherwise the pipe must never break: a background snapshot whose stream fails leaves the guest's memory
// write-protected, and the guest frozen, for ever (QEMU 7.2, migration.c: only bg_migration_completion stops the
// tracking). So a stream that nobody wants any more is read to its end and thrown away; the writer outlives this
// process to do that, and this process holds the pipe open in case the writer ends first.

import { type ChildProcess, fork, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { check, libc } from '../../linux/libc.js'
import { NO_INSPECTOR } from '../../runtime/engine.js'
import { environmentForNode } from '../../runtime/environment.js'
import type { Deadline } from '../hypervisor.js'
import { by, deadlinePassed } from './deadline.js'
import { closeDescriptor, makePipe, resizePipe } from './descriptors.js'
import { type Answer, aheadBytes, type Order, streamBytes } from './image-writer-protocol.js'

/** Rounded up to a page by the kernel. */
const gateBytes = 4096
/** A writer that does not turn to an unwanted stream in this time waits for its disk. */
const writerHangsMs = 300

export interface WrittenImage {
  readonly bytes: number
  readonly digest: string
}

interface Outcome<T> {
  readonly promise: Promise<T>
  resolve(value: T): void
  reject(error: Error): void
}

function outcome<T>(): Outcome<T> {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  promise.catch(() => {}) // looked at when the hypervisor has said its part
  return { promise, resolve, reject }
}

/** `plain`: read from `receive` on. `gated`: closed until then. `ahead`: most of it is read before (`sendAhead`). */
export type SinkKind = 'plain' | 'gated' | 'ahead'

const pipeBytes = { plain: streamBytes, gated: gateBytes, ahead: aheadBytes } satisfies Record<SinkKind, number>

/** Where one capture's memory goes. */
export class ImageSink {
  readonly file: string
  /** To be passed to QEMU, then closed with `closeWriteEnd`. */
  readonly writeFd: number
  readonly id: number
  readonly #readFd: number
  /** Bytes that the pipe holds until `receive`. */
  readonly capacity: number
  /** Bytes of the gate's filling: they come out first. */
  readonly #padding: number
  readonly #writer: ImageWriter
  readonly #opened = outcome<void>()
  readonly #written = outcome<WrittenImage>()
  readonly #ahead = outcome<boolean>()
  #writeOpen = true
  /** Whether the writer has the pipe too. */
  #held = false
  /** The socket of a machine that is to run on, should this process die. */
  #pausing: string | null = null
  #state: 'waiting' | 'ahead' | 'writing' | 'discarding' | 'ended' = 'waiting'

  constructor(writer: ImageWriter, id: number, file: string, kind: SinkKind) {
    const pipe = makePipe(pipeBytes[kind])
    this.id = id
    this.file = file
    this.writeFd = pipe.writeFd
    this.#readFd = pipe.readFd
    this.#writer = writer
    this.capacity = pipe.capacity
    this.#padding = kind === 'gated' ? pipe.capacity : 0
    if (kind === 'gated') check(libc().write(pipe.writeFd, new Uint8Array(this.#padding), this.#padding), 'fill a pipe')
  }

  /** Waits until the writer has taken hold of the pipe. */
  async open(deadline: Deadline): Promise<void> {
    this.#writer.send({ kind: 'open', id: this.id, pipe: `/proc/${process.pid}/fd/${this.#readFd}`, file: this.file })
    await by(deadline, this.#opened.promise, () => deadlinePassed('Starting the image writer'))
  }

  closeWriteEnd(): void {
    if (!this.#writeOpen) return
    this.#writeOpen = false
    closeDescriptor(this.writeFd)
  }

  /** Whether the gate is closed. */
  get isGated(): boolean {
    return this.#padding > 0 && this.#state === 'waiting'
  }

  /**
   * Has the stream written until its first pass over memory has at most `pages` to go, and held there. Returns whether
   * it is, and not when it has ended before; rejects when it could not be written.
   */
  sendAhead(pages: number): Promise<boolean> {
    if (this.#state === 'waiting') {
      this.#state = 'ahead'
      this.#writer.send({ kind: 'ahead', id: this.id, pages })
    }
    return this.#ahead.promise
  }

  /** Opens the gate and has the stream written. Resolves when it has ended and the file is on disk. */
  receive(): Promise<WrittenImage> {
    if (this.#state === 'waiting' || this.#state === 'ahead') {
      if (this.#padding > 0)
        check(libc().read(this.#readFd, new Uint8Array(this.#padding), this.#padding), 'empty a pipe')
      resizePipe(this.#readFd, streamBytes)
      this.#state = 'writing'
      this.#writer.send({ kind: 'write', id: this.id })
    }
    return this.#written.promise
  }

  /** The machine is about to be paused: should this process die, the writer lets it run on. Until `running`. */
  pausing(socket: string): void {
    this.#pausing = socket
    if (this.#held) this.#writer.send({ kind: 'pausing', id: this.id, socket })
  }

  running(): void {
    this.#pausing = null
    if (this.#held) this.#writer.send({ kind: 'running', id: this.id })
  }

  /** Whether memory is being sent ahead, or is held. */
  get isAhead(): boolean {
    return this.#state === 'ahead'
  }

  /** Breaks the pipe of memory that is sent ahead: the migration fails, and the guest runs on. */
  breakOff(): void {
    if (this.#state !== 'ahead') return
    if (this.#held) this.#writer.send({ kind: 'break', id: this.id })
    this.#end()
    this.#writer.drop(this)
  }

  /** From now on the stream is thrown away; opens the gate if it is closed. `receive` rejects. The file stays. */
  discard(): void {
    this.closeWriteEnd()
    this.#written.reject(new Error('called off'))
    this.#ahead.resolve(false)
    if (this.#state === 'ended') return
    // A pipe that the writer does not have was passed to nobody.
    if (!this.#held) this.#end()
    else {
      this.#state = 'discarding'
      this.#writer.send({ kind: 'discard', id: this.id })
      setTimeout(() => this.#drain(), writerHangsMs).unref()
    }
  }

  /** QEMU may wait for the pipe with its big lock held, and the guest with it: whoever reads it, it must be read. */
  #drain(): void {
    if (this.#state === 'ended') return
    const reader = spawn('cat', [], { stdio: [this.#readFd, 'ignore', 'ignore'], detached: true })
    reader.on('error', () => {})
    reader.unref()
  }

  #end(): void {
    if (this.#state === 'ended') return
    this.#state = 'ended'
    closeDescriptor(this.#readFd)
    this.closeWriteEnd()
    // Harmless after `written`.
    this.#written.reject(new Error('the stream ended early'))
    this.#ahead.resolve(false)
    if (!this.#held) this.#writer.drop(this)
  }

  /** What the writer says of this stream. */
  hear(answer: Answer): void {
    switch (answer.kind) {
      case 'opened':
        if (this.#state === 'ended') this.#writer.send({ kind: 'discard', id: this.id })
        this.#held = true
        this.#opened.resolve()
        return
      case 'held':
        this.#ahead.resolve(answer.isAhead)
        return
      case 'written':
        this.#written.resolve({ bytes: answer.bytes, digest: answer.digest })
        return
      case 'failed': {
        const error = Object.assign(new Error(answer.message), { code: answer.code })
        this.#opened.reject(error)
        this.#written.reject(error)
        this.#ahead.reject(error)
        return
      }
      case 'ended':
        this.#end()
    }
  }

  /** The writer is gone: another one shall read the stream to its end. */
  rescue(): void {
    if (this.#state === 'ended') return
    const error = new Error('the image writer ended')
    this.#opened.reject(error)
    this.#written.reject(error)
    this.#ahead.resolve(false)
    if (!this.#held) return
    if (this.#state === 'ahead') {
      this.#end()
      this.#writer.drop(this)
      return
    }
    this.#state = 'discarding'
    this.#writer.send({ kind: 'open', id: this.id, pipe: `/proc/${process.pid}/fd/${this.#readFd}`, file: this.file })
    if (this.#pausing !== null) this.pausing(this.#pausing)
    this.#writer.send({ kind: 'discard', id: this.id })
  }
}

/** The writer process, started when first needed and again should it end. One serves all captures. */
export class ImageWriter {
  #process: ChildProcess | null = null
  readonly #sinks = new Map<number, ImageSink>()
  #nextId = 1

  start(): ChildProcess {
    if (this.#process !== null) return this.#process
    const env = environmentForNode()
    const child = fork(fileURLToPath(new URL('./image-writer-process.js', import.meta.url)), [], {
      // Its own session: it must not die with us.
      detached: true,
      execArgv: [NO_INSPECTOR],
      env,
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    })
    child.on('message', (answer: Answer) => this.#hear(answer))
    child.on('error', () => this.#lost(child))
    child.on('exit', () => this.#lost(child))
    // Last, because a listener takes a reference: the writer alone shall not keep this process alive.
    child.unref()
    child.channel?.unref()
    this.#process = child
    return child
  }

  sink(file: string, kind: SinkKind): ImageSink {
    const sink = new ImageSink(this, this.#nextId++, file, kind)
    this.#sinks.set(sink.id, sink)
    return sink
  }

  send(order: Order): void {
    const child = this.start()
    child.send(order, (error) => {
      if (error !== null) this.#lost(child)
    })
  }

  /** Forgets a sink whose pipe was never passed on. */
  drop(sink: ImageSink): void {
    this.#sinks.delete(sink.id)
  }

  #hear(answer: Answer): void {
    this.#sinks.get(answer.id)?.hear(answer)
    if (answer.kind === 'ended') this.#sinks.delete(answer.id)
  }

  #lost(child: ChildProcess): void {
    if (this.#process !== child) return
    this.#process = null
    for (const sink of [...this.#sinks.values()]) sink.rescue()
  }
}
