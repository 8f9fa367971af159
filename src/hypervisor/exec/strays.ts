// Commands that a daemon which was killed has left at work: they are ended before the machine is asked anything, or a
// save that nobody waits for would go on beside a guest that is told to run.

import { readdirSync, readFileSync } from 'node:fs'
import type { Deadline } from '../hypervisor.js'
import { pauseFor, remaining, within } from '../shared/deadline.js'
import { identify, isAlive, type ProcessIdentity } from '../shared/process.js'
import { DAEMON, marksOf, PID, type Target } from './command.js'

const END_MS = 2000

/**
 * Returns how many were ended. What a command has started and has left its process group may be the machine, and stays.
 */
export async function endStrays(target: Omit<Target, 'name'>, deadline: Deadline): Promise<number> {
  const strays = leadersOf(target)
  for (const { pid } of strays) {
    try {
      process.kill(-pid, 'SIGKILL')
    } catch {
      // It has ended meanwhile.
    }
  }
  for (const limit = within(END_MS, deadline); strays.some(isAlive) && remaining(limit) > 0; ) await pauseFor(5, limit)
  return strays.length
}

function leadersOf(target: Omit<Target, 'name'>): ProcessIdentity[] {
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return []
    try {
      const environment = environmentOf(entry)
      if (Object.entries(marksOf(target)).some(([key, value]) => environment.get(key) !== value)) return []
      if (environment.get(PID) !== entry || isAtWork(environment.get(DAEMON))) return []
      const identity = identify(Number(entry))
      return identity === null ? [] : [identity]
    } catch {
      // It has ended meanwhile.
      return []
    }
  })
}

/** Of a program as it was started: a command is one, after the shell that has become it (command.ts). */
function environmentOf(pid: string): Map<string, string> {
  const words = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  return new Map(words.map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]))
}

/** By its incarnation: pid and start time. */
function isAtWork(daemon: string | undefined): boolean {
  const [pid, startTicks] = (daemon ?? '').split(':')
  return startTicks === undefined || isAlive({ pid: Number(pid), startTicks })
}
