// Where frames are played to: sockets on devices, and one to the switch for all of its ports.

import { choices } from '../api/names.js'
import { SnapswitchError } from '../errors/errors.js'
import { libc } from '../linux/libc.js'
import { Links } from '../linux/link.js'
import { openSendSocket } from '../linux/packet-socket.js'
import type { Target } from './mapping.js'

/** A target that is open. */
export interface Outlet extends Target {
  readonly fd: number
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
 * Opens all devices, or none. `ports`: of targets that are ports.
 * @throws SnapswitchError DEVICE_MISSING, DEVICE_UNSUPPORTED, DEVICE_DOWN, PERMISSION, SYSCALL
 */
export function openOutlets(targets: readonly Target[], ports: SwitchPorts | null): Outlet[] {
  const links = new Links()
  const opened: Outlet[] = []
  try {
    for (const { kind, name } of targets) {
      if (kind === 'device') opened.push({ kind, name, number: 0, ...openDevice(links, name) })
      else {
        const { number, mtu } = ports!.ports.get(name)!
        opened.push({ kind, name, number, mtu, fd: ports!.fd })
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
  for (const { kind, fd } of outlets) if (kind === 'device') libc().close(fd)
}

function openDevice(links: Links, name: string): { fd: number; mtu: number } {
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
  return { fd: openSendSocket({ ifindex: link.index, device: name }), mtu: link.mtu }
}
