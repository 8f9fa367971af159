// Files that survive a crash: written beside, fsynced, renamed, and the directory fsynced, so that a reader sees the
// old content or the new, never a half. Directories; digests of files too large to hold in memory.

import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { SnapswitchError } from '../errors/errors.js'
import { openPlain } from './plain.js'

/** A file is made, or one that a crash has left is written anew; what else may stand there is not waited for. */
const WRITE_NEW =
  constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** Turns a file system error into STORE_FULL or STORE_IO. */
export function storeError(what: string, thrown: unknown): SnapswitchError {
  if (thrown instanceof SnapswitchError) return thrown
  const reason = (thrown as NodeJS.ErrnoException).code ?? String(thrown)
  if (reason === 'ENOSPC' || reason === 'EDQUOT') {
    return new SnapswitchError(
      'STORE_FULL',
      `${what}: no space left`,
      'Free space, or delete snapshots that are not needed. `df -i` tells whether it is inodes that are short.',
      thrown,
    )
  }
  const said = thrown instanceof Error ? thrown.message : reason
  return new SnapswitchError('STORE_IO', `${what}: ${said}`, 'Check the path, its permissions and the disk.', thrown)
}

/**
 * Makes a directory, and those above it that are missing. Node's own `recursive` never returns under a file system in
 * which nobody can make directories and that says so with ENOENT, as /proc does. Throws file system errors as they are.
 */
export async function makeDirectory(path: string, mode = 0o777): Promise<void> {
  try {
    await makeOne(path, mode)
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(path) === path) throw thrown
    await makeDirectory(dirname(path), mode)
    await makeOne(path, mode)
  }
}

async function makeOne(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { mode })
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'EEXIST' || !(await stat(path)).isDirectory()) throw thrown
  }
}

/** Writes a file's (or directory's) dirty pages back. */
export async function syncFile(path: string): Promise<void> {
  // Whatever the name means, this must not wait for somebody at another end of it.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Throws STORE_FULL or STORE_IO; then the old content stands and nothing is left beside it. */
export async function writeDurable(path: string, content: Uint8Array | string, mode = 0o600): Promise<void> {
  const temporary = `${path}.new`
  try {
    await makeDirectory(dirname(path))
    const handle = await open(temporary, WRITE_NEW, 0o600)
    try {
      // Whatever the umask says, and whoever has left one here.
      await handle.chmod(mode)
      await handle.writeFile(content)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
    await syncFile(dirname(path))
  } catch (thrown) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw storeError(`cannot write ${path}`, thrown)
  }
}

/** sha256 of a file, hex. Throws STORE_IO, and the signal's reason. */
export async function digestFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  try {
    const handle = await openPlain(path, 'image')
    try {
      // A file that grows is read to where it ended: its digest is wrong then, whatever is read.
      // A block device says 0.
      const { size } = await handle.stat()
      const end = size === 0 ? Number.POSITIVE_INFINITY : size
      // One buffer for all pieces, not a stream: the kernel makes fresh memory ready for each piece of a stream.
      const piece = Buffer.allocUnsafeSlow(Math.min(1 << 20, end))
      for (let at = 0; at < end && signal?.aborted !== true; ) {
        const { bytesRead } = await handle.read(piece, 0, Math.min(piece.length, end - at), at)
        if (bytesRead === 0) break
        hash.update(piece.subarray(0, bytesRead))
        at += bytesRead
      }
    } finally {
      await handle.close()
    }
  } catch (thrown) {
    throw storeError(`cannot read ${path}`, thrown)
  }
  signal?.throwIfAborted()
  return hash.digest('hex')
}

/** Bytes that are free for us on the file system of `path`, which must exist. */
export async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}
