// What the agent says when it cannot do what it was asked for, or must break off.

import { SnapswitchError } from '../../src/errors/errors.js'
import { resumeByHand } from '../../src/hypervisor/drivers.js'
import type { MachineSpec, UnsupportedDrive } from '../../src/hypervisor/hypervisor.js'

export const calledOff = new SnapswitchError(
  'SNAPSHOT_DISCARDED',
  'the coordinator has called the snapshot off',
  'See the coordinator for the reason.',
)

export const captureCalledOff = new SnapswitchError(
  'SNAPSHOT_DISCARDED',
  'the snapshot was called off before it was complete',
  'See what else is said of the snapshot.',
)

export const restoreCalledOff = new SnapswitchError(
  'SNAPSHOT_DISCARDED',
  'the restore was called off',
  'See the coordinator for the reason.',
)

export const stopping = new SnapswitchError(
  'SNAPSHOT_DISCARDED',
  'the switch daemon is stopping',
  'Start it and take the snapshot again.',
)

export function restarted(cause?: Error): SnapswitchError {
  return new SnapswitchError('INTERNAL', 'the datapath failed and was restarted', 'Take the snapshot again.', cause)
}

export function brokenChannel(host: string, port: string, peer: string | null): SnapswitchError {
  return new SnapswitchError(
    'PEER_DOWN',
    `the link to ${peer ?? 'a peer'} on port ${port} of host ${host} went away, fell silent, or began anew during the snapshot`,
    'Check the link, and take the snapshot again.',
  )
}

export function portMoved(host: string, { name, device }: { readonly name: string; readonly device: string }) {
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${device} of port ${name} of host ${host} went away or came back during the snapshot`,
    'Take the snapshot again when the device stays.',
  )
}

export function networkBusy(host: string, network: string, busy: string): SnapswitchError {
  return new SnapswitchError(
    'SNAPSHOT_BUSY',
    `network ${network} on ${host}: ${busy} is under way`,
    'Wait until it has ended, then try again.',
  )
}

/** `detail`: what the hypervisor says of it. `spec`: how it is reached, and resumed. */
export function notRunning(
  vm: string,
  state: string,
  detail: string | null = null,
  spec?: MachineSpec,
): SnapswitchError {
  return new SnapswitchError(
    'MACHINE_NOT_RUNNING',
    `machine ${vm} ${state === 'other' ? 'does not run' : `is ${state}`}${detail === null ? '' : `: ${detail}`}`,
    state === 'off'
      ? `Start it, on the image that \`snapswitch disk path ${vm}\` prints.`
      : `Resume it${spec === undefined ? '' : ` (${resumeByHand(spec)})`}, or take its port out of the network.`,
  )
}

export function unsupportedDrive(vm: string, { name, reason, isDevice }: UnsupportedDrive): SnapswitchError {
  const what = isDevice === true ? name : `drive ${name}`
  return new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `${vm}’s ${what} cannot be snapshot: ${reason}`,
    isDevice === true
      ? 'Take that device out of the machine, or the machine out of the network.'
      : 'Use qcow2 or raw image files that nobody else writes to, make the drive read-only, or take the machine out of the network.',
  )
}

/** `highest`: the highest epoch that the network has used here. */
export function staleEpoch(epoch: number, highest: number): SnapswitchError {
  return new SnapswitchError(
    'EPOCH_STALE',
    `epoch ${epoch} is not above ${highest}`,
    'Ask again: the coordinator will choose a fresh one.',
  )
}

export const diskNotWhole = (vm: string, snapshot: string) =>
  new SnapswitchError(
    'SNAPSHOT_BUSY',
    `${vm} ended in snapshot ${snapshot}, and what its guest wrote since the cut is not back in its disk yet`,
    'Start it when this says where its disk is, usually in some seconds. If that takes longer, the daemon’s log says why.',
  )
