// Scheduling priority of the calling thread. A switch stands in for what the kernel does in softirq, before any process
// gets its turn; behind busy guests it would be late with every frame and every cut.

import { readdirSync, readlinkSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { libc } from './libc.js'

/** Nice value of the switch's threads: ahead of ordinary processes, behind real-time ones. */
const SWITCH_NICE = -10
const SCHED_OTHER = 0

/** Linux keeps a nice value per thread (sched(7)). False: not permitted, the thread stays as it is. */
export function raisePriority(): boolean {
  try {
    setPriority(0, SWITCH_NICE)
    return true
  } catch {
    return false
  }
}

/** SCHED_FIFO, and what such a thread starts is ordinary again (sched(7)). */
const FIFO = 1
export const FIFO_RESET_ON_FORK = FIFO | 0x40000000
/** Real-time priorities in a cut. A guest's vCPU may never rest, so it is behind all who could call it off. */
const leadPriorities = { vcpu: 1, hypervisor: 2, switch: 3 } as const

/** The calling thread, for good: before everything ordinary. False: not permitted. */
export function runRealtime(): boolean {
  const lead = new Uint8Array(new Int32Array([leadPriorities.switch]).buffer)
  return libc().sched_setscheduler(0, FIFO_RESET_ON_FORK, lead) === 0
}

/** A process that has just begun to run, and all that it starts, for good. Nothing where that is not permitted. */
export function stayAhead(pid: number): void {
  libc().sched_setscheduler(pid, FIFO, new Uint8Array(new Int32Array([leadPriorities.switch]).buffer))
}

interface Lead {
  holders: number
  /** How to put the thread back; null when it could not be moved. */
  readonly end: (() => void) | null
}

const leads = new Map<number, Lead>()

/**
 * Threads run before everything ordinary (SCHED_FIFO; where that is not permitted, as far ahead as the switch), until
 * the returned function is called or the time has passed. For the milliseconds of a cut: a nice value only shares out
 * time, and a woken thread waits for the running one's slice, 3 ms and more, at each of the dozen hand-overs that a cut
 * consists of.
 */
export function runAhead(threads: readonly number[], as: keyof typeof leadPriorities, limitMs: number): () => void {
  let held = threads.filter((thread) => thread > 0)
  for (const thread of held) {
    const lead = leads.get(thread)
    if (lead === undefined) leads.set(thread, { holders: 1, end: putAhead(thread, leadPriorities[as]) })
    else lead.holders++
  }
  const end = () => {
    clearTimeout(timer)
    for (const thread of held) {
      const lead = leads.get(thread)!
      if (--lead.holders > 0) continue
      leads.delete(thread)
      lead.end?.()
    }
    held = []
  }
  const timer = setTimeout(end, limitMs)
  timer.unref()
  return end
}

function putAhead(thread: number, priority: number): (() => void) | null {
  const { sched_getscheduler, sched_getparam, sched_setscheduler } = libc()
  const policy = sched_getscheduler(thread)
  const parameter = new Uint8Array(4)
  // Gone, or real-time by somebody's wish: left alone.
  if (policy !== SCHED_OTHER || sched_getparam(thread, parameter) < 0) return null
  const lead = new Uint8Array(new Int32Array([priority]).buffer)
  if (sched_setscheduler(thread, FIFO_RESET_ON_FORK, lead) === 0)
    return () => void sched_setscheduler(thread, policy, parameter)
  try {
    const former = getPriority(thread)
    setPriority(thread, SWITCH_NICE)
    return () => {
      try {
        setPriority(thread, former)
      } catch {
        // It has ended.
      }
    }
  } catch {
    return null
  }
}

/**
 * Threads of a process that a daemon which died in the middle of a cut has left ahead go back to their ordinary pace.
 */
export function endForgottenLead(pid: number): void {
  for (const thread of threadsOf(pid)) {
    if (leads.has(thread) || libc().sched_getscheduler(thread) !== FIFO_RESET_ON_FORK) continue
    libc().sched_setscheduler(thread, SCHED_OTHER, new Uint8Array(4))
  }
}

/**
 * Takes the switch's priority off a process that inherited it: a guest must not run ahead of the others. Threads may
 * end meanwhile.
 */
export function ordinaryPriority(pid: number): void {
  for (const thread of threadsOf(pid)) {
    try {
      setPriority(thread, 0)
    } catch {
      // It has ended, and so needs no priority.
    }
  }
}

/** Ids of a process's threads; none when it has ended. */
export function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number)
  } catch {
    return []
  }
}

/** The calling thread's id. */
export function ownThread(): number {
  return Number(readlinkSync('/proc/thread-self').split('/').at(-1))
}
