// Opens and reads files whose names come from elsewhere: a configuration, another daemon, a machine's disks, a
// directory that others may write to. A pipe, a terminal or a device is refused before it is opened, for opening alone
// may wait or do something; nothing is read beyond a bound, however large a file is or grows. Symbolic links are
// followed.

import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { SnapswitchError } from '../errors/errors.js'

/** What stands at a path cannot be what is wanted there. Its message is `PATH is …`. */
export class UnfitFile extends SnapswitchError {
  constructor(message: string) {
    super('STORE_DAMAGED', message, 'Remove what is there, and bring the file back from a backup if there was one.')
  }
}

/** `image`: a block device will do as well. */
export type Wanted = 'file' | 'image'

/** An open that does not wait, whatever the name means by now, and makes no terminal ours. */
const READ_ONLY = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY
const PIECE_BYTES = 1 << 16

/** Throws UnfitFile, and file system errors as they are. */
export function openPlainSync(path: string, wanted: Wanted = 'file', flags = READ_ONLY): number {
  checkKind(path, statSync(path), wanted)
  const fd = openSync(path, flags | constants.O_NONBLOCK | constants.O_NOCTTY)
  try {
    // The name may mean something else by now.
    checkKind(path, fstatSync(fd), wanted)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** Throws UnfitFile, and file system errors as they are. */
export async function openPlain(path: string, wanted: Wanted = 'file'): Promise<FileHandle> {
  checkKind(path, await stat(path), wanted)
  const handle = await open(path, READ_ONLY)
  try {
    checkKind(path, await handle.stat(), wanted)
    return handle
  } catch (error) {
    await handle.close()
    throw error
  }
}

/**
 * Whether a file's kind is right, where another program opens it. Throws UnfitFile, and file system errors as they are.
 */
export async function checkPlain(path: string, wanted: Wanted = 'file'): Promise<void> {
  checkKind(path, await stat(path), wanted)
}

/** All of a file, of `limit` bytes at most. Throws UnfitFile, and file system errors as they are. */
export function readPlainSync(path: string, limit: number): { bytes: Buffer; stat: Stats } {
  const fd = openPlainSync(path)
  try {
    const found = fstatSync(fd)
    if (found.size > limit) throw tooLarge(path, limit)
    return { bytes: readToEnd(fd, path, limit), stat: found }
  } finally {
    closeSync(fd)
  }
}

/** The same. Files of the kernel say that they are empty and are not: the end is where nothing more comes. */
function readToEnd(fd: number, path: string, limit: number): Buffer {
  const pieces: Buffer[] = []
  for (let total = 0; ; ) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, limit + 1 - total))
    const count = readSync(fd, piece)
    if (count === 0) return Buffer.concat(pieces, total)
    pieces.push(piece.subarray(0, count))
    total += count
    if (total > limit) throw tooLarge(path, limit)
  }
}

/** The same, while others go on. */
export async function readPlain(path: string, limit: number): Promise<Buffer> {
  const handle = await openPlain(path)
  try {
    const { size } = await handle.stat()
    if (size > limit) throw tooLarge(path, limit)
    const pieces: Buffer[] = []
    for (let total = 0; ; ) {
      const piece = Buffer.allocUnsafe(Math.min(Math.max(PIECE_BYTES, size - total), limit + 1 - total))
      const { bytesRead } = await handle.read(piece)
      if (bytesRead === 0) return Buffer.concat(pieces, total)
      pieces.push(piece.subarray(0, bytesRead))
      total += bytesRead
      if (total > limit) throw tooLarge(path, limit)
    }
  } finally {
    await handle.close()
  }
}

function checkKind(path: string, found: Stats, wanted: Wanted): void {
  if (found.isFile() || (wanted === 'image' && found.isBlockDevice())) return
  throw new UnfitFile(`${path} is a ${kindOf(found)} and not a file`)
}

function kindOf(found: Stats): string {
  if (found.isDirectory()) return 'directory'
  if (found.isFIFO()) return 'pipe'
  if (found.isSocket()) return 'socket'
  return found.isBlockDevice() ? 'block device' : 'device'
}

function tooLarge(path: string, limit: number): UnfitFile {
  const unit = limit >= 1 << 20 ? `${limit / (1 << 20)} MiB` : `${limit} bytes`
  return new UnfitFile(`${path} is larger than ${unit}`)
}
