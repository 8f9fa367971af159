// Where a daemon's log goes: standard error, but never at the daemon's cost. Its reader may be gone, a terminal
// stopped, a pipe full for ever: lines wait in a bounded queue, the oldest stay, the others are lost, and the log says
// later how many.

import { constants, fstatSync, openSync, writeSync } from 'node:fs'
import { Errno, errno, errnoName, libc } from '../linux/libc.js'
import { nowMs } from './clock.js'

const STDERR = 2
const QUEUE_BYTES = 1 << 20
const RETRY_MS = 100
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

/** How many bytes were taken; null: none for now. Throws when nobody will ever take any. */
export type WriteSome = (bytes: Uint8Array) => number | null

export class LogOutput {
  readonly #writeSome: WriteSome
  readonly #queue: Uint8Array[] = []
  #queued = 0
  #lost = 0
  #timer: NodeJS.Timeout | null = null

  constructor(writeSome: WriteSome = openOutput(STDERR)) {
    this.#writeSome = writeSome
  }

  /** One line, as pino gives it. Returns at once. */
  write(line: string): void {
    const bytes = Buffer.from(line)
    if (this.#queued + bytes.length > QUEUE_BYTES) this.#lost++
    else {
      this.#queue.push(bytes)
      this.#queued += bytes.length
    }
    if (this.#timer === null) this.flush()
  }

  /** What there is room for goes out. */
  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    try {
      while (this.#queue.length > 0) {
        const taken = this.#writeSome(this.#queue[0])
        if (taken === null) break
        this.#queued -= taken
        if (taken === this.#queue[0].length) this.#queue.shift()
        else this.#queue[0] = this.#queue[0].subarray(taken)
        if (this.#queue.length === 0) this.#tellLost()
      }
    } catch {
      // Nobody reads any more, or the disk is full: the next line tries again.
      this.#queue.length = 0
      this.#queued = 0
    }
    if (this.#queue.length > 0) this.#timer = setTimeout(() => this.flush(), RETRY_MS).unref()
  }

  #tellLost(): void {
    if (this.#lost === 0) return
    const msg = `${this.#lost} lines of the log were lost: its reader did not keep up`
    this.#lost = 0
    const line = Buffer.from(`${JSON.stringify({ level: 40, time: Math.round(nowMs()), msg })}\n`)
    this.#queue.push(line)
    this.#queued += line.length
  }
}

/** The log of this process, and what is left of it when the process ends. */
export function standardLog(): LogOutput {
  const output = new LogOutput()
  process.on('exit', () => output.flush())
  return output
}

/**
 * Writes that do not wait. The open file of a descriptor may be shared with other processes (a shell and its terminal),
 * whose writes must go on as they were: it is opened once more, and sockets, which cannot be, know a flag for each
 * call.
 */
export function openOutput(fd: number): WriteSome {
  const stat = fstatSync(fd)
  if (stat.isSocket()) return (bytes) => sendSome(fd, bytes)
  if (stat.isFIFO() || stat.isCharacterDevice()) {
    const flags = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY
    try {
      const own = openSync(`/proc/self/fd/${fd}`, flags)
      return (bytes) => writeOrWait(own, bytes)
    } catch {
      // A pipe without a reader, another user's terminal.
    }
  }
  return (bytes) => writeOrWait(fd, bytes)
}

function writeOrWait(fd: number, bytes: Uint8Array): number | null {
  try {
    return writeSync(fd, bytes)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return null
    throw error
  }
}

function sendSome(fd: number, bytes: Uint8Array): number | null {
  const sent = libc().send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL)
  if (sent >= 0) return sent
  const value = errno()
  if (value === Errno.EAGAIN || value === Errno.ENOBUFS) return null
  throw new Error(errnoName(value))
}
