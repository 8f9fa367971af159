// What node:net and node:fs cannot do with file descriptors: connect a unix socket whose descriptor we own, ask who is
// at its other end, pass a descriptor through it (SCM_RIGHTS, unix(7)), and make a pipe of a chosen capacity (pipe(7)).

import koffi from 'koffi'
import { type Arena, mapArena } from '../../linux/arena.js'
import { check, errno, libc } from '../../linux/libc.js'

const AF_UNIX = 1
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000
const SOL_SOCKET = 1
const SO_PEERCRED = 17
const SCM_RIGHTS = 1
const MSG_NOSIGNAL = 0x4000
const O_CLOEXEC = 0o2000000
const F_SETPIPE_SZ = 1031
const F_GETPIPE_SZ = 1032
const SUN_PATH_BYTES = 108

interface Calls {
  pipe2(fds: Int32Array, flags: number): number
  fcntl(fd: number, command: number, argument: number): number
}

let calls: Calls | undefined

function bound(): Calls {
  if (calls === undefined) {
    const library = koffi.load('libc.so.6')
    // fcntl is variadic in C; an integer argument is passed alike on x86-64 and arm64 Linux.
    calls = {
      pipe2: library.func('int pipe2(void *, int)'),
      fcntl: library.func('int fcntl(int, int, long)'),
    } as unknown as Calls
  }
  return calls
}

/** The longest path a unix socket can have, in bytes. */
export const longestSocketPath = SUN_PATH_BYTES - 1

/**
 * Connects to a listening stream socket without blocking. Returns the descriptor, or the errno as a negative number.
 */
export function connectUnix(path: string): number {
  const name = Buffer.from(path)
  const address = Buffer.alloc(2 + SUN_PATH_BYTES)
  address.writeUInt16LE(AF_UNIX, 0)
  name.copy(address, 2)
  const fd = check(libc().socket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0), 'open a unix socket')
  if (libc().connect(fd, address, 2 + name.length + 1) === 0) return fd
  const failed = errno()
  libc().close(fd)
  return -failed
}

export interface PeerCredentials {
  /** 0 when the peer lives in a pid namespace that we cannot see. */
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** Who called listen() on the socket at the other end. */
export function peerCredentials(fd: number): PeerCredentials {
  const value = Buffer.alloc(12)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(value.length)
  check(libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length), 'ask who is at the other end of a unix socket')
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) }
}

/** The process that listens on a socket; 0 when nobody does, or it cannot be seen. */
export function listenerOf(path: string): number {
  const fd = Buffer.byteLength(path) > longestSocketPath ? -1 : connectUnix(path)
  if (fd < 0) return 0
  const { pid } = peerCredentials(fd)
  libc().close(fd)
  return pid
}

let scratch: Arena | undefined

/**
 * Writes `bytes` (at most 2048) with one descriptor attached. Returns the bytes written, or errno as a negative number.
 * The receiver gets a duplicate: the caller still owns `passed`.
 */
export function sendWithDescriptor(fd: number, bytes: Uint8Array, passed: number): number {
  scratch ??= mapArena(4096)
  const { view, address } = scratch
  const [iov, control, data] = [64, 96, 512]
  scratch.bytes.set(bytes, data)
  // struct iovec
  view.setBigUint64(iov, BigInt(address + data), true)
  view.setBigUint64(iov + 8, BigInt(bytes.length), true)
  // struct cmsghdr { size_t len; int level; int type } then the descriptor, padded to 8
  view.setBigUint64(control, 20n, true)
  view.setInt32(control + 8, SOL_SOCKET, true)
  view.setInt32(control + 12, SCM_RIGHTS, true)
  view.setInt32(control + 16, passed, true)
  view.setInt32(control + 20, 0, true)
  // struct msghdr of 64-bit Linux: name, namelen, iov, iovlen, control, controllen, flags
  view.setBigUint64(0, 0n, true)
  view.setBigUint64(8, 0n, true)
  view.setBigUint64(16, BigInt(address + iov), true)
  view.setBigUint64(24, 1n, true)
  view.setBigUint64(32, BigInt(address + control), true)
  view.setBigUint64(40, 24n, true)
  view.setBigUint64(48, 0n, true)
  const sent = libc().sendmsg(fd, address, MSG_NOSIGNAL)
  return sent < 0 ? -errno() : sent
}

export interface Pipe {
  readonly readFd: number
  readonly writeFd: number
  /** Bytes it holds; may differ from what was asked for. */
  readonly capacity: number
}

/** A pipe with both ends close-on-exec and blocking, holding `capacity` bytes (a power of two of pages). */
export function makePipe(capacity: number): Pipe {
  const fds = new Int32Array(2)
  check(bound().pipe2(fds, O_CLOEXEC), 'make a pipe')
  const [readFd, writeFd] = [fds[0]!, fds[1]!]
  resizePipe(readFd, capacity)
  return { readFd, writeFd, capacity: check(bound().fcntl(readFd, F_GETPIPE_SZ, 0), 'ask for the size of a pipe') }
}

/** Best effort: the kernel may refuse (fs.pipe-user-pages-soft), and a smaller pipe only costs speed. */
export function resizePipe(fd: number, capacity: number): boolean {
  return bound().fcntl(fd, F_SETPIPE_SZ, capacity) >= 0
}

export function closeDescriptor(fd: number): void {
  libc().close(fd)
}
