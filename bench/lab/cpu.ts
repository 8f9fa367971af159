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

/** Seconds that a thread has run; 0 once it has ended. */
export function threadSeconds(pid: number, thread: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0]) / 1e9
  } catch {
    return 0
  }
}

/**
 * Seconds that a process has run, with its threads and waited-for children that have ended (proc(5), 10 ms
 * resolution); 0 once it has ended itself.
 */
export function wholeSeconds(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // Behind the name, which may have blanks: state is column 3, utime, stime, cutime, cstime are 14 to 17.
    const columns = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number)
    return columns.slice(11, 15).reduce((sum, ticks) => sum + ticks, 0) / TICKS_PER_SECOND
  } catch {
    return 0
  }
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
