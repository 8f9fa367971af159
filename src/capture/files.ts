// Where a capture goes: one file or pipe, or a ring of files that begin anew by size or time, named as dumpcap names
// them. Files are for their owner alone. What cannot be written ends the capture; the file then ends with the last
// whole block.

import { closeSync, constants, fchmodSync, fstatSync, ftruncateSync, openSync, write as writeTo } from 'node:fs'
import { rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { basename, dirname, extname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { SnapswitchError } from '../errors/errors.js'

export interface Output {
  /** Whole blocks. Waits for a reader that is slow. Throws OUTPUT_FAILED, or OutputClosed: a reader has gone. */
  write(blocks: Uint8Array): Promise<void>
  /** Only when no write is under way. */
  close(): Promise<void>
  /** A reader is not waited for any more: a write that does ends with OutputClosed. A file is written all the same. */
  abandon(): void
  /** A write is under way that only the disk keeps waiting. */
  readonly isAtDisk: boolean
}

/** A pipe's reader has closed it: it has what it wanted. */
export class OutputClosed extends Error {}

const MODE = 0o600
const write = promisify(writeTo)

/** Between two looks whether a named pipe has a reader. */
const READER_MS = 100

/**
 * A file; or a pipe of that name, which is waited for until somebody reads it or `signal` says no; or a device. Throws
 * OUTPUT_FAILED.
 */
export async function fileOutput(path: string, signal?: AbortSignal): Promise<Output> {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK } = constants
  for (;;) {
    try {
      return outputTo(path, openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, MODE))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENXIO' || signal?.aborted === true) throw failed(path, error)
    }
    await pause(READER_MS)
  }
}

export function standardOutput(): Output {
  return outputTo('standard output', 1)
}

function outputTo(path: string, fd: number): Output {
  const stat = fstatSync(fd)
  if (stat.isFIFO() || stat.isSocket()) return new PipeOutput(path, fd)
  if (!stat.isFile()) return new FileOutput(path, fd, null)
  // One that was there may have been for everybody; what our standard output is belongs to the caller.
  if (fd !== 1) fchmodSync(fd, MODE)
  return new FileOutput(path, fd, stat.size)
}

class FileOutput implements Output {
  readonly #path: string
  readonly #fd: number
  /** Where the last whole block ends; null: it is no file. */
  #whole: number | null
  isAtDisk = false

  constructor(path: string, fd: number, size: number | null) {
    this.#path = path
    this.#fd = fd
    this.#whole = size
  }

  async write(blocks: Uint8Array): Promise<void> {
    this.isAtDisk = true
    try {
      for (let at = 0; at < blocks.length; ) at += (await write(this.#fd, blocks, at, blocks.length - at)).bytesWritten
      if (this.#whole !== null) this.#whole += blocks.length
    } catch (error) {
      // Part of a block may be there.
      if (this.#whole !== null) ftruncateSync(this.#fd, this.#whole)
      throw failed(this.#path, error)
    } finally {
      this.isAtDisk = false
    }
  }

  abandon(): void {}

  async close(): Promise<void> {
    if (this.#fd === 1) return
    try {
      closeSync(this.#fd)
    } catch (error) {
      throw failed(this.#path, error)
    }
  }
}

/** Written without waiting in a system call: a reader that has stopped keeps nobody from being ended. */
class PipeOutput implements Output {
  readonly #path: string
  readonly #socket: Socket
  #failure: Error | null = null
  /** Ends the write that is under way. */
  #endWrite: (error: Error) => void = () => undefined
  readonly isAtDisk = false

  constructor(path: string, fd: number) {
    this.#path = path
    this.#socket = new Socket({ fd, readable: false, writable: true })
    this.#socket.on('error', (error) => {
      this.#failure ??= error
    })
  }

  write(blocks: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#endWrite = reject
      const done = (error?: Error | null) => (error ? reject(this.#explained(error)) : resolve())
      if (this.#failure !== null) done(this.#failure)
      else this.#socket.write(blocks, done)
    })
  }

  async close(): Promise<void> {
    this.#socket.destroy()
  }

  abandon(): void {
    this.#endWrite(new OutputClosed())
    this.#socket.destroy()
  }

  #explained(error: NodeJS.ErrnoException): Error {
    const isGone = ['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED'].includes(error.code ?? '')
    return isGone ? new OutputClosed() : failed(this.#path, error)
  }
}

/** `run.pcapng`, the third file, begun at noon: `run_00003_20261126120000.pcapng`. */
export function ringName(path: string, number: number, at: Date): string {
  const two = (n: number) => String(n).padStart(2, '0')
  const day = `${at.getFullYear()}${two(at.getMonth() + 1)}${two(at.getDate())}`
  const time = `${two(at.getHours())}${two(at.getMinutes())}${two(at.getSeconds())}`
  const extension = extname(path)
  return join(
    dirname(path),
    `${basename(path, extension)}_${String(number).padStart(5, '0')}_${day}${time}${extension}`,
  )
}

export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true })
}

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'it is as large as a file may be',
  ENOENT: 'no such directory',
  ENXIO: 'nobody reads it',
  EISDIR: 'it is a directory',
  EACCES: 'it may not be opened',
  EROFS: 'the file system is read-only',
}

export const whyUnwritten = ({ code, message }: NodeJS.ErrnoException): string => REASONS[code ?? ''] ?? message

function failed(path: string, error: unknown): SnapswitchError {
  const { code } = error as NodeJS.ErrnoException
  return new SnapswitchError(
    'OUTPUT_FAILED',
    `${path} cannot be written: ${whyUnwritten(error as NodeJS.ErrnoException)}`,
    code === 'ENOSPC' || code === 'EDQUOT'
      ? 'Make room, or keep a ring of files: --file-size with --files. What was written so far is whole.'
      : 'Name another file; what was written so far is whole.',
    error,
  )
}
