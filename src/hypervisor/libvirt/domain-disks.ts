// What a domain's XML says of its drives: which can be snapshot, what the others hold, and why the rest cannot. Every
// `<disk>` is in one of the three lists. Pure.

import type { Document, Element } from '@xmldom/xmldom'
import type { DiskLayer, Medium, UnsupportedDrive } from '../hypervisor.js'
import { attribute, child, devicesOf, targetOf } from './domain-tree.js'

export interface DomainDisk {
  /** `<target dev>`: libvirt's name of the disk, unique in its domain and stable. */
  readonly target: string
  /** The active image first, as far as the XML tells. */
  readonly layers: readonly DiskLayer[]
}

export interface DomainDrives {
  /** Writable disks that can be snapshot. */
  readonly disks: readonly DomainDisk[]
  /** Read-only and removable drives, which a machine cannot change. */
  readonly media: readonly Medium[]
  readonly unsupported: readonly UnsupportedDrive[]
}

const kindOf = (disk: Element) => attribute(disk, 'device') ?? 'disk'
const isRemovable = (disk: Element) => kindOf(disk) === 'cdrom' || kindOf(disk) === 'floppy'
/** What the machine cannot write to: it says so, it is a CD-ROM, or it is empty. */
const isReadOnly = (disk: Element) =>
  child(disk, 'readonly') !== null ||
  kindOf(disk) === 'cdrom' ||
  (kindOf(disk) === 'floppy' && child(disk, 'source') === null)

const typeWords: { readonly [type: string]: string } = {
  block: 'a block device',
  dir: 'a directory (vvfat)',
  network: 'on the network',
  volume: 'a volume of a storage pool',
  nvme: 'an NVMe controller',
  vhostuser: 'served by a vhost-user process',
  vhostvdpa: 'a vhost-vdpa device',
}

function layerOf(element: Element, format: string | null): DiskLayer | string {
  const source = child(element, 'source')
  const file = attribute(source, 'file')
  const type = attribute(element, 'type') ?? 'file'
  if (type !== 'file' || file === null) return `its image is ${typeWords[type] ?? `of type ${type}`}, not a file`
  if (format !== 'qcow2' && format !== 'raw') return `${file} has the format ${format}`
  if (child(source, 'encryption') !== null || child(element, 'encryption') !== null) return `${file} is encrypted`
  if (child(source, 'slices') !== null) return `it is only a part of ${file} (<slices>)`
  if (child(source, 'dataStore') !== null) return `${file} has its data in another image (<dataStore>)`
  return { file, format }
}

function readLayers(disk: Element): DiskLayer[] | string {
  const layers: DiskLayer[] = []
  let format = attribute(child(disk, 'driver'), 'type') ?? 'raw'
  for (let at: Element = disk; ; ) {
    const layer = layerOf(at, format)
    if (typeof layer === 'string') return layer
    layers.push(layer)
    const backing = child(at, 'backingStore')
    if (attribute(backing, 'type') === null) return layers
    at = backing!
    format = attribute(child(at, 'format'), 'type') ?? ''
  }
}

/** Why a writable drive whose image could be snapshot cannot be all the same. */
function obstacle(disk: Element): string | null {
  if (kindOf(disk) !== 'disk') return `it is a writable ${kindOf(disk)}`
  if (child(disk, 'shareable') !== null) return 'other machines may write to it, too (<shareable/>)'
  if (child(disk, 'transient') !== null) return 'what it writes is thrown away when the domain ends (<transient/>)'
  if (child(disk, 'mirror') !== null) return 'it is being copied or merged (`virsh blockjob` shows how far)'
  return null
}

/** What lies in a drive that is only read. No file: nothing, or something that `mediaElsewhere` names. */
function mediumOf(disk: Element): Medium {
  const file = attribute(child(disk, 'source'), 'file')
  const medium = {
    name: targetOf(disk) ?? '',
    file,
    format: attribute(child(disk, 'driver'), 'type') ?? 'raw',
    removable: isRemovable(disk),
  }
  const layers = file === null ? '' : readLayers(disk)
  return typeof layers === 'string' || layers.length < 2 ? medium : { ...medium, backing: layers.slice(1) }
}

/** Whether a read-only drive holds something that is no file, so that nothing can be said of it here. */
const isElsewhere = (disk: Element) => child(disk, 'source') !== null && (attribute(disk, 'type') ?? 'file') !== 'file'

export function readDrives(document: Document): DomainDrives {
  const disks: DomainDisk[] = []
  const media: Medium[] = []
  const unsupported: UnsupportedDrive[] = []
  for (const disk of devicesOf(document, 'disk')) {
    const target = targetOf(disk) ?? ''
    if (isReadOnly(disk)) {
      media.push(mediumOf(disk))
      continue
    }
    const layers = readLayers(disk)
    const why = typeof layers === 'string' ? layers : obstacle(disk)
    if (why !== null) unsupported.push({ name: target, reason: why })
    else disks.push({ target, layers: layers as DiskLayer[] })
  }
  return { disks, media, unsupported }
}

/**
 * A disk's chain, also while it is being merged. `into`: the image that its active one is being committed to, or null.
 * No layers: there is no such disk, or it can be no part of a snapshot.
 */
export function chainOf(document: Document, target: string): { layers: readonly DiskLayer[]; into: string | null } {
  const disk = devicesOf(document, 'disk').find((one) => targetOf(one) === target && !isReadOnly(one))
  const mirror = child(disk ?? null, 'mirror')
  const layers = disk === undefined || (mirror === null && obstacle(disk) !== null) ? '' : readLayers(disk)
  const into = attribute(mirror, 'job') === 'active-commit' ? attribute(child(mirror, 'source'), 'file') : null
  return { layers: typeof layers === 'string' ? [] : layers, into }
}

/** Read-only drives whose medium a snapshot cannot name: it must be where the domain is restored. */
export const mediaElsewhere = (document: Document): string[] =>
  devicesOf(document, 'disk')
    .filter((disk) => isReadOnly(disk) && isElsewhere(disk))
    .map((disk) => targetOf(disk) ?? '')

/** What QEMU calls the device of each drive: target by alias. */
export const driveAliases = (document: Document): Map<string, string> =>
  new Map(
    devicesOf(document, 'disk').flatMap((disk) => {
      const alias = attribute(child(disk, 'alias'), 'name')
      return alias === null ? [] : [[alias, targetOf(disk) ?? '']]
    }),
  )
