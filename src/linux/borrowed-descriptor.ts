// Descriptors of another process, borrowed (pidfd_getfd(2)): for what can be done through its own open file alone.

import koffi from 'koffi'
import { libc } from './libc.js'

const SYS_PIDFD_OPEN = 434
const SYS_PIDFD_GETFD = 438

/**
 * Calls `use` with a duplicate of each descriptor that can be had, and closes it after. Those that cannot are left out.
 */
export function borrowDescriptors<T>(pid: number, descriptors: readonly number[], use: (fd: number) => T): T[] {
  const syscall = koffi.load('libc.so.6').func('long syscall(long, long, long, long, long)') as (
    ...numbers: number[]
  ) => number
  const pidfd = syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0)
  if (pidfd < 0) return []
  try {
    return descriptors.flatMap((descriptor) => {
      const fd = syscall(SYS_PIDFD_GETFD, pidfd, descriptor, 0, 0)
      if (fd < 0) return []
      try {
        return [use(fd)]
      } finally {
        libc().close(fd)
      }
    })
  } finally {
    libc().close(pidfd)
  }
}
