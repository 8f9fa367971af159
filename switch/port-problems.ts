// What can be wrong with the device under a port, in words a person can act on.

import { SnapswitchError } from '../src/errors/errors.js'
import type { Link } from '../src/linux/link.js'

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

/** A bridge or bond owns the device: its frames would go two ways. */
export function slaveError({ name }: Link): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_BUSY',
    `${name} belongs to a bridge or bond`,
    `Take it out first: ip link set ${name} nomaster`,
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
