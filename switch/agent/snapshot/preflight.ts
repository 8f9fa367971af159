// Whether this host could take part in a snapshot now. Looks, and changes nothing.

import type { Preflight } from '../../../src/api/schemas.js'
import { type ErrorReport, SnapswitchError } from '../../../src/errors/errors.js'
import type { CaptureMode, Deadline } from '../../../src/hypervisor/hypervisor.js'
import { diskFrozen, onFrozen } from '../disks/frozen.js'
import type { Host } from '../host.js'
import { inspectMachines } from '../inspection.js'
import { notRunning, unsupportedDrive } from '../refusals.js'
import { recordingBytes } from './recording.js'

/**
 * Memory images are rarely larger than memory; device state and headers need a little. Where memory is sent ahead, the
 * pages come again that the guest writes to meanwhile.
 */
const IMAGE_ROOM = { background: 1.02, stopped: 1.02, precopy: 1.25 } satisfies Record<CaptureMode, number>

/**
 * `busy`: what is under way in the network, as an error. `isMerging`: whether we merge a disk of the machine. Problems
 * are reported, not thrown.
 */
export async function preflight(
  host: Host,
  network: string,
  busy: ErrorReport | null,
  isMerging: (vm: string) => boolean,
  deadline: Deadline,
): Promise<Preflight> {
  const problems: ErrorReport[] = []
  const members: Preflight['members'] = []
  let neededBytes = 0
  const vms = host.ports.machinesOf(network)
  const merged = new Set(vms.filter(isMerging))
  for (const { vm, info, error } of await inspectMachines(host.machines, vms, deadline, host.clock)) {
    const ports = host.ports.ofMachine(vm, network).map((port) => port.name)
    // One that gave no answer is a member all the same.
    if (info === null) {
      members.push({ vm, ports, memoryBytes: 0, captureMode: 'stopped', captureModeReason: 'it gave no answer' })
      if (error !== null) problems.push(error)
      continue
    }
    neededBytes += Math.ceil(info.memoryBytes * IMAGE_ROOM[info.captureMode])
    const { memoryBytes, captureMode, captureModeReason } = info
    members.push({ vm, ports, memoryBytes, captureMode, captureModeReason })
    if (info.state !== 'running')
      problems.push(notRunning(vm, info.state, info.stateDetail, host.machines.spec(vm)).report())
    // A disk that we merge looks as if others wrote to it. PREPARE calls the merge off, and looks again.
    else if (merged.has(vm) || isMerging(vm)) {
      if (error !== null && error.code !== 'MACHINE_UNSUPPORTED') problems.push(error)
    } else if (info.unsupported.length > 0)
      problems.push(...info.unsupported.map((drive) => unsupportedDrive(vm, drive).report()))
    else if (error !== null) problems.push(error)
    for (const one of await onFrozen(host, vm, info.disks)) problems.push(diskFrozen(vm, one).report())
  }
  for (const problem of host.ports.problemsOf(network)) problems.push(problem.report())
  const { peers } = await host.datapath.call('network', { network })
  for (const peer of peers) {
    if (peer.alive) continue
    const name = host.ports.byIndex(peer.port)?.name
    problems.push(
      new SnapswitchError(
        'PEER_DOWN',
        `${peer.host === null ? 'no switch' : `the switch of ${peer.host}`} does not answer on port ${name} of host ${host.name}`,
        'Start the switch at its other end, or check the link.',
      ).report(),
    )
  }
  if (busy !== null) problems.push(busy)
  const freeBytes = await host.store.freeBytes()
  if (freeBytes < neededBytes) {
    problems.push(
      new SnapswitchError(
        'STORE_FULL',
        `there are ${mib(freeBytes)} MiB free for snapshots, and this one may need ${mib(neededBytes)} MiB`,
        'Free space, or delete snapshots that are not needed.',
      ).report(),
    )
  }
  members.sort((a, b) => a.vm.localeCompare(b.vm))
  return {
    host: host.name,
    version: host.version,
    bootId: host.datapath.bootId,
    epoch: host.epochs.get(network),
    members,
    peers: peers.map((peer) => ({ ...peer, port: host.ports.byIndex(peer.port)?.name ?? '' })),
    uplinks: host.ports
      .all()
      .filter((port) => port.network === network && port.kind === 'uplink')
      .map((port) => port.name),
    freeBytes,
    neededBytes,
    recordingBytes: recordingBytes(host.recordedEvents, host.recordedBytes),
    problems,
  }
}

const mib = (bytes: number): number => Math.ceil(bytes / 2 ** 20)
