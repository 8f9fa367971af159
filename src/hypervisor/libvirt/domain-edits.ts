// Edits of a domain's XML that a snapshot and a restore need. They work on the document tree, so what is not understood
// here stays as it was. Pure.

import { DOMParser, type Element } from '@xmldom/xmldom'
import { SnapswitchError } from '../../errors/errors.js'
import type { DiskLayer, Medium } from '../hypervisor.js'
import { attribute, child, devicesOf, need, parse, print, remove, targetOf } from './domain-tree.js'
import { tapInterfaces } from './domain-xml.js'

export interface PlacedDisk {
  readonly target: string
  /** The active image first. */
  readonly layers: readonly DiskLayer[]
}

const mismatch = (what: string) =>
  new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `The domain does not fit the snapshot: ${what}`,
    'The files of the snapshot do not belong together; use another snapshot.',
  )

/** Puts disks onto other images. Throws MACHINE_UNSUPPORTED when the XML lacks one. */
export function placeDisks(xml: string, disks: readonly PlacedDisk[]): string {
  const document = parse(xml)
  for (const { target, layers } of disks) {
    const disk = devicesOf(document, 'disk').find((element) => targetOf(element) === target)
    if (disk === undefined) throw mismatch(`it has no disk ${target}`)
    placeDisk(disk, layers)
  }
  return print(document)
}

/** Puts the NICs, in their order, onto other taps. Throws MACHINE_UNSUPPORTED when their number differs. */
export function placeNics(xml: string, taps: readonly string[]): string {
  const document = parse(xml)
  const nics = tapInterfaces(document)
  if (nics.length !== taps.length) throw mismatch(`it has ${nics.length} NICs on taps, not ${taps.length}`)
  nics.forEach((nic, index) => {
    placeNic(nic, taps[index]!)
  })
  return print(document)
}

/** The taps of `ethernet` interfaces that libvirt makes, and takes away when the domain ends. */
export function tapsOfLibvirt(xml: string): string[] {
  return tapInterfaces(parse(xml))
    .filter(isMadeByLibvirt)
    .map((nic) => targetOf(nic)!)
}

const isMadeByLibvirt = (nic: Element) =>
  attribute(nic, 'type') === 'ethernet' && attribute(child(nic, 'target'), 'managed') !== 'no'

/** Has libvirt use these taps, which are there already, as they are: it would refuse to make them. */
export function useTaps(xml: string, taps: ReadonlySet<string>): string {
  const document = parse(xml)
  for (const nic of tapInterfaces(document)) {
    if (isMadeByLibvirt(nic) && taps.has(targetOf(nic)!)) need(nic, 'target').setAttribute('managed', 'no')
  }
  return print(document)
}

/**
 * Takes off what libvirt would limit by an ingress hook of its own at these taps: what the guest sends (`<outbound>`;
 * virNetDevBandwidthSet, whose directions are the host's). Where a hook is there, it would not start the domain.
 */
export function withoutIngressLimits(xml: string, taps: ReadonlySet<string>): string {
  if (taps.size === 0) return xml
  const document = parse(xml)
  for (const nic of tapInterfaces(document)) {
    const limits = child(nic, 'bandwidth')
    if (limits === null || !taps.has(targetOf(nic)!)) continue
    remove(limits, 'outbound')
    if (child(limits, 'inbound') === null) remove(nic, 'bandwidth')
  }
  return print(document)
}

function placeDisk(disk: Element, layers: readonly DiskLayer[]): void {
  placeSource(disk, layers)
  remove(disk, 'mirror')
}

function placeSource(disk: Element, [active, ...below]: readonly DiskLayer[]): void {
  const document = disk.ownerDocument!
  disk.setAttribute('type', 'file')
  need(disk, 'driver').setAttribute('type', active!.format)
  const source = need(disk, 'source')
  for (const name of ['index', 'dev', 'startupPolicy']) source.removeAttribute(name)
  source.setAttribute('file', active!.file)
  remove(disk, 'backingStore')
  // The chain is spelled out, down to its end: what image files say of each other may be true of another host only.
  let above = disk
  for (const { file, format } of below) {
    const backing = document.createElement('backingStore')
    backing.setAttribute('type', 'file')
    const kind = document.createElement('format')
    kind.setAttribute('type', format)
    const from = document.createElement('source')
    from.setAttribute('file', file)
    backing.appendChild(kind)
    backing.appendChild(from)
    above.appendChild(backing)
    above = backing
  }
  above.appendChild(document.createElement('backingStore'))
}

/** Puts read-only files and discs into their drives as they lie on this host; what is no file stays as the XML says. */
export function placeMedia(xml: string, media: readonly Medium[]): string {
  const document = parse(xml)
  for (const { name, file, format, backing } of media) {
    const drive = devicesOf(document, 'disk').find((element) => targetOf(element) === name)
    if (drive === undefined) throw mismatch(`it has no drive ${name}`)
    const source = child(drive, 'source')
    if (source !== null && (attribute(drive, 'type') ?? 'file') !== 'file') continue
    if (file === (attribute(source, 'file') ?? null)) continue
    if (file === null) for (const part of ['source', 'backingStore']) remove(drive, part)
    else placeSource(drive, [{ file, format: format === 'qcow2' ? 'qcow2' : 'raw' }, ...(backing ?? [])])
  }
  return print(document)
}

/** Has consoles go on in their log files, where a started domain would begin them anew. */
export function appendToLogs(xml: string): string {
  const document = parse(xml)
  for (const kind of ['serial', 'parallel', 'console', 'channel']) {
    for (const device of devicesOf(document, kind)) {
      if (attribute(device, 'type') === 'file') child(device, 'source')?.setAttribute('append', 'on')
      child(device, 'log')?.setAttribute('append', 'on')
    }
  }
  return print(document)
}

/** Only the tap's name changes: whether libvirt makes it, and takes it away with the domain, is its owner's to say. */
function placeNic(nic: Element, tap: string): void {
  if (targetOf(nic) !== tap) need(nic, 'target').setAttribute('dev', tap)
}

/** What `virDomainSnapshotCreateXML` needs: which disk goes onto which overlay, and which are left alone. */
export function snapshotXml(
  overlays: readonly { readonly target: string; readonly file: string }[],
  readOnly: readonly string[],
  memoryFile: string | null,
): string {
  const document = new DOMParser().parseFromString('<domainsnapshot><disks/></domainsnapshot>', 'text/xml')
  const root = document.documentElement!
  const element = (parent: Element, name: string, attributes: Record<string, string>): Element => {
    const made = document.createElement(name)
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
    parent.appendChild(made)
    return made
  }
  if (memoryFile !== null) element(root, 'memory', { snapshot: 'external', file: memoryFile })
  const disks = child(root, 'disks')!
  for (const { target, file } of overlays) {
    const disk = element(disks, 'disk', { name: target, snapshot: 'external', type: 'file' })
    element(disk, 'driver', { type: 'qcow2' })
    element(disk, 'source', { file })
  }
  for (const target of readOnly) element(disks, 'disk', { name: target, snapshot: 'no' })
  return print(document)
}
