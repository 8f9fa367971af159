// One look at a running domain: libvirt's description of it, what libvirt keeps of it besides, and what of all that
// speaks against a snapshot or is to be told to its user.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, MachineInfo, UnsupportedDrive } from '../hypervisor.js'
import type { ProcessIdentity } from '../shared/process.js'
import { askBlocks, drivesOthersWrite } from '../shared/qemu-blocks.js'
import { driveAliases, mediaElsewhere } from './domain-disks.js'
import type { DomainLink } from './domain-link.js'
import { machineState, stateDetail } from './domain-state.js'
import { parse } from './domain-tree.js'
import { type DomainDescription, describeDomain } from './domain-xml.js'
import { compareDrives } from './drives-in-qemu.js'
import { foreignDevices } from './foreign-devices.js'
import type { Keepsakes } from './protocol.js'

export type LookedAt = Omit<MachineInfo, 'name' | 'captureMode' | 'captureModeReason'>

/** `process`: its QEMU; null when it cannot be seen. */
export async function lookAt(link: DomainLink, process: ProcessIdentity | null, deadline: Deadline): Promise<LookedAt> {
  const { state, reason } = await link.describe(deadline)
  const xml = await link.xml(0, deadline)
  const document = parse(xml)
  const domain = describeDomain(xml)
  const keepsakes = (await link.call('keepsakes', {}, deadline)) as Keepsakes
  const blocks = await askBlocks(link, process, deadline)
  const running = machineState(state) === 'running'
  const full = !running && blocks.graph.drives.some(({ ioStatus }) => ioStatus === 'nospace')
  const elsewhere = mediaElsewhere(document)
  const inQemu = compareDrives(domain.disks, driveAliases(document), blocks, await drivesOthersWrite(blocks, process))
  return {
    state: machineState(state),
    stateDetail: stateDetail(state, reason, full),
    memoryBytes: domain.memoryBytes,
    disks: inQemu.disks,
    media: domain.media.filter(({ name }) => !elsewhere.includes(name)),
    unsupported: firstOfEach([
      ...domain.unsupported,
      ...foreignDevices(document),
      ...lostKeepsakes(domain, keepsakes),
      ...inQemu.unsupported,
    ]),
    files: [...new Set([...blocks.files, ...filesOf(domain)])],
    warnings: [
      ...warningsOf(keepsakes),
      ...elsewhere.map((name) => `what is in drive ${name} is no file: it must be where the domain is restored`),
      ...nameless(domain),
      ...inQemu.warnings.filter((warning) => !elsewhere.some((name) => warning.startsWith(`drive ${name} `))),
    ],
    nics: domain.nics,
    bridgedNics: domain.bridgedNics,
    hypervisorVersion: link.greeting.version,
  }
}

const firstOfEach = (drives: readonly UnsupportedDrive[]) =>
  drives.filter(({ name }, at) => drives.findIndex((other) => other.name === name) === at)

/** Throws MACHINE_UNSUPPORTED when something speaks against a snapshot of the domain. */
export function checkSupported(machine: string, unsupported: readonly UnsupportedDrive[]): void {
  const [first] = unsupported
  if (first === undefined) return
  throw new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `${machine}’s ${first.isDevice === true ? first.name : `disk ${first.name}`} cannot be snapshot: ${first.reason}`,
    actionAbout(first),
  )
}

function actionAbout({ reason, isDevice }: UnsupportedDrive): string {
  if (isDevice === true) return 'Take it out of the domain (`virsh detach-device`, `virsh edit`).'
  return reason.startsWith('libvirt has ')
    ? 'Delete those of libvirt’s (`virsh snapshot-delete`, `virsh checkpoint-delete`), then take this one.'
    : 'Use qcow2 or raw image files of the machine’s own, or make the disk read-only.'
}

const named = (names: readonly string[]) => `${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`

/**
 * libvirt goes back to an internal snapshot by having QEMU load it from the image that the domain is on. An overlay
 * does not have it: the revert fails, and the domain is off (libvirt 9.0, qemu_snapshot.c, qemuSnapshotRevertActive).
 */
function lostKeepsakes({ disks }: DomainDescription, { internal, checkpoints }: Keepsakes): UnsupportedDrive[] {
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

const nameless = ({ nics }: DomainDescription) =>
  nics
    .filter(({ isMadeUp }) => isMadeUp === true)
    .map(
      ({ device }) =>
        `libvirt has made up the name ${device} of a tap: it comes back under another. Give it one: <target dev='NAME'/>`,
    )

function filesOf({ disks, media }: DomainDescription): string[] {
  const layers = [...disks.flatMap((disk) => disk.layers), ...media.flatMap(({ backing = [] }) => backing)]
  const inDrives = media.flatMap(({ file }) => (file === null ? [] : [file]))
  return [...new Set([...layers.map(({ file }) => file), ...inDrives])]
}
