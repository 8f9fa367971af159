// QEMU's own locks on image files (block/file-posix.c): a byte per permission, from 100 on for what somebody uses and
// from 200 on for what somebody does not share. Who holds the bytes 201 and 203 keeps every QEMU and qemu-img from
// writing to or resizing the file, with QEMU's own message, and disturbs none that only reads it. Locks of open file
// descriptions (fcntl(2)): the kernel frees them with the process.

import { closeSync, fstatSync, statSync } from 'node:fs'
import { openPlainSync } from '../files/plain.js'
import { Errno, errno, libc, syscallError } from './libc.js'

const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2
const usedBase = 100
const unsharedBase = 200
/** Bits of BLK_PERM_*, and how many there are at most. */
const permission = { write: 1, resize: 3 } as const
const permissions = 8

/** struct flock, 64 bit: type, whence (SEEK_SET), start, length, pid (0 for these locks). */
function flockOf(type: number, start: number): Buffer {
  const buffer = Buffer.alloc(32)
  buffer.writeInt16LE(type, 0)
  buffer.writeBigInt64LE(BigInt(start), 8)
  buffer.writeBigInt64LE(1n, 16)
  return buffer
}

function setLock(fd: number, type: number, start: number): boolean {
  if (libc().fcntl(fd, F_OFD_SETLK, flockOf(type, start)) === 0) return true
  const value = errno()
  if (value === Errno.EAGAIN || value === Errno.EACCES) return false
  throw syscallError('lock an image', value)
}

/** Whether another process has a lock on this byte. */
function isLocked(fd: number, start: number): boolean {
  const lock = flockOf(F_WRLCK, start)
  if (libc().fcntl(fd, F_OFD_GETLK, lock) !== 0) return false
  return lock.readInt16LE(0) !== F_UNLCK
}

/**
 * Whether a QEMU, here or on another host of the same file system, has the image open; null where that cannot be told.
 */
export function isInUseByQemu(path: string): boolean | null {
  try {
    const fd = openPlainSync(path, 'image')
    try {
      const bits = Array.from({ length: permissions }, (_, bit) => bit)
      return bits.some((bit) => isLocked(fd, usedBase + bit) || isLocked(fd, unsharedBase + bit))
    } finally {
      closeSync(fd)
    }
  } catch {
    return null
  }
}

/** An image that nobody may write to while this is held. */
export class ImageLock {
  /** The file that is locked. Not to be used when the lock has been let go of. */
  readonly fd: number
  readonly #path: string

  private constructor(fd: number, path: string) {
    this.fd = fd
    this.#path = path
  }

  /** Null: somebody writes to it already. Throws file system errors; SYSCALL where the file system has no locks. */
  static take(path: string): ImageLock | null {
    const fd = openPlainSync(path, 'image')
    try {
      if (!isLocked(fd, usedBase + permission.write)) {
        const held = Object.values(permission).every((bit) => setLock(fd, F_RDLCK, unsharedBase + bit))
        if (held && !isLocked(fd, usedBase + permission.write)) return new ImageLock(fd, path)
      }
    } catch (thrown) {
      closeSync(fd)
      throw thrown
    }
    closeSync(fd)
    return null
  }

  /** Whether its path still means the file that is locked. */
  get isCurrent(): boolean {
    try {
      const [held, named] = [fstatSync(this.fd), statSync(this.#path)]
      return held.dev === named.dev && held.ino === named.ino
    } catch {
      return false
    }
  }

  release(): void {
    closeSync(this.fd)
  }
}
