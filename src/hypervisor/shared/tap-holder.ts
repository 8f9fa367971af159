// A TAP through the descriptor of the process that holds it: a device with one queue cannot be opened twice.

import { readdirSync } from 'node:fs'
import { borrowDescriptors } from '../../linux/borrowed-descriptor.js'
import { setPersistent } from '../../linux/tap.js'
import { tapBehind } from './process.js'

/**
 * The TAP goes when its holder ends, as one does that the holder has made. False: it cannot be brought to that, and
 * stays.
 */
export function endWithHolder(tap: string, pid: number): boolean {
  const [changed] = borrowDescriptors(pid, descriptorsOf(tap, pid).slice(0, 1), (fd) => setPersistent(fd, false))
  return changed ?? false
}

/** None when the process has ended. */
function descriptorsOf(tap: string, pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/fd`)
      .map(Number)
      .filter((fd) => tapBehind(pid, fd) === tap)
  } catch {
    return []
  }
}
