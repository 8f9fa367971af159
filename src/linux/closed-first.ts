// Descriptors that the kernel closes first when this process is killed. It closes them from the highest one down
// (close_files in fs/file.c gathers them in order, task_work_run in kernel/task_work.c takes the last one first). Each
// packet socket and each BPF link waits for a grace period then: with 40 ports that takes seconds, in which all that is
// open yet holds.

import { libc } from './libc.js'

const F_DUPFD_CLOEXEC = 1030
/** More than a daemon with the most ports has. */
export const ABOVE_OTHERS = 16_384

/** The same under a high number; `fd` itself where there is a limit below that. */
export function closedFirst(fd: number): number {
  const { fcntlNumber, close } = libc()
  const higher = fcntlNumber(fd, F_DUPFD_CLOEXEC, ABOVE_OTHERS)
  if (higher < 0) return fd
  close(fd)
  return higher
}
