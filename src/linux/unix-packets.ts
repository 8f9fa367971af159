// Connections of unix sockets that keep messages apart (SOCK_SEQPACKET), which Node has none of. unix(7).

import { unlinkSync } from 'node:fs'
import { check, Errno, errno, libc, syscallError } from './libc.js'

const AF_UNIX = 1
const SOCK_SEQPACKET = 5
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32
const SO_SNDBUF = 7
/** sun_path of unix(7) without its final zero. */
const MOST_PATH = 107

function open(): number {
  const type = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC
  return check(libc().socket(AF_UNIX, type, 0), 'open a unix socket')
}

/** struct sockaddr_un */
function addressOf(path: string): Uint8Array {
  const bytes = new TextEncoder().encode(path)
  if (bytes.length > MOST_PATH) throw syscallError(`${path} has ${bytes.length} bytes, ${MOST_PATH} fit`, Errno.EINVAL)
  const address = new Uint8Array(2 + MOST_PATH + 1)
  new DataView(address.buffer).setUint16(0, AF_UNIX, true)
  address.set(bytes, 2)
  return address
}

/** For its owner and group alone from its first instant; what lies there is removed. Throws SYSCALL, PERMISSION. */
export function listenForPackets(path: string): number {
  const address = addressOf(path)
  const fd = open()
  const umask = process.umask(0o007)
  try {
    unlinkSilently(path)
    check(libc().bind(fd, address, address.length), `bind ${path}`)
    check(libc().listen(fd, 1), `listen on ${path}`)
    return fd
  } catch (error) {
    libc().close(fd)
    throw error
  } finally {
    process.umask(umask)
  }
}

export function unlinkSilently(path: string): void {
  try {
    unlinkSync(path)
  } catch {
    // It is not there.
  }
}

/** The connection that waits, non-blocking; null: there is none yet. Throws SYSCALL. */
export function acceptPackets(fd: number): number | null {
  const connection = libc().accept4(fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC)
  if (connection >= 0) return connection
  const error = errno()
  if (error === Errno.EAGAIN || error === Errno.EINTR) return null
  throw syscallError('accept a connection', error)
}

/** `room`: bytes that may wait at the other end, as far as the system lets it. Throws SYSCALL, PERMISSION. */
export function connectForPackets(path: string, room: number): number {
  const address = addressOf(path)
  const fd = open()
  const value = new Uint8Array(Int32Array.of(room).buffer)
  for (const option of [SO_SNDBUF, SO_SNDBUFFORCE]) libc().setsockopt(fd, SOL_SOCKET, option, value, 4)
  try {
    check(libc().connect(fd, address, address.length), `connect to ${path}`)
    return fd
  } catch (error) {
    libc().close(fd)
    throw error
  }
}
