// Where frames are played to: sockets on devices, and one to the switch for all of its ports.

import { choices } from '../api/names.js'
import { SnapswitchError } from '../errors/errors.js'
import { libc } from '../linux/libc.js'
import { Links } from '../linux/link.js'
import { sendShape, setNow, transmitRing } from '../linux/packet-ring.js'
import { openSendSocket } from '../linux/packet-socket.js'
import type { Target } from './mapping.js'
import { RING_SLOTS } from './send-ring.js'

/** A target that is open. */
export interface Outlet extends Target {
  readonly fd: number
  /** Of a device: a socket with a transmit ring (send-ring.ts); null: none. */
  readonly ring: number | null
  /** Bytes of a frame behind its Ethernet header. */
  readonly mtu: number
  /** Of a port: what the switch calls it in this play. */
  readonly number: number
}

/** Ports of the switch that are played to: by name, their numbers and MTUs, and the socket to all of them. */
export interface SwitchPorts {
  readonly fd: number
  readonly ports: ReadonlyMap<string, { readonly number: number; readonly mtu: number }>
}

/**
 * Opens all devices, or none. `ports`: of targets that are ports; `rings`: for many frames at a time.
 * @throws SnapswitchError DEVICE_MISSING, DEVICE_UNSUPPORTED, DEVICE_DOWN, PERMISSION, SYSCALL
 */
export function openOutlets(targets: readonly Target[], ports: SwitchPorts | null, rings: boolean): Outlet[] {
  const links = new Links()
  const opened: Outlet[] = []
  try {
    for (const { kind, name } of targets) {
      if (kind === 'device') opened.push({ kind, name, number: 0, ...openDevice(links, name, rings) })
      else {
        const { number, mtu } = ports!.ports.get(name)!
        opened.push({ kind, name, number, mtu, fd: ports!.fd, ring: null })
      }
    }
    return opened
  } catch (error) {
    closeOutlets(opened)
    throw error
  } finally {
    links.close()
  }
}

/** Devices; the socket to the switch is of whoever opened it. */
export function closeOutlets(outlets: readonly Outlet[]): void {
  for (const { kind, fd, ring } of outlets) {
    if (kind === 'device') libc().close(fd)
    if (ring !== null) libc().close(ring)
  }
}

function openDevice(links: Links, name: string, rings: boolean): Pick<Outlet, 'fd' | 'ring' | 'mtu'> {
  const link = links.find(name)
  if (link === null) {
    const known = links.list().filter(({ ethernet }) => ethernet)
    throw new SnapswitchError(
      'DEVICE_MISSING',
      `network device ${name} does not exist`,
      choices(
        'There are',
        name,
        known.map((one) => one.name),
      ),
    )
  }
  if (!link.ethernet) {
    throw new SnapswitchError(
      'DEVICE_UNSUPPORTED',
      `${name} is no Ethernet device`,
      'Play to a TAP, a veth, a bridge or a network card.',
    )
  }
  if (!link.up) {
    throw new SnapswitchError('DEVICE_DOWN', `${name} is down`, `Set it up: \`ip link set ${name} up\`.`)
  }
  // The kernel would drop every frame, and tell nobody of most.
  if (!link.lowerUp) {
    throw new SnapswitchError(
      'DEVICE_DOWN',
      `nothing is at the other end of ${name}`,
      'Start what holds the TAP, set the other end of the veth up, or plug the cable in.',
    )
  }
  const to = { ifindex: link.index, device: name }
  return { fd: openSendSocket(to), ring: rings ? openRing(to) : null, mtu: link.mtu }
}

/** Null: there is no memory for it; it is not needed. */
function openRing(to: { readonly ifindex: number; readonly device: string }): number | null {
  const fd = openSendSocket(to)
  try {
    setNow(transmitRing(fd, sendShape(RING_SLOTS)))
    return fd
  } catch {
    libc().close(fd)
    return null
  }
}
