// TAP devices through /dev/net/tun (Documentation/networking/tuntap.rst, linux/if_tun.h): persistent ones for VMs, whose
// hypervisor opens the other side by name, and that other side itself for whoever wants to play the guest.

import koffi from 'koffi'
import { SnapswitchError } from '../errors/errors.js'
import { check, Errno, errno, libc, syscallError } from './libc.js'
import { type Link, Links } from './link.js'

const O_RDWR_CLOEXEC = 2 | 0o2000000
const O_NONBLOCK = 0o4000
const TUNSETIFF = 0x400454ca
const TUNSETPERSIST = 0x400454cb
const TUNSETOFFLOAD = 0x400454d0
const IFF_TAP = 0x0002
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
/** struct ifreq. */
const IFREQ_LENGTH = 40
const NAME_FIELD = 16

/** What the reader of a TAP can take (TUN_F_…, linux/if_tun.h): hypervisors set what the guest's driver negotiated. */
export const TapOffload = { checksum: 1, tso4: 2, tso6: 4, uso4: 0x20, uso6: 0x40 } as const

export interface TapOptions {
  readonly mac?: string
  readonly mtu?: number
  readonly up?: boolean
}

/**
 * Makes a TAP that stays when nobody holds it, with virtio-net headers on its file side.
 * A device of that name that is there already is refused, whatever it is.
 * @throws SnapswitchError DEVICE_BUSY, PERMISSION, DEVICE_MISSING (no /dev/net/tun), SYSCALL
 */
export function createTap(name: string, options: TapOptions = {}): Link {
  const links = new Links()
  try {
    if (links.find(name) !== null) {
      throw new SnapswitchError(
        'DEVICE_BUSY',
        `a network device named ${name} exists already`,
        `Choose another name, or remove it with \`ip link delete ${name}\`.`,
      )
    }
    const fd = openTap(name)
    try {
      check(ioctlValue(fd, TUNSETPERSIST, 1), `keep TAP ${name}`)
      const { index } = links.get(name)
      try {
        if (options.mac !== undefined || options.mtu !== undefined || options.up !== undefined) {
          links.change(index, options)
        }
      } catch (thrown) {
        ioctlValue(fd, TUNSETPERSIST, 0)
        throw thrown
      }
    } finally {
      libc().close(fd)
    }
    return links.get(name)
  } finally {
    links.close()
  }
}

/**
 * Removes a TAP that nobody holds.
 * @throws SnapswitchError DEVICE_MISSING, DEVICE_BUSY when a program holds it or it is no TAP
 */
export function deleteTap(name: string): void {
  const links = new Links()
  try {
    const link = links.get(name)
    if (link.kind !== 'tun') throw notTap(name)
    const fd = openTap(name)
    check(ioctlValue(fd, TUNSETPERSIST, 0), `let go of TAP ${name}`)
    libc().close(fd)
  } finally {
    links.close()
  }
}

/**
 * Opens the file side of a TAP, making the device when it is not there; it goes with the descriptor unless it is
 * persistent. Reads and writes carry one frame each, a 10-byte virtio-net header first.
 * @throws SnapswitchError DEVICE_BUSY when another program holds it, PERMISSION, DEVICE_MISSING, SYSCALL
 */
export function openTap(name: string, options: { readonly nonBlocking?: boolean } = {}): number {
  const encoded = new TextEncoder().encode(name)
  if (encoded.length === 0 || encoded.length >= NAME_FIELD || /[\s/%:]/.test(name)) {
    throw new SnapswitchError(
      'NAME_INVALID',
      `“${name}” cannot be the name of a network device`,
      'Use 1 to 15 characters without spaces, slashes, colons or percent signs.',
    )
  }
  const fd = libc().open('/dev/net/tun', O_RDWR_CLOEXEC | (options.nonBlocking ? O_NONBLOCK : 0), 0)
  if (fd < 0) {
    const value = errno()
    if (value !== Errno.ENOENT && value !== Errno.ENODEV && value !== Errno.ENXIO) {
      throw syscallError('open /dev/net/tun', value)
    }
    throw new SnapswitchError(
      'DEVICE_MISSING',
      'this kernel offers no /dev/net/tun',
      'Load it with `modprobe tun`; in a container, pass the device in.',
    )
  }
  const request = new Uint8Array(IFREQ_LENGTH)
  request.set(encoded)
  new Uint16Array(request.buffer, NAME_FIELD, 1)[0] = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
  if (libc().ioctl(fd, TUNSETIFF, request) < 0) {
    const value = errno()
    libc().close(fd)
    // EINVAL: a device of that name is there and no TAP (tun_set_iff in drivers/net/tun.c).
    if (value === Errno.EINVAL) throw notTap(name)
    throw syscallError(`attach to TAP ${name}`, value)
  }
  return fd
}

/** Tells the kernel what the holder of `fd` can take; frames that need more are finished in software first. */
export function setTapOffload(fd: number, offload: number): void {
  check(ioctlValue(fd, TUNSETOFFLOAD, offload), 'set the offloads of a TAP')
}

let bound: ((fd: number, request: number, value: number) => number) | undefined

/** `ioctl` whose argument is a number, not an address. */
function ioctlValue(fd: number, request: number, value: number): number {
  bound ??= koffi.load('libc.so.6').func('int ioctl(int, ulong, ulong)') as unknown as typeof ioctlValue
  return bound(fd, request, value)
}

function notTap(name: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_BUSY',
    `${name} is there already and is no TAP`,
    `Choose another name; \`ip -d link show ${name}\` tells what it is.`,
  )
}
