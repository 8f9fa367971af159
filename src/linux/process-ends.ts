// Tells when processes have ended, of whatever parents: a pidfd is readable then (pidfd_open(2)). One look costs one
// system call, however many are watched.

import koffi from 'koffi'
import { Events } from './epoll.js'
import { libc } from './libc.js'

const SYS_PIDFD_OPEN = 434

export class ProcessEnds {
  readonly #events = new Events()
  readonly #descriptors = new Map<number, number>()

  /** Readable when one has ended. */
  get fd(): number {
    return this.#events.fd
  }

  /** False: it has ended already. */
  add(pid: number): boolean {
    if (this.#descriptors.has(pid)) return true
    const syscall = koffi.load('libc.so.6').func('long syscall(long, long, long, long, long)') as (
      ...numbers: number[]
    ) => number
    const descriptor = syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0)
    if (descriptor < 0) return false
    this.#descriptors.set(pid, descriptor)
    this.#events.add(descriptor, pid)
    return true
  }

  remove(pid: number): void {
    const descriptor = this.#descriptors.get(pid)
    if (descriptor === undefined) return
    this.#descriptors.delete(pid)
    libc().close(descriptor)
  }

  /** Lets go of all others. */
  keepOnly(pids: ReadonlySet<number | undefined>): void {
    for (const pid of [...this.#descriptors.keys()]) if (!pids.has(pid)) this.remove(pid)
  }

  /** Those that have ended since the last call; they are not watched any more. */
  drain(): number[] {
    const ended: number[] = []
    for (let count = this.#events.look(); count > 0; count = this.#events.look()) {
      for (let i = 0; i < count; i++) ended.push(this.#events.dataOf(i))
      for (const pid of ended) this.remove(pid)
    }
    return ended
  }

  close(): void {
    for (const pid of [...this.#descriptors.keys()]) this.remove(pid)
    this.#events.close()
  }
}
