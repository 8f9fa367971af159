// Processes by id and start time, so that a number which the kernel has given to someone else is never signalled.

import { readFileSync } from 'node:fs'
import { until } from './command.js'

export interface ProcessId {
  readonly pid: number
  /** Clock ticks after boot at which it started: field 22 of /proc/PID/stat, proc(5). */
  readonly startTicks: number
}

/** The identity of a process that runs now (a zombie does not); undefined when there is none. */
export function identify(pid: number): ProcessId | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name in field 2 may hold anything, parentheses and spaces too.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A first thread that is gone says nothing of the others: until the last one is, sockets and locks are held.
    const ended = (fields[0] === 'Z' || fields[0] === 'X') && Number(fields[17]) <= 1
    return ended ? undefined : { pid, startTicks: Number(fields[19]) }
  } catch {
    return undefined
  }
}

export function runs(id: ProcessId): boolean {
  return identify(id.pid)?.startTicks === id.startTicks
}

function signal(id: ProcessId, name: NodeJS.Signals): void {
  if (!runs(id)) return
  try {
    process.kill(id.pid, name)
  } catch {
    // It ended in between.
  }
}

/** Ends processes: SIGTERM, then SIGKILL for those that are still there after `graceMs`. Returns when all are gone. */
export async function end(ids: readonly ProcessId[], graceMs: number): Promise<void> {
  const left = () => ids.filter(runs)
  const gone = () => (left().length === 0 ? true : undefined)
  if (graceMs > 0) {
    for (const id of left()) signal(id, 'SIGTERM')
    await until('processes asked to end', graceMs, gone, 20).catch(() => undefined)
  }
  for (const id of left()) signal(id, 'SIGKILL')
  await until('killed processes', 10_000, gone, 10)
}
