// The daemon's hold on its libvirt process: starts it when it is first needed and again when it has died, sends calls
// and gives each its result, its error or its deadline. What is under way when the process dies fails; whoever can,
// asks again.

import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type ErrorCode, SnapswitchError } from '../../errors/errors.js'
import { steadyUs } from '../../runtime/clock.js'
import { ENGINE_FLAGS } from '../../runtime/engine.js'
import { environmentForNode } from '../../runtime/environment.js'
import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, pauseFor, remaining } from '../shared/deadline.js'
import { type CallError, type CallMessage, type CallName, errorNumber, parseProcessMessage } from './protocol.js'

export type Request = Omit<CallMessage, 'id'>

export interface MonitorEvent {
  readonly domain: string
  readonly name: string
  /** Microseconds of CLOCK_REALTIME, QEMU's own. */
  readonly atUs: number
  readonly data: { readonly [key: string]: unknown }
}

/** How long an answer may be overdue before the process counts as hung. */
const hungAfterMs = 20_000
/** One waits in libvirt's event loop, the others for libvirtd. */
const threads = 24
const longestQueue = 1000

interface Pending {
  readonly call: CallName
  readonly subject: string
  readonly uri: string
  resolve(result: unknown): void
  reject(error: SnapswitchError): void
}

const startHint = (uri: string) =>
  `Start it (\`systemctl start libvirtd\`, or \`libvirtd -d\` without systemd), and see that \`virsh -c ${uri} list\` works for root.`

/** An error that means: the connection is gone, the domain itself is as it was. */
export class LibvirtUnreachable extends SnapswitchError {
  constructor(message: string, action: string, cause?: unknown) {
    super('HYPERVISOR_UNREACHABLE', message, action, cause)
  }
}

const askAgainMs = 200

/**
 * Asks once more for every connection that is lost: only for what may be done twice. `isOver`: nobody wants it any
 * more.
 */
export async function patiently<T>(ask: () => Promise<T>, deadline: Deadline, isOver = () => false): Promise<T> {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof LibvirtUnreachable) || isOver() || remaining(deadline) === 0) throw error
      await pauseFor(askAgainMs, deadline)
    }
  }
}

function codeOf(error: CallError): ErrorCode {
  switch (error.code) {
    case errorNumber.noDomain:
      return 'MACHINE_UNKNOWN'
    case errorNumber.operationInvalid:
      return /not running|not active/.test(error.message) ? 'MACHINE_NOT_RUNNING' : 'HYPERVISOR_REFUSED'
    case errorNumber.operationTimeout:
      return 'SNAPSHOT_BUSY'
    case errorNumber.configUnsupported:
      return 'MACHINE_UNSUPPORTED'
    case errorNumber.operationDenied:
    case errorNumber.accessDenied:
      return 'PERMISSION'
    default:
      return /No space left|Disk quota/.test(error.message) ? 'STORE_FULL' : 'HYPERVISOR_REFUSED'
  }
}

const actions: Partial<Record<ErrorCode, string>> = {
  MACHINE_UNKNOWN: '`virsh list --all` shows the domains that libvirt knows; use one of these names.',
  MACHINE_NOT_RUNNING: 'Start the domain: `virsh start NAME`.',
  SNAPSHOT_BUSY: 'Another job of libvirt holds the domain: wait for it, or end it with `virsh domjobabort NAME`.',
  PERMISSION: 'Run the daemon as root, or let its user manage domains.',
  STORE_FULL: 'Free some space on the disk that holds the images or the store.',
}

export function fromCallError(error: CallError, uri: string, subject: string): SnapswitchError {
  if (error.disconnected) {
    const missing = /Failed to load|cannot open shared object/i.test(error.message)
    return missing
      ? new LibvirtUnreachable(
          `libvirt is not installed: ${error.message}`,
          'Install it: `apt-get install libvirt-daemon-system`.',
        )
      : new LibvirtUnreachable(`libvirtd does not answer at ${uri}: ${error.message}`, startHint(uri))
  }
  const code = codeOf(error)
  return new SnapswitchError(
    code,
    `libvirt refused for ${subject}: ${error.message}`,
    actions[code] ?? 'See libvirtd’s log, and the domain’s in /var/log/libvirt/qemu/, for the reason.',
    { code: error.code },
  )
}

export class LibvirtProcess {
  #child: ChildProcess | null = null
  readonly #pending = new Map<number, Pending>()
  readonly #listeners = new Map<number, (event: MonitorEvent) => void>()
  #nextCall = 1
  #nextLane = 1

  /** A new connection's number; `listener` hears the QMP events of the domain watched on it. */
  lane(listener: (event: MonitorEvent) => void): number {
    const lane = this.#nextLane++
    this.#listeners.set(lane, listener)
    return lane
  }

  /** Its connection is closed; calls that are still under way end by themselves. */
  closeLane(lane: number, uri: string): void {
    if (!this.#listeners.delete(lane) || this.#child === null) return
    this.call({ lane, uri, watch: null, call: 'close', args: {} }, performance.now() + 5000).catch(() => {})
  }

  /** Ends the process; for good only when nothing is asked any more. */
  end(): void {
    this.#child?.stdin?.end()
  }

  /** The process's pid while it runs. */
  get pid(): number | null {
    return this.#child?.pid ?? null
  }

  call({ lane, uri, watch, call, args }: Request, deadline: Deadline): Promise<unknown> {
    const subject = args.domain ?? args.file ?? uri
    if (this.#pending.size >= longestQueue) {
      return Promise.reject(new LibvirtUnreachable('libvirtd answers none of the calls made so far.', startHint(uri)))
    }
    const child = this.#start()
    const id = this.#nextCall++
    return new Promise((resolve, reject) => {
      let hung: NodeJS.Timeout | undefined
      const late = setTimeout(
        () => {
          reject(deadlinePassed(`libvirt’s ${call} of ${subject}`))
          hung = setTimeout(() => this.#lost(child, 'it hung', true), hungAfterMs)
          hung.unref()
        },
        Math.min(2 ** 31 - 1, Math.max(1, remaining(deadline))),
      )
      const settle = () => {
        clearTimeout(late)
        clearTimeout(hung)
        this.#pending.delete(id)
      }
      this.#pending.set(id, {
        call,
        subject,
        uri,
        resolve: (result) => {
          settle()
          resolve(result)
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      })
      child.stdin!.write(`${JSON.stringify({ id, lane, uri, watch, call, args } satisfies CallMessage)}\n`)
    })
  }

  #start(): ChildProcess {
    if (this.#child !== null) return this.#child
    const env = environmentForNode()
    const child = spawn(
      process.execPath,
      [...ENGINE_FLAGS, fileURLToPath(new URL('./libvirt-process.js', import.meta.url))],
      {
        env: { ...env, UV_THREADPOOL_SIZE: String(threads) },
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    )
    child.on('error', (error) => this.#lost(child, error.message, false))
    child.on('exit', (code, signal) => this.#lost(child, `it ended with ${signal ?? `exit code ${code}`}`, false))
    child.stdin!.on('error', () => {})
    createInterface({ input: child.stdout! }).on('line', (line) => this.#hear(child, line))
    // It shall not keep this process alive; it ends when its input does.
    child.unref()
    for (const stream of [child.stdin, child.stdout]) (stream as unknown as { unref?(): void }).unref?.()
    this.#child = child
    return child
  }

  #hear(child: ChildProcess, line: string): void {
    const message = parseProcessMessage(line)
    if (message === null) {
      // A process that is killed while it writes leaves half a line.
      this.#lost(child, 'it spoke no JSON', true)
      return
    }
    if (message.kind === 'event') {
      const data = typeof message.data === 'object' && message.data !== null ? message.data : {}
      const { lane, domain, name, atUs } = message
      this.#listeners.get(lane)?.({ domain, name, atUs: steadyUs(atUs), data: data as MonitorEvent['data'] })
      return
    }
    const pending = this.#pending.get(message.id)
    if (pending === undefined) return
    if (message.kind === 'result') pending.resolve(message.result)
    else pending.reject(fromCallError(message.error, pending.uri, pending.subject))
  }

  #lost(child: ChildProcess, reason: string, kill: boolean): void {
    if (kill) child.kill('SIGKILL')
    if (this.#child !== child) return
    this.#child = null
    for (const [, pending] of [...this.#pending]) {
      pending.reject(
        new LibvirtUnreachable(
          `The process that talks to libvirt was lost during ${pending.call}: ${reason}.`,
          'It is started again at the next call. Try again; if it recurs, see the daemon’s log.',
        ),
      )
    }
  }
}
