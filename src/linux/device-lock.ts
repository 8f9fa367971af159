// A lock on a network device among the daemons of one network namespace: two switches on one device would forward each
// frame twice. It is the name of an abstract unix socket (unix(7)): such names belong to a network namespace, as
// devices do, and the kernel frees them with the process, whatever way it ends.

import { SnapswitchError } from '../errors/errors.js'
import { check, Errno, errno, libc, syscallError } from './libc.js'

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000

/** Returns how to let go. Throws DEVICE_BUSY when another daemon, or another port of this one, has the device. */
export function lockDevice(index: number, device: string): () => void {
  const { socket, bind, close } = libc()
  const fd = check(socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0), 'open a unix socket')
  const name = new TextEncoder().encode(`snapswitch-device-${index}`)
  // struct sockaddr_un; a zero before the name makes it abstract.
  const address = new Uint8Array(3 + name.length)
  new Uint16Array(address.buffer, 0, 1)[0] = AF_UNIX
  address.set(name, 3)
  if (bind(fd, address, address.length) < 0) {
    const value = errno()
    close(fd)
    if (value !== Errno.EADDRINUSE) throw syscallError(`lock ${device}`, value)
    throw new SnapswitchError(
      'DEVICE_BUSY',
      `${device} is a port of another switch daemon`,
      'Stop that daemon, or take the port out of one of the two configurations.',
    )
  }
  let held = true
  return () => {
    if (held) close(fd)
    held = false
  }
}

/** Whether another daemon, or a port of this one, has the device. */
export function isLocked(index: number): boolean {
  try {
    lockDevice(index, `network device ${index}`)()
    return false
  } catch {
    return true
  }
}
