// The FFI base: the few libc functions that the rest of src/linux is built on, bound once per thread, and errno as
// typed errors. Addresses are plain numbers here (user space ends below 2^47), because a BigInt per call costs an
// allocation.

import koffi from 'koffi'
import { type ErrorCode, MORE_FILES, SnapswitchError } from '../errors/errors.js'

/** A byte range that the kernel reads or fills during one call. */
export type Bytes = Uint8Array | null

interface Libc {
  socket(domain: number, type: number, protocol: number): number
  close(fd: number): number
  bind(fd: number, address: Bytes, length: number): number
  connect(fd: number, address: Bytes, length: number): number
  setsockopt(fd: number, level: number, name: number, value: Bytes, length: number): number
  getsockopt(fd: number, level: number, name: number, value: Bytes, length: Bytes): number
  getsockname(fd: number, address: Bytes, length: Bytes): number
  ioctl(fd: number, request: number, argument: Bytes): number
  open(path: string, flags: number, mode: number): number
  read(fd: number, buffer: Bytes, length: number): number
  write(fd: number, buffer: Bytes, length: number): number
  send(fd: number, buffer: Bytes, length: number, flags: number): number
  sendto(fd: number, buffer: Bytes, length: number, flags: number, address: Bytes, addressLength: number): number
  recv(fd: number, buffer: Bytes, length: number, flags: number): number
  sendmsg(fd: number, messageAddress: number, flags: number): number
  recvmsg(fd: number, messageAddress: number, flags: number): number
  /** `address` of an array of struct mmsghdr, laid out by hand. */
  sendmmsg(fd: number, address: number, count: number, flags: number): number
  recvmmsg(fd: number, address: number, count: number, flags: number, timeout: number): number
  /** `address` of an array of struct pollfd. */
  poll(address: number, count: number, timeoutMs: number): number
  eventfd(initial: number, flags: number): number
  epoll_create1(flags: number): number
  epoll_ctl(fd: number, operation: number, of: number, event: Bytes): number
  /** `address` of an array of struct epoll_event. */
  epoll_wait(fd: number, address: number, most: number, timeoutMs: number): number
  flock(fd: number, operation: number): number
  fcntl(fd: number, command: number, argument: Bytes): number
  fcntlNumber(fd: number, command: number, argument: number): number
  pipe2(ends: Int32Array, flags: number): number
  mmap(address: number, length: number, protection: number, flags: number, fd: number, offset: number): number
  munmap(address: number, length: number): number
  memcpy(to: number, from: number, length: number): number
  /** Of memory that never moves: its address, when `length` is 0. */
  memmove(to: Uint8Array, from: Uint8Array, length: number): number
  /** bpf(2), which libc has no function for. */
  bpf(command: number, attributes: Bytes, length: number): number
  if_nametoindex(name: string): number
  /** signal(2); dispositions are 0 (default) and 1 (ignore). Gives the former one, -1 on failure. */
  signal(number: number, disposition: number): number
  sched_getscheduler(thread: number): number
  sched_getparam(thread: number, parameter: Bytes): number
  sched_setscheduler(thread: number, policy: number, parameter: Bytes): number
  listen(fd: number, backlog: number): number
  accept4(fd: number, address: Bytes, length: Bytes, flags: number): number
  prctl(option: number, value: number, third: number, fourth: number, fifth: number): number
  /** Ends the process at once, also where a thread of it waits in the kernel. */
  _exit(code: number): void
  /** The processors that a thread may use, a bit each; thread 0 is the calling one. */
  sched_getaffinity(thread: number, length: number, mask: Bytes): number
  sched_setaffinity(thread: number, length: number, mask: Bytes): number
  /** membarrier(2), which libc has no function for. */
  membarrier(command: number): number
}

const SYS_BPF = process.arch === 'arm64' ? 280 : 321
const SYS_MEMBARRIER = process.arch === 'arm64' ? 283 : 324

function bindLibc(): Libc {
  const library = koffi.load('libc.so.6')
  const syscall = library.func('int64_t syscall(int64_t, int, void *, uint32_t)')
  // `ioctl`, `fcntl`, `open` and `prctl` are variadic in C; with integer and pointer arguments the x86-64 and arm64
  // Linux calling conventions pass them like fixed ones.
  return {
    socket: library.func('int socket(int, int, int)'),
    close: library.func('int close(int)'),
    bind: library.func('int bind(int, const void *, uint32_t)'),
    connect: library.func('int connect(int, const void *, uint32_t)'),
    setsockopt: library.func('int setsockopt(int, int, int, const void *, uint32_t)'),
    getsockopt: library.func('int getsockopt(int, int, int, void *, void *)'),
    getsockname: library.func('int getsockname(int, void *, void *)'),
    ioctl: library.func('int ioctl(int, ulong, void *)'),
    open: library.func('int open(const char *, int, uint32_t)'),
    read: library.func('int64_t read(int, void *, size_t)'),
    write: library.func('int64_t write(int, const void *, size_t)'),
    send: library.func('int64_t send(int, const void *, size_t, int)'),
    sendto: library.func('int64_t sendto(int, const void *, size_t, int, const void *, uint32_t)'),
    recv: library.func('int64_t recv(int, void *, size_t, int)'),
    sendmsg: library.func('int64_t sendmsg(int, uintptr_t, int)'),
    recvmsg: library.func('int64_t recvmsg(int, uintptr_t, int)'),
    sendmmsg: library.func('int sendmmsg(int, uintptr_t, uint32_t, int)'),
    recvmmsg: library.func('int recvmmsg(int, uintptr_t, uint32_t, int, uintptr_t)'),
    poll: library.func('int poll(uintptr_t, ulong, int)'),
    eventfd: library.func('int eventfd(uint32_t, int)'),
    epoll_create1: library.func('int epoll_create1(int)'),
    epoll_ctl: library.func('int epoll_ctl(int, int, int, void *)'),
    epoll_wait: library.func('int epoll_wait(int, uintptr_t, int, int)'),
    flock: library.func('int flock(int, int)'),
    fcntl: library.func('int fcntl(int, int, void *)'),
    fcntlNumber: library.func('fcntl', 'int', ['int', 'int', 'int']),
    pipe2: library.func('int pipe2(int *, int)'),
    mmap: library.func('intptr_t mmap(uintptr_t, size_t, int, int, int, int64_t)'),
    munmap: library.func('int munmap(uintptr_t, size_t)'),
    memcpy: library.func('uintptr_t memcpy(uintptr_t, uintptr_t, size_t)'),
    memmove: library.func('uintptr_t memmove(void *, void *, size_t)'),
    bpf: (command: number, attributes: Bytes, length: number) => syscall(SYS_BPF, command, attributes, length),
    if_nametoindex: library.func('uint32_t if_nametoindex(const char *)'),
    signal: library.func('intptr_t signal(int, intptr_t)'),
    sched_getscheduler: library.func('int sched_getscheduler(int)'),
    sched_getparam: library.func('int sched_getparam(int, void *)'),
    sched_setscheduler: library.func('int sched_setscheduler(int, int, const void *)'),
    listen: library.func('int listen(int, int)'),
    accept4: library.func('int accept4(int, void *, void *, int)'),
    prctl: library.func('int prctl(int, ulong, ulong, ulong, ulong)'),
    _exit: library.func('void _exit(int)'),
    sched_getaffinity: library.func('int sched_getaffinity(int, size_t, void *)'),
    sched_setaffinity: library.func('int sched_setaffinity(int, size_t, const void *)'),
    membarrier: (command: number) => syscall(SYS_MEMBARRIER, command, null, 0),
  } as unknown as Libc
}

let bound: Libc | undefined

/** libc, bound on first use: importing this file does nothing. */
export function libc(): Libc {
  bound ??= bindLibc()
  return bound
}

/** errno of the calling thread's last failed call; read it before anything else is called. */
export function errno(): number {
  return koffi.errno()
}

export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  ENXIO: 6,
  E2BIG: 7,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  EPIPE: 32,
  EMSGSIZE: 90,
  EADDRINUSE: 98,
  ENETDOWN: 100,
  ECONNRESET: 104,
  ENOBUFS: 105,
} as const

const names = new Map<number, string>(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]))

/** 16 -> "EBUSY". */
export function errnoName(value: number): string {
  return names.get(value) ?? `errno ${value}`
}

const codes: Record<number, { code: ErrorCode; action: string }> = {
  [Errno.EPERM]: { code: 'PERMISSION', action: 'Run as root, or grant CAP_NET_ADMIN and CAP_NET_RAW.' },
  [Errno.EACCES]: { code: 'PERMISSION', action: 'Run as root, or grant CAP_NET_ADMIN and CAP_NET_RAW.' },
  [Errno.ENODEV]: { code: 'DEVICE_MISSING', action: 'Create the device first; `ip link` lists those that exist.' },
  [Errno.ENXIO]: { code: 'DEVICE_MISSING', action: 'Create the device first; `ip link` lists those that exist.' },
  [Errno.EBUSY]: { code: 'DEVICE_BUSY', action: 'End the program that holds the device, or use another device.' },
  [Errno.ENFILE]: { code: 'SYSCALL', action: MORE_FILES },
  [Errno.EMFILE]: { code: 'SYSCALL', action: MORE_FILES },
  [Errno.ENOMEM]: { code: 'SYSCALL', action: 'The kernel has no memory for it. Free some, or have fewer ports.' },
}

/** A failed call as an error: what was tried, and errno by name. */
export function syscallError(what: string, value: number = errno()): SystemCallError {
  const known = codes[value]
  return new SystemCallError(
    value,
    known?.code ?? 'SYSCALL',
    `${what}: ${errnoName(value)}`,
    known?.action ?? 'See the daemon’s log; `snapswitch doctor` checks what the kernel must offer.',
  )
}

/** What the kernel refused, and its errno. */
export class SystemCallError extends SnapswitchError {
  readonly errno: number

  constructor(errno: number, code: ErrorCode, message: string, action: string) {
    super(code, message, action)
    this.errno = errno
  }
}

export function hasErrno(thrown: unknown, ...values: readonly number[]): boolean {
  return thrown instanceof SystemCallError && values.includes(thrown.errno)
}

/** Returns `result` unless it is negative; then throws errno as a SnapswitchError. */
export function check(result: number, what: string): number {
  if (result < 0) throw syscallError(what)
  return result
}
