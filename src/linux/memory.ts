// What the kernel says of the host's memory, and whom it ends when there is none left.

import { readFileSync, writeFileSync } from 'node:fs'

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

/** As the kernel reckons by itself, and before all others (proc_pid_oom_score_adj(5)). */
const oomScores = { ordinary: 0, first: 1000 } as const

/**
 * When memory runs out, a process that this one has started is not spared as this one is. Call it at once, before the
 * process has started others, and before it has much memory. `first`: it is ended before all others.
 */
export function spareNot(pid: number, how: keyof typeof oomScores = 'ordinary'): void {
  const file = `/proc/${pid}/oom_score_adj`
  try {
    if (Number(readFileSync(file, 'latin1')) < oomScores[how]) writeFileSync(file, String(oomScores[how]))
  } catch {
    // It has ended.
  }
}
