// A lock on a directory that one daemon at a time may keep its records in: a second one would take the first one's
// unfinished work for a dead daemon's leftovers and undo it. flock(2) on a file in it, which the kernel frees with the
// process.

import { closeSync, constants, existsSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { SnapswitchError } from '../errors/errors.js'
import { openPlainSync } from '../files/plain.js'
import { Errno, errno, libc, syscallError } from './libc.js'

const LOCK_EX_NB = 2 | 4

/** Held until the process ends. Throws DEVICE_BUSY when another process has it, and file system errors as they are. */
export function lockDirectory(directory: string): void {
  const fd = openLock(join(directory, '.lock'))
  if (libc().flock(fd, LOCK_EX_NB) === 0) return
  const value = errno()
  closeSync(fd)
  if (value !== Errno.EAGAIN) throw syscallError(`lock ${directory}`, value)
  throw new SnapswitchError(
    'DEVICE_BUSY',
    `another daemon keeps its records in ${directory}`,
    'Stop that daemon, or choose another directory in the configuration.',
  )
}

function openLock(file: string): number {
  if (!existsSync(file)) return openSync(file, constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK, 0o600)
  return openPlainSync(file, 'file', constants.O_WRONLY)
}
