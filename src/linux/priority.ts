// Scheduling priority of the calling thread. A switch stands in for what the kernel does in softirq, before any process
// gets its turn; behind busy guests it would be late with every frame and every cut.

import { readdirSync } from 'node:fs'
import { setPriority } from 'node:os'

/** Nice value of the switch's threads: ahead of ordinary processes, behind real-time ones. */
const SWITCH_NICE = -10

/** Linux keeps a nice value per thread (sched(7)). False: not permitted, the thread stays as it is. */
export function raisePriority(): boolean {
  try {
    setPriority(0, SWITCH_NICE)
    return true
  } catch {
    return false
  }
}

/** Takes the switch's priority off a process that inherited it: a guest must not run ahead of the others. Threads may end meanwhile. */
export function ordinaryPriority(pid: number): void {
  for (const thread of readThreads(pid)) {
    try {
      setPriority(thread, 0)
    } catch {
      // It has ended, and so needs no priority.
    }
  }
}

function readThreads(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number)
  } catch {
    return []
  }
}
