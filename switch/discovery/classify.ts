// What a process that has a TAP open is: a machine of a driver's, somebody who hands the device on, or a program that
// nothing here can drive. Pure.

import { SnapswitchError } from '../../src/errors/errors.js'
import { type RecognizedMachine, recognize } from '../../src/hypervisor/drivers.js'
import type { HolderProcess } from '../../src/hypervisor/holder.js'

export type Classified =
  | { readonly kind: 'recognized'; readonly machine: RecognizedMachine }
  /** It opens TAPs for a machine that it starts in a moment. */
  | { readonly kind: 'pending' }
  | { readonly kind: 'foreign'; readonly title: string | null; readonly problem: SnapswitchError }

/** They open a TAP and give it to the QEMU that they start or that has asked for it. */
const HANDS_ON = /^(libvirtd|virtqemud|virtnetworkd|virt-aa-helper|qemu-bridge-helper)$/

/** Hypervisors that no driver drives, by program file. */
const HYPERVISORS: readonly (readonly [RegExp, string])[] = [
  [/^(VBoxHeadless|VirtualBoxVM|VirtualBox|VBoxSVC)/, 'VirtualBox'],
  [/^firecracker/, 'Firecracker'],
  [/^cloud-hypervisor/, 'Cloud Hypervisor'],
  [/^crosvm/, 'crosvm'],
  [/^(lkvm|kvmtool)/, 'kvmtool'],
  [/^stratovirt/, 'StratoVirt'],
  [/^(dragonball|runtime-rs|containerd-shim-kata)/, 'Kata Containers'],
  [/^xl$|^libxl|^qemu-dm/, 'Xen'],
]

const BY_COMMAND =
  'Its port forwards, and is no part of snapshots. Where a command can pause, save and load it, say so under `machines:` ' +
  '(`NAME: { exec: { command: … } }`) and give its port `vm: NAME`.'

export function classify(holder: HolderProcess, ownPid: number): Classified {
  // A restore that opens a TAP for the machine that it loads.
  if (holder.pid === ownPid || HANDS_ON.test(holder.binary)) return { kind: 'pending' }
  const machine = recognize(holder)
  if (machine !== null) return { kind: 'recognized', machine }
  const { pid, program, binary } = holder
  const hypervisor = HYPERVISORS.find(([pattern]) => pattern.test(binary))?.[1]
  const what =
    hypervisor === undefined
      ? `${program} (process ${pid}), which`
      : `${hypervisor} (${program}, process ${pid}), which`
  const problem = new SnapswitchError('MACHINE_UNSUPPORTED', `it is held by ${what} no driver knows`, BY_COMMAND)
  return { kind: 'foreign', title: hypervisor ?? null, problem }
}

/** Of several holders of one device, which says most. */
const RANK = { recognized: 0, pending: 1, foreign: 2 } as const

export function best<T extends { readonly what: Classified }>(holders: readonly T[]): T | undefined {
  return holders.toSorted((a, b) => RANK[a.what.kind] - RANK[b.what.kind])[0]
}

/** Somebody holds it, and /proc does not say who. */
export function unseen(device: string, hidden: readonly number[], late: boolean): SnapswitchError {
  if (late) {
    const message = `there was no time to find out which process holds ${device}`
    return new SnapswitchError('DEADLINE', message, 'It is looked at again; the host has much to do.')
  }
  return hidden.length > 0
    ? new SnapswitchError(
        'PERMISSION',
        `some process holds ${device}, and ${hidden.length} may not be looked into`,
        'Run the daemon as root, with CAP_SYS_PTRACE.',
      )
    : new SnapswitchError(
        'MACHINE_UNSUPPORTED',
        `some process holds ${device} that cannot be seen from here`,
        'Run the daemon in the host’s own process namespace, or name the machine under `machines:`.',
      )
}

export function replaced(title: string | null, pid: number, other: number): SnapswitchError {
  return new SnapswitchError(
    'HYPERVISOR_UNREACHABLE',
    `${title ?? 'a QEMU'} (process ${pid}) cannot be driven: its QMP socket was replaced by that of process ${other}`,
    'Two machines were started with one socket path: start this one again with a path of its own.',
  )
}
