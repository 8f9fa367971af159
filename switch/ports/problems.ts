// What can be wrong with the device under a port, in words a person can act on.

import { nearest } from '../../src/api/names.js'
import type { PortKind } from '../../src/api/schemas.js'
import { MORE_FILES, SnapswitchError } from '../../src/errors/errors.js'
import type { Link } from '../../src/linux/link-message.js'
import type { Loop } from './loops.js'

interface NamedPort {
  readonly name: string
  readonly device: string
}

export function goneError({ name, device }: NamedPort): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${device} of port ${name} is gone`,
    'Create it again, or take the port out of the network.',
  )
}

/**
 * It was not there when its port was made: it comes later, or never, if its name is mistyped. `known`: devices that
 * exist.
 */
export function awaitedError({ name, device }: NamedPort, known: readonly string[]): SnapswitchError {
  const meant = nearest(device, known)
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${device} of port ${name} does not exist; the port waits for it`,
    meant === null
      ? 'Create it, or correct its name in the configuration; `ip link` lists those that exist.'
      : `Create it, or correct its name in the configuration: is ${meant} meant?`,
  )
}

/** A bridge or bond owns the device: its frames would go two ways. */
export function slaveError({ name }: Link): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_BUSY',
    `${name} belongs to a bridge or bond`,
    `Take it out first: ip link set ${name} nomaster`,
  )
}

/** Loopback, a tunnel of IP: a port would cut it off from the host, and forward what are no frames. */
export function notEthernetError({ name }: Link): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_UNSUPPORTED',
    `${name} is no Ethernet device`,
    'Name a TAP, a veth or a network card; `ip link` says link/ether of those that can be ports.',
  )
}

/**
 * A machine's own end of a card. The kernel hands what arrives there to the machine after the ingress hook, where a
 * port's filter drops it, and the machine sends by the card. A bridge does not take such a device either.
 */
export function isMachinesEnd({ kind }: Link): boolean {
  return kind === 'macvtap' || kind === 'ipvtap'
}

export function machinesEndError({ name, kind }: Link): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_UNSUPPORTED',
    `${name} is ${kind === 'ipvtap' ? 'an' : 'a'} ${kind}: its machine sends by the card below, and would hear nothing`,
    'Give the machine a TAP instead: `<interface type="ethernet">` of libvirt, `-netdev tap` of QEMU.',
  )
}

/** Null when the device is up and has a carrier. */
export function downError({ name, device }: NamedPort, link: Link): SnapswitchError | null {
  if (link.up && link.lowerUp) return null
  const found = link.up ? 'has no carrier: nothing is at its other end' : 'is down'
  const todo = link.up ? 'Start what belongs there' : `Run: ip link set ${device} up`
  return new SnapswitchError(
    'DEVICE_DOWN',
    `${device} of port ${name} ${found}`,
    `${todo}, or take the port out of the network.`,
  )
}

/** A color tag makes frames this much longer. */
const TAG_ROOM = 4

interface SizedPort extends NamedPort {
  readonly network: string
  readonly kind: PortKind
  readonly mtu: number
}

/** A trunk must carry a member's longest frame and a color tag: DEVICE_MTU with both numbers, of each that cannot. */
export function trunksWithoutRoom(
  all: readonly SizedPort[],
  network: string,
): { port: string; error: SnapswitchError }[] {
  const ports = all.filter((port) => port.network === network)
  const members = ports.filter((port) => port.kind !== 'trunk' && port.kind !== 'uplink')
  if (members.length === 0) return []
  const largest = members.reduce((a, b) => (b.mtu > a.mtu ? b : a))
  return ports.flatMap((trunk) => {
    // One that waits for its device has no MTU yet.
    if (trunk.kind !== 'trunk' || trunk.mtu === 0 || trunk.mtu >= largest.mtu + TAG_ROOM) return []
    const error = new SnapswitchError(
      'DEVICE_MTU',
      `trunk ${trunk.name} (${trunk.device}) has MTU ${trunk.mtu}; port ${largest.name} has ${largest.mtu}, and the color tag needs ${TAG_ROOM} more`,
      `Run: ip link set ${trunk.device} mtu ${largest.mtu + TAG_ROOM}   (on both ends)`,
    )
    return { port: trunk.name, error }
  })
}

/** Throws DEVICE_MTU. */
export function checkTrunkRoom(all: readonly SizedPort[], network: string): void {
  const [first] = trunksWithoutRoom(all, network)
  if (first !== undefined) throw first.error
}

/** A way round that frames would take for ever. */
export function loopError({ ports, throughBridge }: Loop): SnapswitchError {
  const [one, other] = ports
  const named =
    other === undefined
      ? `port ${one!.name} closes a circle`
      : `the devices of ports ${one!.name} and ${other.name} are the two ends of one cable, which closes a circle`
  return new SnapswitchError(
    'DEVICE_LOOP',
    throughBridge ? `${named} through a bridge of this host` : `${named}: frames would go round for ever`,
    throughBridge
      ? 'Take one of the ways out, or let the bridge speak STP; `linkLocal: forward` passes it.'
      : `Take port ${(other ?? one!).name} out of the configuration, or put it into another network.`,
  )
}

export function alreadyPort(device: string, other: string): SnapswitchError {
  return existsError(`device ${device} is already port ${other}, by another of its names`)
}

export function existsError(message: string): SnapswitchError {
  return new SnapswitchError(
    'PORT_EXISTS',
    message,
    'Choose another name or device; `snapswitch port list` shows what is taken.',
  )
}

/**
 * Open files of a port: sockets to receive, to send, and for frames beside the ring; its lock; two counters of its
 * device; two programs at its tcx hooks when it is busy. Some of the daemon's besides: connections, images under way.
 */
const FILES_OF_PORT = 8
const FILES_BESIDES = 32

/** Throws FILES_SHORT: so many ports will not all open. */
export function refuseShortFiles(ports: number, files: { readonly limit: number; readonly open: number } | null): void {
  const needed = ports * FILES_OF_PORT + FILES_BESIDES + (files?.open ?? 0)
  if (files === null || needed <= files.limit) return
  throw new SnapswitchError(
    'FILES_SHORT',
    `${ports} ports need up to ${needed} open files, and this process may have ${files.limit}`,
    MORE_FILES,
  )
}
