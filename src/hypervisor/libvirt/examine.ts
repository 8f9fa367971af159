// Whether this host's libvirt would take a domain that is to be restored here: asked before anything is ended for it.
// Starts and changes nothing.

import { access } from 'node:fs/promises'
import path from 'node:path'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import { externalFiles, withNamedFirmware } from './domain-files.js'
import { child, parse, textOf } from './domain-tree.js'
import type { Loader } from './loader.js'
import type { DescribeResult, Keepsakes } from './protocol.js'
import type { LibvirtDefinition } from './types.js'

const obstacle = (message: string, action: string) => new SnapswitchError('RESTORE_FAILED', message, action).report()

/** What speaks against it, all of it; a libvirtd that does not answer throws. */
export async function examineDomain(
  loader: Loader,
  definition: LibvirtDefinition,
  deadline: Deadline,
): Promise<ErrorReport[]> {
  const { domain, uuid } = definition
  const known = await loader.find(domain, deadline)
  const name = (await loader.call('nameOf', { uuid }, deadline)) as string | null
  const identity = judgeIdentity({ domain, uuid, known, name })
  if (identity !== null) return [identity]
  const kept = known === null ? [] : judgeKeepsakes(domain, (await loader.keepsakes(domain, deadline)) as Keepsakes)
  return [...kept, ...(await definitionFaults(loader, definition, deadline))]
}

export interface Identity {
  readonly domain: string
  readonly uuid: string
  /** What libvirt has under that name, and which name it has for that UUID. */
  readonly known: DescribeResult | null
  readonly name: string | null
}

/** libvirt knows a machine by its name and its UUID: both must be free, or this machine's. */
export function judgeIdentity({ domain, uuid, known, name }: Identity): ErrorReport | null {
  if (known !== null && known.uuid !== uuid) {
    return obstacle(
      `libvirt has another domain ${domain} here: its UUID is ${known.uuid}, that of the snapshot ${uuid}`,
      `Rename that one (\`virsh domrename ${domain} OTHER\`, while it is off), or restore on another host.`,
    )
  }
  if (name !== null && name !== domain) {
    return obstacle(
      `libvirt has the machine of UUID ${uuid} here under the name ${name}, not ${domain}`,
      `Give it its name back: \`virsh domrename ${name} ${domain}\` (while it is off).`,
    )
  }
  return null
}

/** What libvirt has stored of a domain, and would fail on once it is on other disks. */
export function judgeKeepsakes(domain: string, { internal, managedSave }: Keepsakes): ErrorReport[] {
  const found: ErrorReport[] = []
  if (managedSave) {
    found.push(
      obstacle(
        `libvirt has a saved state of ${domain} (managedsave): the next \`virsh start\` would go on from it, on the disks before the restore`,
        `Start it (\`virsh start ${domain}\`), or throw that state away: \`virsh managedsave-remove ${domain}\`.`,
      ),
    )
  }
  if (internal.length > 0) {
    const some = `${internal.slice(0, 3).join(', ')}${internal.length > 3 ? ', …' : ''}`
    found.push(
      obstacle(
        `libvirt has snapshots within the images of ${domain} (${some}): after the restore it could not revert to them, and would leave it off`,
        `Delete them: \`virsh snapshot-delete ${domain} NAME\` (with --metadata, so that they stay in the image).`,
      ),
    )
  }
  return found
}

/** libvirt checks a definition, against this host's QEMU, too, when it makes a command line of it. */
async function definitionFaults(loader: Loader, { name, xml, files }: LibvirtDefinition, deadline: Deadline) {
  const found: ErrorReport[] = []
  for (const { role, path: file } of externalFiles(xml)) {
    // Files for a guest's writes are made again, or are libvirt's to make; others are a part of the snapshot.
    if (role === 'vars' || role === 'nvdimm' || (await exists(file))) continue
    if (files?.some(({ path: kept }) => kept === file) === true) continue
    found.push(
      obstacle(`${name} is started with ${file} (${role}), which is not here`, 'Bring that file to this host.'),
    )
  }
  const emulator = textOf(child(parse(xml).documentElement, 'devices')?.getElementsByTagName('emulator')[0] ?? null)
  if (path.isAbsolute(emulator.trim()) && !(await exists(emulator.trim()))) {
    found.push(obstacle(`${name} needs ${emulator.trim()}, which is not here`, 'Install the same QEMU on this host.'))
    return found
  }
  try {
    // As it is restored: the image has the firmware’s name only, for another libvirt (VIR_DOMAIN_XML_MIGRATABLE).
    await loader.call('toNative', { xml: withNamedFirmware(xml) }, deadline)
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    if (error.code === 'HYPERVISOR_UNREACHABLE' || error.code === 'DEADLINE') throw error
    found.push(
      obstacle(
        `this host’s libvirt does not take the definition of ${name}: ${error.message}`,
        'Use the same QEMU and libvirt versions on both hosts, or restore on the host it came from.',
      ),
    )
  }
  return found
}

const exists = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )
