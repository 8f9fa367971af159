// A domain's XML (https://libvirt.org/formatdomain.html): what it says of disks and NICs, and the edits that a restore
// elsewhere needs. Works on the document tree, so what is not understood here stays as it was. Pure.

import { DOMParser, type Document, type Element, XMLSerializer } from '@xmldom/xmldom'
import { SnapswitchError } from '../../errors/errors.js'
import type { DiskLayer, Nic } from '../hypervisor.js'

export interface DomainDisk {
  /** `<target dev>`: libvirt's name of the disk, unique in its domain and stable. */
  readonly target: string
  /** The active image first, as far as the XML tells. */
  readonly layers: readonly DiskLayer[]
}

export interface DomainDescription {
  readonly name: string
  readonly uuid: string
  readonly memoryBytes: number
  /** Writable disks that can be snapshot. */
  readonly disks: readonly DomainDisk[]
  /** Targets of read-only drives (CD-ROMs, …), which a machine cannot change. */
  readonly readOnly: readonly string[]
  /** Writable disks that cannot be snapshot, each with the reason. */
  readonly unsupported: readonly { readonly name: string; readonly reason: string }[]
  /** NICs on tap devices, in the order of the XML. */
  readonly nics: readonly Nic[]
}

function parse(xml: string, root = 'domain'): Document {
  const fail = (reason: string, cause?: unknown) =>
    new SnapswitchError(
      'HYPERVISOR_PROTOCOL',
      `libvirt’s description (<${root}>) is no XML: ${reason}`,
      'Please report this with the output of `virsh dumpxml` or `virsh capabilities`.',
      cause,
    )
  let document: Document
  try {
    document = new DOMParser({
      onError: (level, message) => {
        if (level !== 'warning') throw new Error(message)
      },
    }).parseFromString(xml, 'text/xml')
  } catch (error) {
    throw fail((error as Error).message, error)
  }
  if (document.documentElement?.tagName !== root) throw fail(`its root is not <${root}>`)
  return document
}

const print = (document: Document): string => new XMLSerializer().serializeToString(document)

function children(element: Element | null, name: string): Element[] {
  const found: Element[] = []
  for (let node = element?.firstChild ?? null; node !== null; node = node.nextSibling) {
    if (node.nodeType === 1 && (node as Element).tagName === name) found.push(node as Element)
  }
  return found
}

const child = (element: Element | null, name: string): Element | null => children(element, name)[0] ?? null
const attribute = (element: Element | null, name: string): string | null => element?.getAttribute(name) ?? null
const textOf = (element: Element | null): string => element?.textContent ?? ''

function need(element: Element, name: string): Element {
  const found = child(element, name)
  if (found !== null) return found
  const made = element.ownerDocument!.createElement(name)
  element.appendChild(made)
  return made
}

const units: { readonly [unit: string]: number } = {
  b: 1,
  bytes: 1,
  KB: 1e3,
  k: 1024,
  KiB: 1024,
  MB: 1e6,
  M: 1024 ** 2,
  MiB: 1024 ** 2,
  GB: 1e9,
  G: 1024 ** 3,
  GiB: 1024 ** 3,
  TB: 1e12,
  T: 1024 ** 4,
  TiB: 1024 ** 4,
}

function memoryOf(domain: Element): number {
  const memory = child(domain, 'memory')
  return Number(textOf(memory)) * (units[attribute(memory, 'unit') ?? 'KiB'] ?? 1024)
}

function layerOf(element: Element, format: string | null): DiskLayer | string {
  const file = attribute(child(element, 'source'), 'file')
  const type = attribute(element, 'type')
  if (type !== 'file' || file === null) return `its image is of type ${type}, not a file`
  if (format !== 'qcow2' && format !== 'raw') return `${file} has the format ${format}`
  if (child(child(element, 'source'), 'encryption') !== null || child(element, 'encryption') !== null) {
    return `${file} is encrypted`
  }
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

const disksOf = (document: Document) => children(child(document.documentElement, 'devices'), 'disk')
const targetOf = (device: Element) => attribute(child(device, 'target'), 'dev')
const kindOf = (disk: Element) => attribute(disk, 'device') ?? 'disk'
/** What the machine cannot write to: it says so, it is a CD-ROM, or it is empty. */
const isReadOnly = (disk: Element) =>
  child(disk, 'readonly') !== null ||
  kindOf(disk) === 'cdrom' ||
  (kindOf(disk) === 'floppy' && child(disk, 'source') === null)

/** Interfaces that have a tap on the host: libvirt names it in a running domain, the owner in others. */
const tapInterfaces = (document: Document) =>
  children(child(document.documentElement, 'devices'), 'interface').filter(
    (nic) => ['ethernet', 'bridge', 'network'].includes(attribute(nic, 'type') ?? '') && targetOf(nic) !== null,
  )

export function describeDomain(xml: string): DomainDescription {
  const document = parse(xml)
  const domain = document.documentElement!
  const disks: DomainDisk[] = []
  const readOnly: string[] = []
  const unsupported: { name: string; reason: string }[] = []
  for (const disk of disksOf(document)) {
    const target = targetOf(disk) ?? ''
    if (isReadOnly(disk)) {
      readOnly.push(target)
      continue
    }
    const layers = readLayers(disk)
    if (typeof layers === 'string') unsupported.push({ name: target, reason: layers })
    else if (kindOf(disk) === 'floppy') unsupported.push({ name: target, reason: 'it is a writable floppy' })
    else if (child(disk, 'shareable') !== null) unsupported.push({ name: target, reason: 'it is shareable' })
    else if (child(disk, 'transient') !== null) unsupported.push({ name: target, reason: 'it is transient' })
    else disks.push({ target, layers })
  }
  return {
    name: textOf(child(domain, 'name')),
    uuid: textOf(child(domain, 'uuid')),
    memoryBytes: memoryOf(domain),
    disks,
    readOnly,
    unsupported,
    nics: tapInterfaces(document).map((nic) => ({
      device: targetOf(nic)!,
      mac: attribute(child(nic, 'mac'), 'address')?.toLowerCase() ?? null,
    })),
  }
}

/** What libvirt's capabilities (https://libvirt.org/formatcaps.html) say of how QEMU is kept in bounds. */
export interface Confinement {
  /** The user id that QEMU runs under; null when they do not tell. */
  readonly user: number | null
  /** `apparmor`, `selinux`; null when no security driver but that of users (`dac`) is in force. */
  readonly driver: string | null
}

export function readConfinement(capabilitiesXml: string): Confinement {
  const host = child(parse(capabilitiesXml, 'capabilities').documentElement, 'host')
  const models = children(host, 'secmodel')
  const nameOf = (model: Element) => textOf(child(model, 'model')).trim()
  const dac = models.find((model) => nameOf(model) === 'dac')
  const user = /^\+?(\d+):/.exec(textOf(child(dac ?? null, 'baselabel')))?.[1]
  const driver = models.map(nameOf).find((name) => name !== 'dac' && name !== 'none' && name !== '')
  return { user: user === undefined ? null : Number(user), driver: driver ?? null }
}

/** The save cookie (qemu_domain.c, qemuDomainSaveCookieFormat): the CPU as the running domain has it. */
export function saveCookie(liveXml: string): string | null {
  const cpu = child(parse(liveXml).documentElement, 'cpu')
  return cpu === null ? null : `<cookie>\n  ${new XMLSerializer().serializeToString(cpu)}\n</cookie>\n`
}

export interface PlacedDisk {
  readonly target: string
  /** The active image first. */
  readonly layers: readonly DiskLayer[]
}

const mismatch = (what: string) =>
  new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `The domain does not fit the snapshot: ${what}.`,
    'The files of the snapshot do not belong together; use another snapshot.',
  )

/** Puts disks onto other images. Throws MACHINE_UNSUPPORTED when the XML lacks one. */
export function placeDisks(xml: string, disks: readonly PlacedDisk[]): string {
  const document = parse(xml)
  for (const { target, layers } of disks) {
    const disk = disksOf(document).find((element) => targetOf(element) === target)
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

function remove(element: Element, name: string): void {
  for (const found of children(element, name)) element.removeChild(found)
}

function placeDisk(disk: Element, [active, ...below]: readonly DiskLayer[]): void {
  const document = disk.ownerDocument!
  disk.setAttribute('type', 'file')
  need(disk, 'driver').setAttribute('type', active!.format)
  const source = need(disk, 'source')
  for (const name of ['index', 'dev']) source.removeAttribute(name)
  source.setAttribute('file', active!.file)
  remove(disk, 'backingStore')
  remove(disk, 'mirror')
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

function placeNic(nic: Element, tap: string): void {
  nic.setAttribute('type', 'ethernet')
  // What a bridge or a virtual network was asked for means nothing on a bare tap.
  for (const name of ['source', 'virtualport', 'script', 'portgroup', 'vlan', 'port']) remove(nic, name)
  const target = need(nic, 'target')
  target.setAttribute('dev', tap)
  target.setAttribute('managed', 'no')
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
