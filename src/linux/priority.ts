// Scheduling priority of the calling thread. A switch stands in for what the kernel does in softirq, before any process
// gets its turn; behind busy guests it would be late with every frame and every cut.

import { readdirSync, readlinkSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { libc } from './libc.js'

/** Nice value of the switch's threads: ahead of ordinary processes, behind real-time ones. */
const SWITCH_NICE = -10
const SCHED_OTHER = 0

/** Linux keeps a nice value per thread (sched(7)). False: not permitted, the thread stays as it is. */
export const raisePriority = (): boolean => setNice(0, SWITCH_NICE)

const FIFO = 1
/** What such a thread starts is ordinary (sched(7)). */
const RESET_ON_FORK = 0x40000000
const FIFO_RESET_ON_FORK = FIFO | RESET_ON_FORK
/**
 * Real-time priorities in a cut. A guest's vCPU may never rest, so it is behind all who could call it off. With
 * SCHED_RESET_ON_FORK they tell our leads from others' threads: those of PipeWire in a QEMU, say, have higher ones.
 */
export const leadPriorities = { vcpu: 1, hypervisor: 2, switch: 3 } as const
/** Where real-time priorities are withheld: a nice value that nobody else uses. */
const LEAD_NICE = SWITCH_NICE - 1

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

const priorityOf = (thread: number): number => {
  const parameter = new Int32Array(1)
  return libc().sched_getparam(thread, new Uint8Array(parameter.buffer)) < 0 ? -1 : parameter[0]!
}

/** Whether the thread runs ahead by SCHED_FIFO, of this process or of one that has died. */
export function isAhead(thread: number): boolean {
  const ours: readonly number[] = Object.values(leadPriorities)
  return libc().sched_getscheduler(thread) === FIFO_RESET_ON_FORK && ours.includes(priorityOf(thread))
}

function putAhead(thread: number, priority: number): (() => void) | null {
  const { sched_getscheduler, sched_setscheduler } = libc()
  const policy = sched_getscheduler(thread)
  // Gone, or real-time by somebody's wish: left alone.
  if (policy < 0 || (policy & ~RESET_ON_FORK) !== SCHED_OTHER) return null
  if (sched_setscheduler(thread, FIFO_RESET_ON_FORK, new Uint8Array(new Int32Array([priority]).buffer)) === 0)
    return () => putBack(thread, policy)
  const former = niceOf(thread)
  if (former === null || !setNice(thread, LEAD_NICE)) return null
  return () => void setNice(thread, former)
}

function putBack(thread: number, policy: number): void {
  const { sched_setscheduler } = libc()
  const none = new Uint8Array(4)
  // Without CAP_SYS_NICE the flag cannot be taken back (sched_setscheduler(2)). The rest can.
  if (sched_setscheduler(thread, policy, none) < 0) sched_setscheduler(thread, policy | RESET_ON_FORK, none)
}

/** Null: the thread has ended. */
function niceOf(thread: number): number | null {
  try {
    return getPriority(thread)
  } catch {
    return null
  }
}

/** False: not permitted, or the thread has ended. */
function setNice(thread: number, nice: number): boolean {
  try {
    setPriority(thread, nice)
    return true
  } catch {
    return false
  }
}

/**
 * Threads of a process that a daemon which died in the middle of a cut has left ahead go back to their ordinary pace.
 */
export function endForgottenLead(pid: number): void {
  for (const thread of threadsOf(pid)) {
    if (leads.has(thread)) continue
    if (isAhead(thread)) putBack(thread, SCHED_OTHER)
    if (niceOf(thread) === LEAD_NICE) setNice(thread, 0)
  }
}

/**
 * Takes the switch's priority off a process that inherited it: a guest must not run ahead of the others. Threads may
 * end meanwhile.
 */
export function ordinaryPriority(pid: number): void {
  for (const thread of threadsOf(pid)) setNice(thread, 0)
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
