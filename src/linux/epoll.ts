// One descriptor that is readable when any of many is: epoll(7), for sockets that hardly ever have anything.

import { check, libc } from './libc.js'

const EPOLL_CLOEXEC = 0o2000000
const EPOLL_CTL_ADD = 1
const EPOLL_CTL_DEL = 2
const EPOLLIN = 1

export class Events {
  readonly fd: number

  constructor() {
    this.fd = check(libc().epoll_create1(EPOLL_CLOEXEC), 'make an epoll descriptor')
  }

  /** Watched until it is closed or removed. Throws SYSCALL. */
  add(fd: number): void {
    // struct epoll_event is packed on x86-64 only; its events come first everywhere.
    const event = new Uint8Array(16)
    new DataView(event.buffer).setUint32(0, EPOLLIN, true)
    check(libc().epoll_ctl(this.fd, EPOLL_CTL_ADD, fd, event), 'watch a socket')
  }

  remove(fd: number): void {
    libc().epoll_ctl(this.fd, EPOLL_CTL_DEL, fd, null)
  }
}

let events: Events | undefined

/** Of the sockets that hold what was kept from the rings; one per thread. */
export function asideEvents(): Events {
  events ??= new Events()
  return events
}

/** When the thread ends: a descriptor is the process's. */
export function closeAsideEvents(): void {
  if (events !== undefined) libc().close(events.fd)
  events = undefined
}
