// Why a domain does not run, in plain words, by what libvirt (virDomainState and its reasons) and QEMU say. Pure.

import type { MachineState } from '../hypervisor.js'
import { domainState } from './protocol.js'

/** virDomainState in our words. */
export function machineState(state: number): MachineState {
  if (state === domainState.running || state === domainState.blocked) return 'running'
  return state === domainState.paused ? 'paused' : 'other'
}

/** virDomainPausedReason. */
const pausedBecause: { readonly [reason: number]: string } = {
  1: 'paused by its user (`virsh resume` lets it run)',
  2: 'paused for a migration',
  3: 'paused while libvirt saves it',
  4: 'paused while libvirt dumps its memory',
  5: 'stopped by QEMU: a disk of it cannot be written (io-error)',
  6: 'stopped by its watchdog',
  7: 'paused since libvirt has reverted it to a snapshot',
  8: 'shutting down',
  9: 'paused while libvirt takes a snapshot of it',
  10: 'stopped: its guest has crashed',
  11: 'being started',
  12: 'in the middle of a post-copy migration',
  13: 'stopped: its post-copy migration has failed',
}

const states: { readonly [state: number]: string } = {
  [domainState.shutoff]: 'off',
  [domainState.crashed]: 'stopped: its guest has crashed',
  [domainState.pmsuspended]: 'asleep: its guest has suspended itself (`virsh dompmwakeup` wakes it)',
  4: 'shutting down',
}

/** `diskIsFull`: QEMU counts a write of it as failed for want of space. Null when it runs. */
export function stateDetail(state: number, reason: number, diskIsFull: boolean): string | null {
  if (machineState(state) === 'running') return null
  if (state !== domainState.paused) return states[state] ?? null
  if (reason === 5 && diskIsFull) return 'stopped by QEMU: the file system of a disk of it is full (io-error)'
  return pausedBecause[reason] ?? 'paused'
}
