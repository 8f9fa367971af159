// Loads one machine of a restore: its files as they lie on this host, its directory, its TAPs.

import type { MemberPart, RestoreRequest } from '../../../src/api/schemas.js'
import { loadOf, whyNotTwice } from '../../../src/hypervisor/drivers.js'
import type { Deadline, LoadedMachine, MachineDefinition } from '../../../src/hypervisor/hypervisor.js'
import type { Host } from '../host.js'
import { type Find, locateFiles } from '../located-files.js'
import { tapsOf } from './held-taps.js'
import type { Taps } from './taps.js'

/** How long a former self may take to say which TAPs it has. */
const ANSWER_MS = 5000

/** How a machine is to be loaded. */
export interface Loading {
  readonly part: MemberPart
  readonly directory: string
  /** Its former self runs here. */
  readonly beside: boolean
}

/** What tells a machine that this restore loads from any other. */
export function startedLoad({ part, directory }: Loading) {
  return { vm: part.vm, ...loadOf(part.definition as MachineDefinition, directory) }
}

/**
 * Whether its former self must have ended: some machines cannot be there twice, and a host may have no room for any
 * twice.
 */
export function mustWait(part: MemberPart, { endFirst }: RestoreRequest): boolean {
  return endFirst === true || !canBeTwice(part)
}

export const canBeTwice = (part: MemberPart): boolean => whyNotTwice(part.definition as MachineDefinition) === null

export async function loadMachine(
  host: Pick<Host, 'clock' | 'machines' | 'ports' | 'store'>,
  { part, directory, beside }: Loading,
  { taps, find }: { readonly taps: Taps; readonly find: Find },
  deadline: number,
): Promise<LoadedMachine> {
  const definition = part.definition as MachineDefinition
  // Copies are the daemon's alone.
  const { user } = definition
  const shared = user && ((path: string) => host.store.images.share(path, user.gid))
  const files = await locateFiles(find, part, shared)
  await host.store.makeMachineDirectory(directory)
  // A port takes its device's name along to the host that it is restored on.
  const names = definition.nics.map((nic) => nic.device)
  const isPort = (device: string) => part.ports.some((port) => port.device === device)
  const bridgedTaps = (definition.bridgedNics ?? []).map(({ device }) => (isPort(device) ? device : null))
  const descriptors = taps.open(part, beside ? await formerTaps(host, part.vm, deadline) : new Set())
  const request = { definition, ...files, taps: names, bridgedTaps, descriptors, beside, directory }
  return host.machines.load(request, deadline)
}

/** Of one that does not say, the TAPs of its ports are its own: it was asked before anything began. */
async function formerTaps(
  host: Pick<Host, 'clock' | 'machines' | 'ports'>,
  vm: string,
  limit: Deadline,
): Promise<ReadonlySet<string>> {
  const deadline = Math.min(limit, host.clock.now().ms + ANSWER_MS)
  const info = await host.machines.using(vm, deadline, (control) => control.inspect(deadline)).catch(() => null)
  return tapsOf(host, vm, info)
}
