// What a QEMU says as it is loaded: a file in its directory. That becomes its user's, who may have another file under
// the name at any time. So the file is made before, and read through the descriptor that it was made with.

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import path from 'node:path'

const { O_RDWR, O_CREAT, O_EXCL, O_APPEND, O_NOFOLLOW } = constants
const mostBytes = 64 << 10

export class MachineLog {
  readonly file: string
  readonly fd: number
  #isOpen = true

  /** The directory is empty. */
  constructor(directory: string) {
    this.file = path.join(directory, 'qemu.log')
    this.fd = openSync(this.file, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW, 0o600)
  }

  /** The last words, in one line; '' when there are none, and when it is closed. */
  tail(): string {
    if (!this.#isOpen) return ''
    const { size } = fstatSync(this.fd)
    const bytes = Buffer.alloc(Math.min(size, mostBytes))
    const count = readSync(this.fd, bytes, 0, bytes.length, size - bytes.length)
    return bytes.toString('utf8', 0, count).trim().split('\n').slice(-4).join(' | ').slice(-600)
  }

  close(): void {
    if (this.#isOpen) closeSync(this.fd)
    this.#isOpen = false
  }
}
