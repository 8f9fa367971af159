// The way to one domain: libvirt's calls on a connection of its own, and through libvirt the domain's QMP monitor. A
// connection that is lost is made again at the next call, by the libvirt process.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import { deadlinePassed, remaining } from '../shared/deadline.js'
import type { Qmp } from '../shared/qmp.js'
import { type JsonObject, parseMessage, type QmpEvent, type QmpGreeting } from '../shared/qmp-messages.js'
import { type LibvirtProcess, LibvirtUnreachable, patiently } from './process-handle.js'
import type { CallArguments, CallName, DescribeResult, OpenResult } from './protocol.js'

export class DomainLink implements Qmp {
  readonly domain: string
  readonly uri: string
  greeting: QmpGreeting = { version: '', major: 0, minor: 0 }
  libvirtVersion = ''
  /** Pids of the libvirtds that calls go to, where that can be told. */
  daemons: readonly number[] = []
  readonly #process: LibvirtProcess
  readonly #lane: number
  readonly #listeners = new Set<(event: QmpEvent) => void>()
  #closed = false

  private constructor(libvirt: LibvirtProcess, uri: string, domain: string) {
    this.#process = libvirt
    this.uri = uri
    this.domain = domain
    this.#lane = libvirt.lane((event) => {
      for (const listener of [...this.#listeners]) listener(event)
    })
  }

  /** Connects. Throws HYPERVISOR_UNREACHABLE or MACHINE_UNKNOWN. */
  static async open(libvirt: LibvirtProcess, uri: string, domain: string, deadline: Deadline): Promise<DomainLink> {
    const link = new DomainLink(libvirt, uri, domain)
    try {
      await link.refresh(deadline)
      await link.describe(deadline)
      return link
    } catch (error) {
      link.close()
      throw error
    }
  }

  /** Asks who is there: libvirtd may have been started again, by another version. */
  async refresh(deadline: Deadline): Promise<void> {
    const { libvirt, hypervisor, daemon } = (await this.call('open', {}, deadline)) as OpenResult
    const version = hypervisor ?? ''
    const [major = 0, minor = 0] = version.split('.').map(Number)
    this.greeting = { version, major, minor }
    this.libvirtVersion = libvirt
    this.daemons = daemon === null ? [] : [daemon]
  }

  /** A call about this domain, unless its arguments name none. */
  call(call: CallName, args: CallArguments, deadline: Deadline): Promise<unknown> {
    if (this.#closed) {
      const closed = new LibvirtUnreachable(`The connection to ${this.domain} is closed.`, 'Attach to it again.')
      return Promise.reject(closed)
    }
    const about = { domain: this.domain, ...args }
    return this.#process.call({ lane: this.#lane, uri: this.uri, watch: this.domain, call, args: about }, deadline)
  }

  /** Like `call`, once more for every connection that is lost: only for what may be done twice. */
  patiently<T>(ask: () => Promise<T>, deadline: Deadline): Promise<T> {
    return patiently(ask, deadline, () => this.#closed)
  }

  async describe(deadline: Deadline): Promise<DescribeResult> {
    return (await this.call('describe', {}, deadline)) as DescribeResult
  }

  async xml(flags: number, deadline: Deadline): Promise<string> {
    return (await this.call('domainXml', { flags }, deadline)) as string
  }

  /** A QMP command. Rejects with HYPERVISOR_REFUSED when QEMU answers with an error. */
  execute(command: string, args: JsonObject, deadline: Deadline): Promise<unknown> {
    return this.#command(command, args, undefined, deadline)
  }

  /** In order: the connection does one after the other. */
  executeAll(commands: readonly (readonly [string, JsonObject])[], deadline: Deadline): Promise<unknown>[] {
    return commands.map(([command, args]) => this.execute(command, args, deadline))
  }

  /** A command that carries a descriptor for writing; the caller still owns `fd`. */
  executeWithDescriptor(command: string, args: JsonObject, fd: number, deadline: Deadline): Promise<unknown> {
    return this.#command(command, args, `/proc/${process.pid}/fd/${fd}`, deadline)
  }

  async #command(command: string, args: JsonObject, descriptorPath: string | undefined, deadline: Deadline) {
    // Without an id: libvirt puts in its own.
    const text = JSON.stringify({ execute: command, arguments: args })
    const passed = descriptorPath === undefined ? {} : { descriptorPath }
    const answer = (await this.call('monitor', { command: text, ...passed }, deadline)) as string
    const message = parseMessage(answer.trim())
    if (message.kind === 'return') return message.value
    throw new SnapswitchError(
      message.kind === 'error' ? 'HYPERVISOR_REFUSED' : 'HYPERVISOR_PROTOCOL',
      // The form that qemu-migration.ts's reasonOf takes apart.
      `QEMU (${this.domain}) refused ${command}: ${message.kind === 'error' ? message.description : answer}`,
      'See the domain’s log in /var/log/libvirt/qemu/ for the reason.',
    )
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Listens from the moment it is called. Events that pass while no connection is there are never seen. */
  event(matches: (event: QmpEvent) => boolean, what: string, deadline: Deadline): Promise<QmpEvent> {
    return new Promise((resolve, reject) => {
      const end = () => {
        stop()
        clearTimeout(timer)
      }
      const stop = this.onEvent((event) => {
        if (!matches(event)) return
        end()
        resolve(event)
      })
      const timer = setTimeout(() => {
        end()
        reject(deadlinePassed(what))
      }, remaining(deadline))
    })
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#listeners.clear()
    this.#process.closeLane(this.#lane, this.uri)
  }
}
