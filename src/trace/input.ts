// Bytes that arrived and are not parsed yet, in one piece, and where in the file they are. Errors of reading are made
// here, since every one names that place.

import { SnapswitchError } from '../errors/errors.js'

const NOTHING = new Uint8Array(0)
const FIRST_ROOM = 64 * 1024

export class Input {
  bytes: Uint8Array = NOTHING
  view: DataView = new DataView(NOTHING.buffer)
  /** What is left lies from `start` up to `end`. */
  start = 0
  end = 0
  /** Where in the file `bytes[0]` is. */
  base = 0
  /** A buffer of our own, for a block that lies in two chunks. */
  #own: Uint8Array = NOTHING

  /** `chunk` is kept, not copied, until all of it is parsed: nobody may write into it again. */
  push(chunk: Uint8Array): void {
    const left = this.end - this.start
    if (left === 0) {
      this.base += this.end
      this.#use(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length), 0, chunk.length)
      return
    }
    const isOwn = this.bytes === this.#own
    // Appended where there is room, else moved into twice the room: a long block in many small chunks is not copied
    // again with each.
    if (isOwn && this.#own.length - this.end >= chunk.length) {
      this.#own.set(chunk, this.end)
      this.end += chunk.length
      return
    }
    const needed = left + chunk.length
    const room = this.#own.length >= needed * 2 ? this.#own : new Uint8Array(Math.max(needed * 2, FIRST_ROOM))
    room.set(this.bytes.subarray(this.start, this.end))
    room.set(chunk, left)
    this.base += this.start
    this.#own = room
    this.#use(room, 0, needed)
  }

  #use(bytes: Uint8Array, start: number, end: number): void {
    if (bytes !== this.bytes) {
      this.bytes = bytes
      this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    }
    this.start = start
    this.end = end
  }
}

export function damaged(offset: number, what: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `${what} (at byte ${offset})`,
    'Check that the file is a capture and was copied whole; what comes before that byte is good.',
    cause,
  )
}

export function unsupported(what: string, action: string): SnapswitchError {
  return new SnapswitchError('TRACE_UNSUPPORTED', what, action)
}
