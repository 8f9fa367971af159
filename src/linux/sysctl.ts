// Per-device kernel settings under /proc/sys/net, read and written as files. Which network namespace they belong to is
// decided by the calling thread, as for sockets: hence the synchronous calls.

import { readFileSync, writeFileSync } from 'node:fs'
import { SnapswitchError } from '../errors/errors.js'

/** "ipv6/conf/tap0/disable_ipv6" -> its value without the line end; null when the kernel has no such setting. */
export function readSysctl(path: string): string | null {
  const file = fileOf(path)
  try {
    return readFileSync(file, 'utf8').trimEnd()
  } catch (thrown) {
    if (isMissing(thrown)) return null
    throw failed(`read net.${path}`, thrown)
  }
}

/** Returns false when the kernel has no such setting. @throws SnapswitchError PERMISSION or SYSCALL */
export function writeSysctl(path: string, value: string): boolean {
  const file = fileOf(path)
  try {
    writeFileSync(file, value)
    return true
  } catch (thrown) {
    if (isMissing(thrown)) return false
    throw failed(`write net.${path}`, thrown)
  }
}

function fileOf(path: string): string {
  // A device may not have a slash or be called "..", so a path with either would not be a setting.
  if (path.split('/').some((part) => part === '' || part === '.' || part === '..')) {
    throw new SnapswitchError('INTERNAL', `“${path}” is no kernel setting`, 'Please report this.')
  }
  return `/proc/sys/net/${path}`
}

function isMissing(thrown: unknown): boolean {
  return (thrown as NodeJS.ErrnoException)?.code === 'ENOENT'
}

function failed(what: string, thrown: unknown): SnapswitchError {
  const name = (thrown as NodeJS.ErrnoException)?.code ?? 'unknown error'
  if (name === 'EACCES' || name === 'EPERM' || name === 'EROFS') {
    return new SnapswitchError(
      'PERMISSION',
      `${what}: ${name}`,
      'Run as root, where /proc/sys is writable; in a container, mount it read-write.',
      thrown,
    )
  }
  return new SnapswitchError('SYSCALL', `${what}: ${name}`, 'See the daemon’s log.', thrown)
}
