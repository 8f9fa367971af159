// Which kernel this is, for what cannot be asked for and refused.

import { release } from 'node:os'

/** Of the running kernel, by its own word ("6.1.0-28-amd64"). */
export function kernelIsAtLeast(major: number, minor: number, version = release()): boolean {
  const [ours, oursMinor] = version.split('.').map((part) => Number.parseInt(part, 10))
  return ours > major || (ours === major && oursMinor >= minor)
}
