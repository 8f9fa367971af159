// A process by more than its pid: pids are used again, so one is taken together with its start time, and signals go
// through a pidfd (pidfd_open(2)). Also what /proc tells about a running QEMU.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import koffi from 'koffi'
import { SnapswitchError } from '../../errors/errors.js'
import { errno, errnoName, libc } from '../../linux/libc.js'
import type { Deadline, ProcessUser } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining } from './deadline.js'

export interface ProcessIdentity {
  readonly pid: number
  /** Clock ticks after boot, proc_pid_stat(5) field 22. */
  readonly startTicks: string
}

interface Stat {
  /**
   * It has ended, reaped or not. A first thread that is gone says nothing of the others: until the last one is, files,
   * locks and taps are held.
   */
  readonly ended: boolean
  readonly startTicks: string
  /** One letter: proc_pid_stat(5), field 3. */
  readonly state: string
}

function readStat(path: string): Stat | null {
  try {
    // The second field, the name, may hold spaces and parentheses: count from its last ')'.
    const text = readFileSync(path, 'latin1')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    const isGone = fields[0] === 'Z' || fields[0] === 'X'
    return { ended: isGone && Number(fields[17]) <= 1, startTicks: fields[19]!, state: fields[0]! }
  } catch {
    return null
  }
}

export function identify(pid: number): ProcessIdentity | null {
  const stat = pid > 0 ? readStat(`/proc/${pid}/stat`) : null
  return stat === null || stat.ended ? null : { pid, startTicks: stat.startTicks }
}

/** False once the process has ended, also when it is not reaped yet or its pid went to another. */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = readStat(`/proc/${identity.pid}/stat`)
  return stat !== null && stat.startTicks === identity.startTicks && !stat.ended
}

/** Why a process gives no answer, as the kernel sees it, and what helps; null: it could answer. */
export function whyStill(pid: number): { readonly what: string; readonly action: string } | null {
  const state = readStat(`/proc/${pid}/stat`)?.state
  if (state === 'T' || state === 't') {
    return {
      what: `its process ${pid} is stopped`,
      action: `Let it go on (\`kill -CONT ${pid}\`), or end its debugger.`,
    }
  }
  if (state === 'D') {
    const action = 'See the disk, or the file server, that it uses, and the kernel’s log.'
    return { what: `its process ${pid} waits for a disk`, action }
  }
  return null
}

export const incarnationOf = (process: ProcessIdentity | null): string | null =>
  process === null ? null : `${process.pid}:${process.startTicks}`

/** Processes whose arguments fit. */
export function findProcesses(fits: (argv: readonly string[]) => boolean): ProcessIdentity[] {
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return []
    try {
      const identity = identify(Number(entry))
      return identity !== null && fits(argumentsOf(identity.pid)) ? [identity] : []
    } catch {
      // It has ended meanwhile.
      return []
    }
  })
}

export function argumentsOf(pid: number): string[] {
  const parts = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  parts.pop()
  return parts
}

/**
 * Where relative names of its command line start. One that has daemonized has gone to / since; it was told where it
 * began.
 */
export function directoryOf(pid: number): string {
  const now = readlinkSync(`/proc/${pid}/cwd`)
  if (now !== '/' || !argumentsOf(pid).some((word) => /^--?daemonize$/.test(word))) return now
  const began = /(?:^|\0)PWD=(\/[^\0]*)/.exec(readFileSync(`/proc/${pid}/environ`, 'utf8'))?.[1]
  return began !== undefined && existsSync(began) ? began : now
}

export function binaryOf(pid: number): string {
  return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, '')
}

/** Effective user and group, which new files must belong to so that the process may open them. */
export function ownerOf(pid: number): { uid: number; gid: number } {
  const { uid, gid } = userOf(pid)
  return { uid, gid }
}

/** The same with its further groups. */
export function userOf(pid: number): ProcessUser {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+\\d+\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0)
  const groups = /^Groups:\s*([\d ]*)/m.exec(status)?.[1]?.trim() ?? ''
  return { uid: field('Uid'), gid: field('Gid'), groups: groups === '' ? [] : groups.split(' ').map(Number) }
}

/** The tap device behind a descriptor (the kernel shows it as `iff:` in fdinfo), or null. */
export function tapBehind(pid: number, fd: number): string | null {
  try {
    return /^iff:\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1] ?? null
  } catch {
    return null
  }
}

/** Whether some thread sleeps in a write to a full pipe; null when this kernel does not tell. */
export function waitsForPipe(pid: number): boolean | null {
  let told = false
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const where = readFileSync(`/proc/${pid}/task/${thread}/wchan`, 'latin1')
      if (where.includes('pipe_w')) return true
      if (where !== '' && where !== '0') told = true
    }
  } catch {
    return null
  }
  return told ? false : null
}

const SYS_PIDFD_SEND_SIGNAL = 424
const SYS_PIDFD_OPEN = 434
const SIGKILL = 9
const ESRCH = 3

/** Kills the process, and only it, and waits until it is gone. */
export async function killProcess(identity: ProcessIdentity, deadline: Deadline): Promise<void> {
  const syscall = koffi.load('libc.so.6').func('long syscall(long, long, long, long, long)') as (
    ...numbers: number[]
  ) => number
  const pidfd = syscall(SYS_PIDFD_OPEN, identity.pid, 0, 0, 0)
  if (pidfd < 0) {
    if (!isAlive(identity)) return
    throw failed(identity.pid, errnoName(errno()))
  }
  try {
    // The descriptor names whoever has the pid now; the start time says whether that is still who we mean.
    if (!isAlive(identity)) return
    if (syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, SIGKILL, 0, 0) < 0 && errno() !== ESRCH) {
      throw failed(identity.pid, errnoName(errno()))
    }
  } finally {
    libc().close(pidfd)
  }
  while (isAlive(identity)) {
    if (remaining(deadline) === 0) throw deadlinePassed(`Ending process ${identity.pid}`)
    await pauseFor(2, deadline)
  }
}

function failed(pid: number, reason: string): SnapswitchError {
  return new SnapswitchError('PERMISSION', `Process ${pid} cannot be killed: ${reason}`, 'Run the daemon as root.')
}
