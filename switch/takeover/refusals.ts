// What is said of bridges that cannot be taken, given back or followed as somebody wants it.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { TakeOptions } from './options.js'

/** Throws WANTED_TWICE. */
export function refuseOther(name: string, configured: TakeOptions, options: TakeOptions): void {
  const keys = ['network', 'uplink', 'ignoreFilters'] as const
  const other = keys.find((key) => options[key] !== undefined && options[key] !== configured[key])
  if (other === undefined) return
  throw new SnapswitchError(
    'WANTED_TWICE',
    `the configuration names bridge ${name}, and says something else of its ${other}`,
    'Leave it out to take the bridge as the configuration says; or change that, and `snapswitch reload`.',
  )
}

export function takenAlready(name: string, by: string): SnapswitchError {
  return new SnapswitchError(
    'BRIDGE_TAKEN',
    `bridge ${name} is taken over by ${by} already`,
    '`snapswitch status` shows what is taken; `snapswitch give` gives it back.',
  )
}

export function notTaken(name: string, taken: readonly string[]): SnapswitchError {
  return new SnapswitchError(
    'BRIDGE_NOT_TAKEN',
    `bridge ${name} is not taken over here`,
    taken.length === 0 ? 'No bridge is.' : `These are: ${taken.join(', ')}.`,
  )
}

export function absent(name: string): SnapswitchError {
  return new SnapswitchError('DEVICE_MISSING', `bridge ${name} is not there`, 'It is taken over when it comes.')
}

export function given(name: string): SnapswitchError {
  return new SnapswitchError(
    'BRIDGE_NOT_TAKEN',
    `bridge ${name} was given back, and what is on it is not on the switch`,
    `Take it again: snapswitch take ${name}`,
  )
}
