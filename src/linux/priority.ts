// Scheduling priority of the calling thread. A switch stands in for what the kernel does in softirq, before any process
// gets its turn; behind busy guests it would be late with every frame and every cut.

import { readdirSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'

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

/**
 * All threads of a process run as far ahead as the switch, until the returned function is called: for the milliseconds of a
 * cut, in which a paused guest waits for its hypervisor behind guests that run. Threads made meanwhile inherit it and are
 * set back, too.
 */
export function lendPriority(pid: number): () => void {
  const former = new Map<number, number>()
  for (const thread of readThreads(pid)) {
    try {
      former.set(thread, getPriority(thread))
      setPriority(thread, SWITCH_NICE)
    } catch {
      // It has ended, or we are not permitted: it goes at its own pace.
    }
  }
  const ordinary = former.get(pid) ?? 0
  return () => {
    for (const thread of readThreads(pid)) {
      try {
        setPriority(thread, former.get(thread) ?? ordinary)
      } catch {
        // It has ended.
      }
    }
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
