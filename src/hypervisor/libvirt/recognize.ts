// A QEMU that libvirt has started, told by its command line; and which libvirtd it belongs to, told by asking.

import { existsSync } from 'node:fs'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import type { HolderProcess, Recognized } from '../holder.js'
import type { Deadline } from '../hypervisor.js'
import { OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'
import type { LibvirtProcess } from './process-handle.js'
import type { DescribeResult } from './protocol.js'
import type { DomainAddress } from './types.js'

const SYSTEM = 'qemu:///system'
const isUuid = (text: string | null): text is string => text !== null && /^[0-9a-f-]{36}$/i.test(text)

/**
 * Null when libvirt has not started it. Its monitor is a character device of this name on a descriptor that it was
 * given (qemuBuildMonitorCommandLine, qemu_command.c): nobody else may talk to it.
 */
export function recognize(holder: HolderProcess): Recognized<DomainAddress> | null {
  const split = splitArguments(holder.argv)
  const isLibvirts = split.some((one) => one.option === 'mon' && optionValue(one).get('chardev') === 'charmonitor')
  const uuid = split.findLast(({ option }) => option === 'uuid')?.value ?? null
  const name = split.findLast(({ option }) => option === 'name')?.value ?? null
  const domain = name === null ? null : new OptionValue(name, 'guest').get('guest')
  if (!isLibvirts || !isUuid(uuid) || domain === null) return null
  return { title: domain, identity: `libvirt:${uuid.toLowerCase()}`, addresses: [{ domain }], problem: null }
}

/** libvirtds that the domain may belong to, the likeliest first. Those of users are asked only where they run. */
function candidates(holder: HolderProcess, uri: string): string[] {
  const sessions = ['libvirt-sock', 'virtqemud-sock']
    .map((socket) => `/run/user/${holder.uid}/libvirt/${socket}`)
    .filter((socket) => existsSync(socket))
    .map((socket) => `qemu+unix:///session?socket=${socket}`)
  return [...new Set([uri, SYSTEM, ...sessions])]
}

/**
 * The address of a domain as its own libvirtd says: the one where a domain of this UUID runs. Throws
 * HYPERVISOR_UNREACHABLE, MACHINE_UNKNOWN.
 */
export async function findDomain(
  libvirt: LibvirtProcess,
  holder: HolderProcess,
  title: string,
  uri: string,
  deadline: Deadline,
): Promise<DomainAddress> {
  const split = splitArguments(holder.argv)
  const uuid = split.findLast(({ option }) => option === 'uuid')?.value ?? ''
  let failure: SnapswitchError | null = null
  for (const candidate of candidates(holder, uri)) {
    const lane = libvirt.lane(() => {})
    const ask = (call: 'nameOf' | 'describe', args: { uuid?: string; domain?: string }) =>
      libvirt.call({ lane, uri: candidate, watch: null, call, args }, deadline)
    try {
      const domain = (await ask('nameOf', { uuid })) as string | null
      if (domain === null) continue
      const { active } = (await ask('describe', { domain })) as DescribeResult
      if (active) return candidate === uri ? { domain } : { domain, uri: candidate }
    } catch (thrown) {
      failure ??= asSnapswitchError(thrown)
    } finally {
      libvirt.closeLane(lane, candidate)
    }
  }
  if (failure !== null) throw failure
  throw new SnapswitchError(
    'MACHINE_UNKNOWN',
    `no libvirtd that can be asked has a domain ${title} with the UUID ${uuid} of process ${holder.pid}`,
    'Give its libvirtd in the configuration: `libvirt: { uri: … }`, or the domain with its `uri` under `machines:`.',
  )
}
