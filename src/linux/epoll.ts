// One descriptor that is readable when any of many is: epoll(7), for sockets that hardly ever have anything.

import { type Arena, mapArena, releaseArena } from './arena.js'
import { check, libc } from './libc.js'

const EPOLL_CLOEXEC = 0o2000000
const EPOLL_CTL_ADD = 1
const EPOLL_CTL_DEL = 2
const EPOLLIN = 1
const EPOLLERR = 8
const EPOLLHUP = 16
const EPOLLET = 0x80000000
const FAILURE = EPOLLERR | EPOLLHUP
/** Taken at a time; those left are found by the next look. */
const BATCH = 64
/** struct epoll_event: events u32, data u64; packed on x86-64 only. In words. */
const IS_PACKED = process.arch === 'x64'
const STRIDE = IS_PACKED ? 3 : 4
const DATA = IS_PACKED ? 1 : 2

export class Events {
  readonly fd: number
  readonly #ready: Arena = mapArena(BATCH * STRIDE * 4)

  /** `fd`: of another thread's. */
  constructor(fd = check(libc().epoll_create1(EPOLL_CLOEXEC), 'make an epoll descriptor')) {
    this.fd = fd
  }

  /**
   * Watched until it is closed or removed, under the number `data`. `once`: what comes is told once, not until it is
   * taken. Throws SYSCALL.
   */
  add(fd: number, data: number, once = false): void {
    const event = new Uint32Array(4)
    event[0] = once ? EPOLLIN | EPOLLET : EPOLLIN
    event[DATA] = data
    check(libc().epoll_ctl(this.fd, EPOLL_CTL_ADD, fd, new Uint8Array(event.buffer)), 'watch a socket')
  }

  remove(fd: number): void {
    libc().epoll_ctl(this.fd, EPOLL_CTL_DEL, fd, null)
  }

  /** Looks, without waiting. Returns how many are ready, of which `dataOf` and `hasFailed` tell. */
  look(): number {
    return Math.max(0, libc().epoll_wait(this.fd, this.#ready.address, BATCH, 0))
  }

  dataOf(i: number): number {
    return this.#ready.words[i * STRIDE + DATA]
  }

  hasFailed(i: number): boolean {
    return (this.#ready.words[i * STRIDE] & FAILURE) !== 0
  }

  close(): void {
    libc().close(this.fd)
    releaseArena(this.#ready)
  }
}

let events: Events | undefined

/** Of the sockets that hold what was kept from the rings, by port; one per thread. */
export function asideEvents(): Events {
  events ??= new Events()
  return events
}

/** When the thread ends: a descriptor is the process's. */
export function closeAsideEvents(): void {
  events?.close()
  events = undefined
}
