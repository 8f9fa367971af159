// One look at a running domain: libvirt's description of it, what libvirt keeps of it besides, and what of all that speaks
// against a snapshot or is to be told to its user.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, Disk, MachineInfo, UnsupportedDrive } from '../hypervisor.js'
import { isObject } from '../qmp-messages.js'
import { mediaElsewhere } from './domain-disks.js'
import type { DomainLink } from './domain-link.js'
import { machineState, stateDetail } from './domain-state.js'
import { parse } from './domain-tree.js'
import { type DomainDescription, describeDomain } from './domain-xml.js'
import type { BlockInfo, Keepsakes } from './protocol.js'

export type LookedAt = Omit<MachineInfo, 'name' | 'captureMode' | 'captureModeReason'>

export async function lookAt(link: DomainLink, deadline: Deadline): Promise<LookedAt> {
  const { state, reason } = await link.describe(deadline)
  const xml = await link.xml(0, deadline)
  const domain = describeDomain(xml)
  const keepsakes = (await link.call('keepsakes', {}, deadline)) as Keepsakes
  const full = machineState(state) !== 'running' && (await hasNoSpace(link, deadline))
  const disks = await Promise.all(
    domain.disks.map(async ({ target, layers }): Promise<Disk> => {
      const { capacity } = (await link.call('blockInfo', { disk: target }, deadline)) as BlockInfo
      return { name: target, layers, bytes: capacity }
    }),
  )
  return {
    state: machineState(state),
    stateDetail: stateDetail(state, reason, full),
    memoryBytes: domain.memoryBytes,
    disks,
    media: domain.media,
    unsupported: [...domain.unsupported, ...lostSnapshots(domain, keepsakes)],
    files: filesOf(domain),
    warnings: [...warningsOf(keepsakes), ...elsewhere(xml), ...nameless(domain)],
    nics: domain.nics,
    hypervisorVersion: link.greeting.version,
  }
}

/** Throws MACHINE_UNSUPPORTED when something speaks against a snapshot of the domain. */
export function checkSupported(machine: string, unsupported: readonly UnsupportedDrive[]): void {
  const [first] = unsupported
  if (first === undefined) return
  throw new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `${machine}’s disk ${first.name} cannot be snapshot: ${first.reason}.`,
    first.reason.startsWith('libvirt has ')
      ? 'Delete those of libvirt’s (`virsh snapshot-delete`, `virsh checkpoint-delete`), then take this one.'
      : 'Use qcow2 or raw image files of the machine’s own, or make the disk read-only.',
  )
}

const named = (names: readonly string[]) => `${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`

/**
 * libvirt goes back to an internal snapshot by having QEMU load it from the image that the domain is on. An overlay does not
 * have it: the revert fails, and the domain is off (libvirt 9.0, qemu_snapshot.c, qemuSnapshotRevertActive).
 */
function lostSnapshots({ disks }: DomainDescription, { internal, checkpoints }: Keepsakes): UnsupportedDrive[] {
  const [first] = disks
  if (first === undefined) return []
  const found: string[] = []
  if (internal.length > 0) {
    found.push(
      `libvirt has snapshots within the image (${named(internal)}), and \`virsh snapshot-revert\` would fail on an overlay and leave the domain off`,
    )
  }
  if (checkpoints > 0) {
    found.push(
      `libvirt has ${checkpoints} checkpoint${checkpoints === 1 ? '' : 's'} of it (\`virsh checkpoint-list\`), whose bitmaps no restore brings back`,
    )
  }
  return found.map((reason) => ({ name: first.target, reason }))
}

function warningsOf({ external }: Keepsakes): string[] {
  if (external.length === 0) return []
  return [
    `libvirt has external snapshots of it (${named(external)}): they know nothing of the overlays that a snapshot adds, so ` +
      '`virsh snapshot-delete` and `snapshot-revert` may refuse while it exists',
  ]
}

const elsewhere = (xml: string) =>
  mediaElsewhere(parse(xml)).map(
    (name) => `what is in drive ${name} is no file: it must be where the domain is restored`,
  )

const nameless = ({ nics }: DomainDescription) =>
  nics
    .filter(({ device }) => /^vnet\d+$/.test(device))
    .map(
      ({ device }) =>
        `libvirt has made up the name ${device} of a tap: it comes back under another. Give it one: <target dev='NAME'/>`,
    )

function filesOf({ disks, media }: DomainDescription): string[] {
  const layers = [...disks.flatMap((disk) => disk.layers), ...media.flatMap(({ backing = [] }) => backing)]
  const inDrives = media.flatMap(({ file }) => (file === null ? [] : [file]))
  return [...new Set([...layers.map(({ file }) => file), ...inDrives])]
}

/** Whether a disk has stopped the guest for want of space. */
async function hasNoSpace(link: DomainLink, deadline: Deadline): Promise<boolean> {
  const drives = await link.execute('query-block', {}, deadline)
  return Array.isArray(drives) && drives.some((drive) => isObject(drive) && drive['io-status'] === 'nospace')
}
