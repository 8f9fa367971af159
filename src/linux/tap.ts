// TAP devices through /dev/net/tun (Documentation/networking/tuntap.rst, linux/if_tun.h): persistent ones for VMs,
// whose hypervisor opens the other side by name, and that other side itself for whoever wants to play the guest.

import { randomBytes } from 'node:crypto'
import { fstatSync } from 'node:fs'
import koffi from 'koffi'
import { SnapswitchError } from '../errors/errors.js'
import { formatMac } from '../frame/mac.js'
import { check, Errno, errno, libc, syscallError } from './libc.js'
import { Links } from './link.js'
import type { Link } from './link-message.js'

const O_RDWR_CLOEXEC = 2 | 0o2000000
const O_NONBLOCK = 0o4000
const TUNSETIFF = 0x400454ca
const TUNSETPERSIST = 0x400454cb
const TUNSETOWNER = 0x400454cc
const TUNSETGROUP = 0x400454ce
const TUNSETOFFLOAD = 0x400454d0
const TUNGETDEVNETNS = 0x54e3
const IFF_TAP = 0x0002
const IFF_MULTI_QUEUE = 0x0100
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
/** struct ifreq. */
const IFREQ_LENGTH = 40
const NAME_FIELD = 16

/**
 * What the reader of a TAP can take (TUN_F_…, linux/if_tun.h). Hypervisors set what the guest’s driver negotiated.
 */
export const TapOffload = { checksum: 1, tso4: 2, tso6: 4, uso4: 0x20, uso6: 0x40 } as const

export interface TapOptions {
  /** By default a random one that no bridge takes for its own. */
  readonly mac?: string
  readonly mtu?: number
  readonly up?: boolean
  readonly multiQueue?: boolean
}

export interface OpenOptions {
  readonly nonBlocking?: boolean
  /** Must be as the device was made. */
  readonly multiQueue?: boolean
  /** False: frames without virtio-net headers. */
  readonly vnetHeader?: boolean
}

/**
 * A bridge whose address nobody has set has its ports' lowest one (br_stp_recalculate_bridge_id): with the kernel's
 * random addresses, a machine's TAP could change the host's own. libvirt begins its TAPs' addresses so, too.
 */
const macAboveOthers = () => formatMac(Uint8Array.of(0xfe, ...randomBytes(5)))

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
    const { multiQueue, ...changes } = { mac: macAboveOthers(), ...options }
    const fd = openTap(name, multiQueue ? { multiQueue } : {})
    try {
      check(ioctlValue(fd, TUNSETPERSIST, 1), `keep TAP ${name}`)
      const { index } = links.get(name)
      try {
        links.change(index, changes)
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

/** Whether the TAP behind a descriptor stays when nobody holds it. False when the kernel refuses. */
export function setPersistent(fd: number, stays: boolean): boolean {
  return ioctlValue(fd, TUNSETPERSIST, stays ? 1 : 0) === 0
}

/** The network namespace that the TAP behind a descriptor is in, by inode; null when the kernel does not tell. */
export function tapNamespace(fd: number): number | null {
  const namespace = ioctlValue(fd, TUNGETDEVNETNS, 0)
  if (namespace < 0) return null
  try {
    return fstatSync(namespace).ino
  } finally {
    libc().close(namespace)
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
export function openTap(name: string, options: OpenOptions = {}): number {
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
  const flags = (options.vnetHeader === false ? 0 : IFF_VNET_HDR) | (options.multiQueue ? IFF_MULTI_QUEUE : 0)
  new Uint16Array(request.buffer, NAME_FIELD, 1)[0] = IFF_TAP | IFF_NO_PI | flags
  if (libc().ioctl(fd, TUNSETIFF, request) < 0) {
    const value = errno()
    libc().close(fd)
    // EINVAL: a device of that name is there and no TAP (tun_set_iff in drivers/net/tun.c).
    if (value === Errno.EINVAL) throw notTap(name)
    throw syscallError(`attach to TAP ${name}`, value)
  }
  return fd
}

/**
 * Opens as many queues of a TAP as a hypervisor wants, or none when somebody holds it: null.
 * @throws SnapswitchError DEVICE_MISSING, DEVICE_BUSY when it is no TAP, PERMISSION, SYSCALL
 */
export function openFreeTap(link: Link, queues: number, options: OpenOptions): number[] | null {
  if (link.tap === null) throw notTap(link.name)
  const { multiQueue } = link.tap
  // Of several queues the kernel would give another one.
  if (multiQueue && link.tap.queues > 0) return null
  return openQueues(link.name, multiQueue ? queues : 1, { ...options, multiQueue })
}

/** null: somebody holds it. */
function openQueues(name: string, queues: number, options: OpenOptions): number[] | null {
  const opened: number[] = []
  try {
    for (let nth = 0; nth < queues; nth++) opened.push(openTap(name, options))
    return opened
  } catch (thrown) {
    closeAll(opened)
    if (isBusy(thrown)) return null
    throw thrown
  }
}

/**
 * Makes a TAP as another one is, under another name, down, with its queues open: for a machine that is to take the
 * place of the one that holds the other. It stays when nobody holds it if the other does.
 */
export function openStandIn(name: string, like: Link, queues: number, options: OpenOptions): number[] {
  if (like.tap === null) throw notTap(like.name)
  const { multiQueue, persistent, owner, group } = like.tap
  const several = multiQueue || queues > 1
  const opened = openQueues(name, queues, { ...options, multiQueue: several })
  if (opened === null) throw new SnapswitchError('DEVICE_BUSY', `TAP ${name} is taken`, 'Restore again.')
  const [first] = opened as [number]
  const links = new Links()
  try {
    if (owner !== null) check(ioctlValue(first, TUNSETOWNER, owner), `set the owner of TAP ${name}`)
    if (group !== null) check(ioctlValue(first, TUNSETGROUP, group), `set the group of TAP ${name}`)
    const mac = like.mac === null ? {} : { mac: like.mac }
    links.change(links.get(name).index, { mtu: like.mtu, queueLength: like.queueLength, ...mac, ipv6Addresses: 'none' })
    if (persistent) check(ioctlValue(first, TUNSETPERSIST, 1), `keep TAP ${name}`)
    return opened
  } catch (thrown) {
    closeAll(opened)
    throw thrown
  } finally {
    links.close()
  }
}

export function closeAll(descriptors: readonly number[]): void {
  for (const fd of descriptors) libc().close(fd)
}

function isBusy(thrown: unknown): boolean {
  return thrown instanceof SnapswitchError && thrown.code === 'DEVICE_BUSY' && /attach to TAP/.test(thrown.message)
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
