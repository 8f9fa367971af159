// The process behind image-writer.ts: for each order, pipe -> file and sha256, then fsync. Whatever happens it reads
// every pipe to its end: a guest depends on that. When the daemon is gone it lets paused machines run on, throws away
// what is still coming, removes the unfinished files, and ends.

import { createHash } from 'node:crypto'
import { closeSync, constants, fsync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import net from 'node:net'
import { getPriority, setPriority } from 'node:os'
import { leaveSignalsToParent } from '../../runtime/reactions.js'
import { within } from './deadline.js'
import { type Answer, type Order, streamBytes } from './image-writer-protocol.js'
import { RamStream } from './ram-stream.js'
import { runPaused } from './run-paused.js'

/**
 * What is read at once: a quarter of the pipe. All streams share it, since what it holds is written before the next
 * read. Memory of its own for each piece costs three times the processor time of reading, digesting and writing it.
 */
const piece = Buffer.allocUnsafeSlow(256 * 1024)

/** A paused guest waits for the end of its stream. */
const mostWaitMs = 5

/** As long as a save that stops its guest may take to its end. */
const patienceMs = 120_000

// A process starts with its parent's priority; a switch runs ahead of the guests, but this work must not.
if (getPriority() < 0) setPriority(0)

const streams = new Map<number, Stream>()
/** QMP sockets of machines that are paused, by their streams' ids. */
const paused = new Map<number, string>()

function answer(message: Answer): void {
  if (process.connected) process.send!(message, undefined, undefined, () => {})
}

class Stream {
  readonly id: number
  readonly #file: string
  readonly #pipe: number
  /** Made only when reading may begin: it starts to read by itself, and the pipe is a gate until then. */
  #socket: net.Socket | null = null
  readonly #hash = createHash('sha256')
  #fd = -1
  #bytes = 0
  #wanted = true
  #readAt = performance.now()
  /** Whether a paused guest waits for the end, which is near: memory was sent ahead. */
  #isAwaited = false
  /** While memory is sent ahead. */
  #ahead: { readonly ram: RamStream; readonly pages: number } | null = null

  constructor(id: number, pipe: string, file: string) {
    this.id = id
    this.#file = file
    this.#pipe = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
  }

  /** Whether the gate is open. */
  get isRead(): boolean {
    return this.#socket !== null
  }

  #read(): void {
    if (this.#socket !== null) return
    const callback = (length: number) => {
      this.#take(piece.subarray(0, length))
      if (this.#ahead !== null) return this.#wanted && this.#goesOn(piece.subarray(0, length))
      const isEager = !this.#wanted || this.#isAwaited || length === piece.length
      const waitMs = isEager ? 0 : this.#untilMore(length)
      if (waitMs < 1) return true
      setTimeout(() => this.#socket?.resume(), waitMs)
      return false
    }
    // The constructor takes `onread` as `connect` does (Node's lib/net.js); its type does not say so.
    const options: net.SocketConstructorOpts & net.ConnectOpts = {
      fd: this.#pipe,
      readable: true,
      writable: false,
      onread: { buffer: piece, callback },
    }
    this.#socket = new net.Socket(options)
    this.#socket.on('error', (error) => this.fail(error))
    this.#socket.on('end', () => this.#finish())
    this.#socket.on('close', () => this.#leave())
    this.#socket.resume()
  }

  /**
   * Milliseconds until the pipe has half of what it holds, if more comes as this has come. QEMU writes 32 KiB at a
   * time: to wake for each takes twice the processor time, beside guests that need it.
   */
  #untilMore(length: number): number {
    const now = performance.now()
    const passed = now - this.#readAt
    this.#readAt = now
    return Math.min(mostWaitMs, (streamBytes / 2 / length) * passed)
  }

  /** Whether memory that is sent ahead is to be read on. Else it is held here, until `write` or `discard`. */
  #goesOn(chunk: Buffer): boolean {
    const { ram, pages } = this.#ahead!
    ram.feed(chunk)
    const isAhead = ram.total > 0 && ram.pages >= ram.total - pages
    if (!isAhead && !ram.isLost) return true
    answer({ kind: 'held', id: this.id, isAhead: isAhead && !ram.isLost })
    return false
  }

  writeAhead(pages: number): void {
    this.#ahead = { ram: new RamStream(), pages }
    this.write()
  }

  write(): void {
    if (this.#socket !== null) {
      this.#readOn()
      return
    }
    try {
      this.#fd = openSync(this.#file, constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW)
      // A head that stands there already belongs to the image.
      const head = readFileSync(this.#fd)
      this.#hash.update(head)
      this.#bytes = head.length
    } catch (error) {
      this.fail(error as Error)
    }
    this.#read()
  }

  #readOn(): void {
    this.#isAwaited = this.#ahead !== null
    this.#ahead = null
    this.#read()
    this.#socket?.resume()
  }

  /** Nobody wants it any more. */
  discard(): void {
    this.fail(new Error('called off'))
    this.#readOn()
  }

  /**
   * Says why, once, and reads on without keeping anything. Memory that is sent ahead is held: at the end of its
   * migration QEMU would stop the guest.
   */
  fail(error: Error): void {
    if (!this.#wanted) return
    this.#wanted = false
    this.#closeFile()
    answer({ kind: 'failed', id: this.id, code: (error as NodeJS.ErrnoException).code ?? '', message: error.message })
    if (this.#ahead === null) this.#read()
  }

  /**
   * Nobody will ever want it. A migration whose memory is sent ahead may break, and shall: its guest runs on, and would
   * be stopped at its end.
   */
  orphan(): void {
    if (this.#ahead !== null) this.breakOff()
    else this.fail(new Error('the daemon is gone'))
    rmSync(this.#file, { force: true })
  }

  breakOff(): void {
    this.fail(new Error('called off'))
    this.#socket?.destroy()
  }

  #take(chunk: Buffer): void {
    if (!this.#wanted) return
    try {
      for (let at = 0; at < chunk.length; ) at += writeSync(this.#fd, chunk, at)
      this.#hash.update(chunk)
      this.#bytes += chunk.length
    } catch (error) {
      this.fail(error as Error)
    }
  }

  #finish(): void {
    if (!this.#wanted || this.#fd < 0) return
    fsync(this.#fd, (error) => {
      if (error !== null) this.fail(error)
      else if (this.#wanted) {
        this.#wanted = false
        this.#closeFile()
        answer({ kind: 'written', id: this.id, bytes: this.#bytes, digest: this.#hash.digest('hex') })
      }
      this.#leave()
    })
  }

  #closeFile(): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }

  /** Gone once the pipe is at its end and, where it is wanted, the file is on disk. */
  #leave(): void {
    if (this.#socket?.closed !== true || (this.#wanted && this.#fd >= 0) || !streams.delete(this.id)) return
    answer({ kind: 'ended', id: this.id })
  }
}

process.on('message', (order: Order) => {
  const stream = streams.get(order.id)
  try {
    if (order.kind === 'open') {
      streams.set(order.id, new Stream(order.id, order.pipe, order.file))
      answer({ kind: 'opened', id: order.id })
    } else if (order.kind === 'ahead') stream?.writeAhead(order.pages)
    else if (order.kind === 'write') stream?.write()
    else if (order.kind === 'break') stream?.breakOff()
    else if (order.kind === 'discard') stream?.discard()
    else if (order.kind === 'pausing') paused.set(order.id, order.socket)
    else paused.delete(order.id)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    answer({ kind: 'failed', id: order.id, code: code ?? '', message })
  }
})

/** How long a save is kept at its gate for its guest to run first. */
const runFirstMs = 2000

/**
 * A guest runs before its save leaves the gate: run-on.ts, `protectedMemory`. It may be paused with its stream ended.
 */
async function letGo(id: number): Promise<void> {
  const stream = streams.get(id)
  const socket = paused.get(id)
  if (socket !== undefined && stream?.isRead === false) await runPaused(socket, true, within(runFirstMs))
  stream?.orphan()
  if (socket !== undefined) await runPaused(socket, false, within(patienceMs))
}

process.on('disconnect', () => {
  for (const id of new Set([...streams.keys(), ...paused.keys()])) void letGo(id)
})

// A signal to the daemon's group or terminal is not for this process: it ends when its streams have.
leaveSignalsToParent()
