// Whether this host could do its part of a restore now: files with the right content, machines that run, ports of other
// machines, room. Looks, and changes nothing.

import { distinctFiles, filesOfMember } from '../../../src/api/files.js'
import type { FileReference, MemberPart, RestoreCheck, RestoreRequest } from '../../../src/api/schemas.js'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../../src/errors/errors.js'
import { heldAlone } from '../../../src/hypervisor/drivers.js'
import type { MachineDefinition } from '../../../src/hypervisor/hypervisor.js'
import type { Host } from '../host.js'
import { type Inspected, inspectMachines } from '../inspection.js'
import { heldByOthers } from './held-taps.js'
import { mustWait } from './load.js'
import { withFreeNames } from './port-names.js'
import { isFree } from './ports.js'

/** How long a hypervisor may take to say whether it would take a machine. */
const EXAMINE_MS = 10_000
/** Bytes for what a machine writes to and records, overlays when they are new. */
const MACHINE_ROOM = 1 << 20
/** How long one that runs may take to answer, at least; more when the whole restore may take longer. */
const REACH_MS = 5_000
const REACH_SHARE = 1 / 12

/** Problems are reported, not thrown. */
export async function checkRestore(host: Host, network: string, asked: RestoreRequest): Promise<RestoreCheck> {
  const { request } = withFreeNames(host, asked)
  const problems: ErrorReport[] = []
  const told = new Set<string>()
  for (const member of request.members) {
    for (const port of member.ports) {
      const taken = host.ports.get(port.name)
      if (
        taken !== undefined &&
        ((taken.vm !== member.vm && !isFree(taken)) || taken.network !== (port.network ?? network))
      ) {
        told.add(port.device)
        problems.push(
          new SnapswitchError(
            'PORT_EXISTS',
            `port ${port.name} of ${member.vm} is another machine’s here`,
            'Place the machine on another host, or rename that port.',
          ).report(),
        )
      }
    }
  }
  const needed = distinctFiles([...request.channels, ...request.members.flatMap(filesOfMember)])
  const missing = await notHere(host, needed)
  const bytes = missing.reduce((sum, file) => sum + file.bytes, request.members.length * MACHINE_ROOM)
  if (bytes > 0 && bytes > (await host.store.freeBytes())) {
    problems.push(
      new SnapswitchError(
        'STORE_FULL',
        `${host.name} has no room for ${bytes} bytes`,
        'Free space there, or place the machines elsewhere.',
      ).report(),
    )
  }
  problems.push(...(await obstacles(host, request)))
  const running: string[] = []
  for (const { vm } of request.members) if (await host.machines.isThere(vm)) running.push(vm)
  const found = await inspectRunning(host, running, request.deadlineMs)
  const silent = whoIsSilent(found)
  problems.push(...(await heldByOthers(host, request.members, found, told)).map((problem) => problem.report()))
  const beside = request.members.filter((part) => running.includes(part.vm) && !mustWait(part, request))
  problems.push(...roomForBoth(host, beside).map((problem) => problem.report()))
  return {
    missing: [...missing, ...(await notHere(host, distinctFiles(request.files ?? [])))],
    running,
    silent,
    problems,
  }
}

function inspectRunning(
  host: Pick<Host, 'clock' | 'machines'>,
  running: readonly string[],
  deadlineMs: number,
): Promise<Inspected[]> {
  const deadline = host.clock.now().ms + Math.min(Math.max(REACH_MS, deadlineMs * REACH_SHARE), deadlineMs * 0.9)
  return inspectMachines(host.machines, running, deadline, host.clock)
}

/** Machines that run and cannot be reached could be neither paused nor ended, which would show after all was loaded. */
function whoIsSilent(found: readonly Inspected[]): ErrorReport[] {
  return found.flatMap(({ vm, info, error }) => {
    // One that has ended meanwhile is not in the way.
    if (info !== null || error === null || error.code === 'MACHINE_UNKNOWN') return []
    const action = `${error.action} Or end ${vm} yourself: one that has ended is in nobody’s way.`
    return { ...error, message: `${vm} runs and cannot be replaced: ${error.message}`, action }
  })
}

/** What keeps machines from being loaded beside their former selves. */
function roomForBoth(host: Pick<Host, 'name' | 'processor'>, beside: readonly MemberPart[]): SnapswitchError[] {
  const found = beside.flatMap(({ vm, definition }) => {
    const held = heldAlone(definition as MachineDefinition)
    if (held.length === 0) return []
    return new SnapswitchError(
      'MACHINE_RUNNING',
      `${vm} runs, and has for itself what its next self needs: ${held.join(', ')}`,
      endFirst,
    )
  })
  // An image has about as many bytes as the guest will have memory in use.
  const needed = beside.reduce((sum, { memory }) => sum + memory.bytes, 0)
  const available = host.processor.availableMemory()
  if (needed > 0 && available !== null && needed > available) {
    const message = `host ${host.name} has ${available} bytes of memory to spare, and needs ${needed} for machines beside their former selves`
    found.push(new SnapswitchError('MEMORY_SHORT', message, endFirst))
  }
  return found
}

const endFirst =
  'Give --end-first to end what runs before the new machines are loaded: then a load that fails leaves none running.'

async function notHere(host: Pick<Host, 'store'>, files: readonly FileReference[]): Promise<FileReference[]> {
  if (files.length === 0) return []
  const find = await host.store.images.finder()
  const missing = []
  for (const file of files) if ((await find(file)) === null) missing.push(file)
  return missing
}

/** What the hypervisors here have against loading the machines. */
async function obstacles(host: Host, { members, deadlineMs }: RestoreRequest): Promise<ErrorReport[]> {
  const deadline = host.clock.now().ms + Math.min(EXAMINE_MS, deadlineMs * 0.9)
  const found = await Promise.all(
    members.map(({ definition }) =>
      host.machines
        .examine(definition as MachineDefinition, deadline)
        .catch((thrown) => [asSnapswitchError(thrown).report()]),
    ),
  )
  return found.flat()
}
