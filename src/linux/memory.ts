// What the kernel says of the host's memory.

import { readFileSync } from 'node:fs'

/** Bytes of a line of /proc/meminfo, such as `MemAvailable`; null: the kernel does not tell. */
function bytesOf(field: string): number | null {
  const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/meminfo', 'latin1'))?.[1]
  return kilobytes === undefined ? null : Number(kilobytes) * 1024
}

/** Bytes that can be had without swapping; null: the kernel does not tell. */
export function availableBytes(): number | null {
  return bytesOf('MemAvailable')
}

/** Bytes that can be had at all; null: the kernel does not tell. */
export function availableWithSwapBytes(): number | null {
  const [available, swap] = [availableBytes(), bytesOf('SwapFree')]
  return available === null || swap === null ? null : available + swap
}
