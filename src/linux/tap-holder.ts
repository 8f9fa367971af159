// A TAP through the descriptor of the process that holds it (pidfd_getfd(2)): a device with one queue cannot be opened twice.

import { readdirSync, readFileSync } from 'node:fs'
import koffi from 'koffi'
import { libc } from './libc.js'
import { setPersistent } from './tap.js'

const SYS_PIDFD_OPEN = 434
const SYS_PIDFD_GETFD = 438

/** The TAP goes when its holder ends, as one does that the holder has made. False: it cannot be brought to that, and stays. */
export function endWithHolder(tap: string, pid: number): boolean {
  const number = descriptorOf(tap, pid)
  if (number === null) return false
  const syscall = koffi.load('libc.so.6').func('long syscall(long, long, long, long, long)') as (
    ...numbers: number[]
  ) => number
  const pidfd = syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0)
  if (pidfd < 0) return false
  const fd = syscall(SYS_PIDFD_GETFD, pidfd, number, 0, 0)
  libc().close(pidfd)
  if (fd < 0) return false
  try {
    return setPersistent(fd, false)
  } finally {
    libc().close(fd)
  }
}

/** The kernel shows the device behind a descriptor as `iff:`. */
function descriptorOf(tap: string, pid: number): number | null {
  try {
    for (const name of readdirSync(`/proc/${pid}/fd`)) {
      const info = readFileSync(`/proc/${pid}/fdinfo/${name}`, 'latin1')
      if (/^iff:\s+(\S+)/m.exec(info)?.[1] === tap) return Number(name)
    }
  } catch {
    // It has ended.
  }
  return null
}
