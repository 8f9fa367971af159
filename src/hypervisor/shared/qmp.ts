// A QMP client (QEMU docs/interop/qmp-spec.rst): one unix socket, commands matched to answers by id, events to
// listeners. It owns the socket's descriptor, so that one command can carry a file descriptor with it. No wait here is
// without end, and no line without bound: a peer that is silent, dead or mad costs an error.

import net from 'node:net'
import { type ErrorCode, SnapswitchError } from '../../errors/errors.js'
import { errnoName } from '../../linux/libc.js'
import { steadyUs } from '../../runtime/clock.js'
import type { Deadline } from '../hypervisor.js'
import { by, pauseFor, remaining } from './deadline.js'
import {
  connectUnix,
  longestSocketPath,
  type PeerCredentials,
  peerCredentials,
  sendWithDescriptor,
} from './descriptors.js'
import { findProcesses, whyStill } from './process.js'
import { type JsonObject, LineSplitter, parseMessage, type QmpEvent, type QmpGreeting } from './qmp-messages.js'

export type { JsonObject, QmpEvent } from './qmp-messages.js'

const EAGAIN = 11
const ENOENT = 2
const ECONNREFUSED = 111

interface Pending {
  readonly command: string
  resolve(value: unknown): void
  reject(error: Error): void
}

const unreachable = (message: string, action: string, cause?: unknown) =>
  new SnapswitchError('HYPERVISOR_UNREACHABLE', message, action, cause)

const startHint = 'Check that QEMU runs with `-qmp unix:PATH,server=on,wait=off` and that the path is the same.'
const occupiedHint =
  'QEMU serves one client per QMP socket: close the other client, or give QEMU a second `-qmp` socket for snapswitch.'

/** Commands and events, whoever carries them: QEMU's own socket, or libvirt. */
export type Qmp = Pick<QmpClient, 'greeting' | 'execute' | 'executeAll' | 'executeWithDescriptor' | 'onEvent' | 'event'>

export class QmpClient {
  readonly path: string
  readonly peer: PeerCredentials
  greeting: QmpGreeting = { version: '', major: 0, minor: 0 }
  readonly #socket: net.Socket
  readonly #fd: number
  readonly #lines = new LineSplitter()
  readonly #pending = new Map<number, Pending>()
  readonly #listeners = new Set<(event: QmpEvent) => void>()
  readonly #closed: Promise<SnapswitchError>
  #nextId = 1
  #failure: SnapswitchError | null = null
  #greet: Pending | null = null
  #announceClosed!: (error: SnapswitchError) => void

  private constructor(path: string, fd: number) {
    this.path = path
    this.#fd = fd
    this.peer = peerCredentials(fd)
    this.#closed = new Promise((resolve) => {
      this.#announceClosed = resolve
    })
    this.#socket = new net.Socket({ fd, readable: true, writable: true })
    this.#socket.on('data', (chunk) => this.#receive(chunk))
    this.#socket.on('error', (error) => this.#fail(this.#lost(error)))
    this.#socket.on('close', () => this.#fail(this.#lost()))
  }

  /** Connects, reads the greeting and leaves negotiation mode. Rejects with HYPERVISOR_UNREACHABLE or _PROTOCOL. */
  static async connect(path: string, deadline: Deadline): Promise<QmpClient> {
    const client = new QmpClient(path, await connectDescriptor(path, deadline))
    try {
      const greeting = new Promise<unknown>((resolve, reject) => {
        client.#greet = { command: 'greeting', resolve, reject }
      })
      client.greeting = (await by(deadline, greeting, () =>
        silent(path, client.peer.pid, 'accepts a connection but sends no QMP greeting', occupiedHint),
      )) as QmpGreeting
      await client.execute('qmp_capabilities', {}, deadline)
      return client
    } catch (error) {
      client.close()
      throw error
    }
  }

  /** Why the connection ended; null while it has not. */
  get failure(): SnapswitchError | null {
    return this.#failure
  }

  /**
   * Runs a command. Rejects with HYPERVISOR_REFUSED when QEMU answers with an error, _UNREACHABLE when it does not
   * answer.
   */
  execute(command: string, args: JsonObject, deadline: Deadline): Promise<unknown> {
    const { text, answer } = this.#expect(command, args, deadline)
    if (this.#failure === null) this.#socket.write(text)
    return answer
  }

  /** Runs commands in order, sent in one write: QEMU works them off without a round trip between them. */
  executeAll(commands: readonly (readonly [string, JsonObject])[], deadline: Deadline): Promise<unknown>[] {
    const expected = commands.map(([command, args]) => this.#expect(command, args, deadline))
    if (this.#failure === null) this.#socket.write(expected.map(({ text }) => text).join(''))
    return expected.map(({ answer }) => answer)
  }

  /** Runs a command (`getfd`, `add-fd`) that carries a descriptor; the caller still owns `fd`. */
  async executeWithDescriptor(command: string, args: JsonObject, fd: number, deadline: Deadline): Promise<unknown> {
    // Bytes that net.Socket still holds would overtake or be overtaken: wait until it holds none.
    while (this.#socket.writableLength > 0 && this.#failure === null) {
      if (remaining(deadline) === 0) throw this.#silent(command)
      await pauseFor(1, deadline)
    }
    const { text, answer, abandon } = this.#expect(command, args, deadline)
    if (this.#failure !== null) return answer
    const bytes = Buffer.from(text)
    const sent = sendWithDescriptor(this.#fd, bytes, fd)
    if (sent < 0) {
      abandon(unreachable(`${this.path}: passing a descriptor failed: ${errnoName(-sent)}.`, startHint))
    } else if (sent < bytes.length) {
      this.#socket.write(bytes.subarray(sent))
    }
    return answer
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** The first event from now on that `matches`; call it before the command that brings it about. */
  event(matches: (event: QmpEvent) => boolean, what: string, deadline: Deadline): Promise<QmpEvent> {
    let stop = () => {}
    const seen = new Promise<QmpEvent>((resolve, reject) => {
      stop = this.onEvent((event) => {
        if (matches(event)) resolve(event)
      })
      void this.#closed.then(reject)
    })
    const result = by(deadline, seen, () => this.#silent(what)).finally(stop)
    result.catch(() => {}) // the caller may stop caring before it settles
    return result
  }

  close(): void {
    this.#fail(unreachable(`The connection to ${this.path} was closed.`, 'Attach to the machine again.'))
  }

  #expect(command: string, args: JsonObject, deadline: Deadline) {
    const id = this.#nextId++
    let abandon: (error: Error) => void = () => {}
    const settled = new Promise<unknown>((resolve, reject) => {
      abandon = (error) => {
        this.#pending.delete(id)
        reject(error)
      }
      if (this.#failure === null) this.#pending.set(id, { command, resolve, reject })
      else reject(this.#failure)
    })
    const answer = by(deadline, settled, () => this.#silent(command))
    answer.catch(() => {}) // a pipelined answer may be looked at later than it fails
    const message = Object.keys(args).length > 0 ? { execute: command, arguments: args, id } : { execute: command, id }
    return { text: `${JSON.stringify(message)}\n`, answer, abandon }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) {
        this.#dispatch(line)
        if (this.#failure !== null) return
      }
    } catch (error) {
      this.#fail(this.#error('HYPERVISOR_PROTOCOL', error))
    }
  }

  #dispatch(line: string): void {
    const message = parseMessage(line)
    if (this.#greet !== null) {
      if (message.kind !== 'greeting') throw new Error(`expected a QMP greeting, got: ${line.slice(0, 80)}`)
      const greet = this.#greet
      this.#greet = null
      greet.resolve(message.greeting)
      return
    }
    switch (message.kind) {
      case 'event':
        for (const listener of this.#listeners) listener({ ...message.event, atUs: steadyUs(message.event.atUs) })
        return
      case 'greeting':
        throw new Error('a second greeting')
      case 'return':
      case 'error': {
        const pending = typeof message.id === 'number' ? this.#pending.get(message.id) : undefined
        if (pending === undefined) {
          // An answer may come after its deadline; one to a question never asked may not.
          if (typeof message.id === 'number' && message.id > 0 && message.id < this.#nextId) return
          throw new Error(`an answer to a command that was not sent: ${line.slice(0, 80)}`)
        }
        this.#pending.delete(message.id as number)
        if (message.kind === 'return') pending.resolve(message.value)
        else pending.reject(refused(this.path, pending.command, message.description))
      }
    }
  }

  #fail(error: SnapswitchError): void {
    if (this.#failure !== null) return
    this.#failure = error
    this.#socket.destroy()
    this.#greet?.reject(error)
    this.#greet = null
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
    this.#announceClosed(error)
    this.#listeners.clear()
  }

  #lost(cause?: unknown): SnapswitchError {
    const waiting = [...new Set([...this.#pending.values()].map((pending) => pending.command))]
    const during =
      this.#greet !== null ? 'before its greeting' : waiting.length > 0 ? `during ${waiting.join(', ')}` : ''
    return unreachable(
      `${this.path} was closed by its other end${during === '' ? '' : ` ${during}`}.`,
      'QEMU has ended or dropped the connection: see its log.',
      cause,
    )
  }

  #silent(command: string): SnapswitchError {
    return silent(
      this.path,
      this.peer.pid,
      `did not answer ${command} by the deadline`,
      'QEMU is stuck or overloaded, or the deadline is too short: see its log and the host’s load.',
    )
  }

  #error(code: ErrorCode, cause: unknown): SnapswitchError {
    const text = cause instanceof Error ? cause.message : String(cause)
    return new SnapswitchError(code, `${this.path} does not speak QMP: ${text}`, startHint, cause)
  }
}

/** Nobody answers: the kernel may know why. */
function silent(path: string, pid: number, what: string, hint: string): SnapswitchError {
  const why = pid > 0 ? whyStill(pid) : null
  return unreachable(`${path} ${what}${why === null ? '' : `: ${why.what}`}.`, why?.action ?? hint)
}

function refused(path: string, command: string, description: string): SnapswitchError {
  return new SnapswitchError(
    'HYPERVISOR_REFUSED',
    `QEMU (${path}) refused ${command}: ${description}`,
    'The reason is QEMU’s own; its log may say more.',
  )
}

async function connectDescriptor(path: string, deadline: Deadline): Promise<number> {
  if (Buffer.byteLength(path) > longestSocketPath) {
    throw unreachable(
      `${path} is longer than the ${longestSocketPath} bytes a socket path can have.`,
      'Use a shorter path.',
    )
  }
  for (;;) {
    const fd = connectUnix(path)
    if (fd >= 0) return fd
    // A unix socket whose backlog is full says EAGAIN: others wait in line before us.
    if (-fd === EAGAIN && remaining(deadline) > 0) {
      await pauseFor(10, deadline)
      continue
    }
    if (-fd === EAGAIN) {
      const named = findProcesses((argv) => argv.some((argument) => argument.includes(path)))
      const still = named.find(({ pid }) => whyStill(pid) !== null)
      throw silent(path, still?.pid ?? 0, 'is occupied by other clients', occupiedHint)
    }
    const reason =
      -fd === ENOENT ? 'does not exist' : -fd === ECONNREFUSED ? 'has no listener' : `fails with ${errnoName(-fd)}`
    throw unreachable(`The QMP socket ${path} ${reason}.`, startHint)
  }
}
