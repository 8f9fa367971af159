// Runs the user's command, once for each thing that is wanted of it: with a clean environment, a deadline, bounded
// output, and in a process group of its own, which is killed as a whole when the deadline passes. The contract:
// docs/reference/exec-driver.md

import { type ChildProcess, spawn } from 'node:child_process'
import { homedir } from 'node:os'
import { SnapswitchError } from '../../errors/errors.js'
import { spareNot } from '../../linux/memory.js'
import { ordinaryPriority } from '../../linux/priority.js'
import { withMemoryInDumps } from '../../runtime/core-dumps.js'
import type { Deadline, ExternalFile } from '../hypervisor.js'
import { remaining } from '../shared/deadline.js'
import { identify, incarnationOf } from '../shared/process.js'
import { whyNotRun } from '../shared/safe-path.js'

export type Action = 'inspect' | 'pause' | 'capture' | 'resume' | 'load' | 'destroy'

export interface Target {
  readonly command: string
  /** The machine's name for the command. */
  readonly machine: string
  /** Its name here. */
  readonly name: string
}

export type Value = string | number | readonly string[] | readonly ExternalFile[]

export interface Call {
  readonly action: Action
  /** For its standard input, and for its environment. */
  readonly input: Readonly<Record<string, Value>>
  readonly deadline: Deadline
  /** Kills it. */
  readonly signal?: AbortSignal
  /** Hears that a line `resumed` has come. */
  readonly onResumed?: () => void
}

const MOST_OUTPUT = 1 << 20
const MOST_COMPLAINT = 2000
const RESUMED = 'resumed'
/** What has ended has written all that it was to write; what goes on and holds its output open is not waited for. */
const DRAIN_MS = 250
const KILL_MS = 2000

export const contract = 'docs/reference/exec-driver.md says what a command must do.'

/**
 * Its standard output. Throws HYPERVISOR_UNREACHABLE, HYPERVISOR_REFUSED or HYPERVISOR_PROTOCOL; then nothing of it
 * runs any more.
 */
export async function call(target: Target, { action, input, deadline, signal, onResumed }: Call): Promise<string> {
  const { command, machine } = target
  const fault = whyNotRun(command)
  if (fault !== null) {
    throw new SnapswitchError(
      'HYPERVISOR_UNREACHABLE',
      `the command of ${target.name} is not run: ${fault}`,
      'It must be there, executable, and root’s alone, with all directories above it: chown root, chmod go-w.',
    )
  }
  const timeoutMs = Math.floor(remaining(deadline))
  const what = `${command} ${action} ${machine}`
  const env = environment(target, { ...input, timeoutMs, action })
  const options = { cwd: '/', detached: true, env, stdio: 'pipe' } as const
  const child = withMemoryInDumps(() => spawn('/bin/sh', ['-c', START, command, action, machine], options))
  const running = new Running(child, what, onResumed ?? (() => {}))
  // Its machine must not run ahead of others, nor outlive them where memory runs out.
  if (child.pid !== undefined) {
    ordinaryPriority(child.pid)
    spareNot(child.pid)
  }
  child.stdin.on('error', () => {}) // it need not read
  child.stdin.end(`${JSON.stringify({ ...input, action, machine, name: target.name, timeoutMs })}\n`)
  return running.ended(timeoutMs, signal)
}

/** What a killed daemon has left is told by these: see strays.ts. */
export const marksOf = ({ command, machine }: Omit<Target, 'name'>) => ({
  SNAPSWITCH_COMMAND: command,
  SNAPSWITCH_MACHINE: machine,
})
export const DAEMON = 'SNAPSWITCH_DAEMON'
export const PID = 'SNAPSWITCH_PID'
/**
 * What the command starts inherits the variable, and has another pid: so a command is told from a hypervisor that it
 * has left running.
 */
const START = `${PID}=$$; export ${PID}; exec "$0" "$@"`

function environment(target: Target, values: Readonly<Record<string, Value>>): Record<string, string> {
  const said = Object.entries(values).map(([key, value]) => {
    const name = key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()
    return [`SNAPSWITCH_${name}`, typeof value === 'object' ? value.map(lineOf).join('\n') : String(value)] as const
  })
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: homedir(),
    LANG: 'C.UTF-8',
    ...marksOf(target),
    SNAPSWITCH_NAME: target.name,
    [DAEMON]: incarnationOf(identify(process.pid)) ?? '',
    ...Object.fromEntries(said),
  }
}

/** One a line, for programs that read no JSON. Neither names nor paths have tabs or ends of lines (answers.ts). */
export const lineOf = (value: string | ExternalFile): string =>
  typeof value === 'string' ? value : `${value.role}\t${value.path}`

class Running {
  readonly #child: ChildProcess
  readonly #what: string
  readonly #onResumed: () => void
  readonly #ended: Promise<{ code: number | null; signal: string | null }>
  readonly #closed: Promise<void>
  #chunks: Buffer[] = []
  #bytes = 0
  #isFirstLine = true
  #complaint = ''
  #fail: (error: SnapswitchError) => void = () => {}

  constructor(child: ChildProcess, what: string, onResumed: () => void) {
    this.#child = child
    this.#what = what
    this.#onResumed = onResumed
    this.#ended = new Promise((resolve, reject) => {
      child.once('exit', (code, signal) => resolve({ code, signal }))
      child.once('error', (error) => reject(this.#unreachable(`does not start: ${error.message}`, error)))
    })
    this.#ended.catch(() => {})
    this.#closed = new Promise((resolve) => child.once('close', () => resolve()))
    child.stdout!.on('data', (chunk: Buffer) => this.#read(chunk))
    child.stderr!.on('data', (chunk: Buffer) => {
      this.#complaint = (this.#complaint + chunk.toString('utf8')).slice(-MOST_COMPLAINT)
    })
  }

  async ended(timeoutMs: number, signal: AbortSignal | undefined): Promise<string> {
    let stop = () => {}
    const failed = new Promise<never>((_, reject) => {
      this.#fail = reject
      const late = () => reject(this.#unreachable(`did not end within ${(timeoutMs / 1000).toFixed(1)} s`))
      const timer = setTimeout(late, timeoutMs)
      const called = () => reject(this.#unreachable('was called off'))
      signal?.addEventListener('abort', called)
      if (signal?.aborted === true) called()
      stop = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', called)
      }
    })
    failed.catch(() => {})
    try {
      const { code, signal: killedBy } = await Promise.race([this.#ended, failed])
      await Promise.race([this.#closed, afterwards(DRAIN_MS), failed])
      if (code === 0) return this.#output()
      const how = code === null ? `was ended by ${killedBy}` : `ended with exit code ${code}`
      throw this.#refused(how)
    } catch (error) {
      await this.#kill()
      throw error
    } finally {
      stop()
      this.#child.stdout?.destroy()
      this.#child.stderr?.destroy()
    }
  }

  #read(chunk: Buffer): void {
    this.#bytes += chunk.length
    if (this.#bytes > MOST_OUTPUT) {
      this.#chunks = []
      this.#fail(
        new SnapswitchError(
          'HYPERVISOR_PROTOCOL',
          `${this.#what} wrote more than ${MOST_OUTPUT} bytes to its standard output`,
          contract,
        ),
      )
      return
    }
    this.#chunks.push(chunk)
    if (!this.#isFirstLine) return
    const text = Buffer.concat(this.#chunks)
    const end = text.indexOf('\n')
    if (end < 0) return
    this.#isFirstLine = false
    if (text.toString('latin1', 0, end).trim() !== RESUMED) return
    this.#chunks = [text.subarray(end + 1)]
    this.#onResumed()
  }

  #output(): string {
    return Buffer.concat(this.#chunks).toString('utf8')
  }

  /** It and all that it has started in its process group; returns when it is gone. */
  async #kill(): Promise<void> {
    const { pid } = this.#child
    if (pid === undefined) return
    try {
      process.kill(-pid, 'SIGKILL')
    } catch {
      // All have ended.
    }
    await Promise.race([this.#ended.catch(() => {}), afterwards(KILL_MS)])
  }

  #said(): string {
    const text = this.#complaint.trim().replace(/\s*\n\s*/g, ' | ')
    return text === '' ? '' : `: ${text.slice(-600)}`
  }

  #refused(how: string): SnapswitchError {
    return new SnapswitchError(
      'HYPERVISOR_REFUSED',
      `${this.#what} ${how}${this.#said()}`,
      'The reason is the command’s own.',
    )
  }

  #unreachable(how: string, cause?: unknown): SnapswitchError {
    const action = `See what keeps it; it was killed with all that it had started in its process group. ${contract}`
    return new SnapswitchError('HYPERVISOR_UNREACHABLE', `${this.#what} ${how}${this.#said()}`, action, cause)
  }
}

const afterwards = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))
