// CPU time, of chosen processes and of the whole machine. A kernel bridge works in the softirq of whoever sends: it has
// no process to charge, so a fair comparison needs the machine's total beside the process's own.

import { readdirSync, readFileSync } from 'node:fs'

/** USER_HZ is 100 on every Linux that Node runs on (include/uapi/asm-generic/param.h). */
const TICKS_PER_SECOND = 100

/**
 * Seconds that all threads of the processes have run, from schedstat (nanosecond resolution; /proc/PID/stat has 10 ms).
 * Threads that ended are forgotten by the kernel here; the subjects' threads live as long as they do.
 */
export function processSeconds(pids: readonly number[]): number {
  let nanoseconds = 0
  for (const pid of pids) {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      try {
        nanoseconds += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[0])
      } catch {
        // The thread ended between the listing and the look.
      }
    }
  }
  return nanoseconds / 1e9
}

/**
 * Seconds that the cores were not idle, since some fixed moment: take differences. Counted from the idle columns, which
 * the kernel keeps exactly when it stops the tick in idle; its busy columns are samples, taken at ticks, and miss short
 * bursts.
 */
export function machineSeconds(): number {
  const stat = readFileSync('/proc/stat', 'latin1')
  return (performance.now() / 1e3) * coreCount(stat) - idleTicks(stat) / TICKS_PER_SECOND
}

/** Sum of idle and iowait in /proc/stat's first line (proc(5)). */
export function idleTicks(stat: string): number {
  const columns = stat.slice(0, stat.indexOf('\n')).trim().split(/\s+/).slice(1).map(Number)
  return columns[3]! + columns[4]!
}

export function coreCount(stat: string): number {
  return stat.match(/^cpu\d+ /gm)?.length ?? 0
}
