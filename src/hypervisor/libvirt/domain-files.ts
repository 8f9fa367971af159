// Files of the host that a domain is started with, besides its disks, and where a restored one finds them. Pure.

import type { Document, Element } from '@xmldom/xmldom'
import { attribute, child, children, devicesOf, parse, print, remove, textOf } from './domain-tree.js'

export type FileRole =
  | 'kernel'
  | 'initrd'
  | 'dtb'
  | 'firmware'
  | 'vars'
  | 'acpi-table'
  | 'option-rom'
  | 'fw-cfg'
  | 'nvdimm'

export interface DomainFile {
  readonly role: FileRole
  readonly path: string
}

/** Where a file's name stands: an element's text, or an attribute. */
interface Place extends DomainFile {
  set(path: string): void
}

function inText(role: FileRole, element: Element | null): Place[] {
  const path = textOf(element).trim()
  if (element === null || !path.startsWith('/')) return []
  return [
    {
      role,
      path,
      set(to) {
        element.textContent = to
      },
    },
  ]
}

function inAttribute(role: FileRole, element: Element | null, name: string): Place[] {
  const path = attribute(element, name)
  if (element === null || path === null || !path.startsWith('/')) return []
  return [{ role, path, set: (to) => element.setAttribute(name, to) }]
}

function placesOf(document: Document): Place[] {
  const domain = document.documentElement
  const os = child(domain, 'os')
  const nvram = child(os, 'nvram')
  const devices = child(domain, 'devices')
  const roms: Element[] = []
  for (let node = devices?.firstChild ?? null; node !== null; node = node.nextSibling) {
    if (node.nodeType === 1) roms.push(...children(node as Element, 'rom'))
  }
  return [
    ...inText('kernel', child(os, 'kernel')),
    ...inText('initrd', child(os, 'initrd')),
    ...inText('dtb', child(os, 'dtb')),
    ...inText('firmware', child(os, 'loader')),
    ...(child(nvram, 'source') === null ? inText('vars', nvram) : inAttribute('vars', child(nvram, 'source'), 'file')),
    ...children(child(os, 'acpi'), 'table').flatMap((table) => inText('acpi-table', table)),
    ...roms.flatMap((rom) => inAttribute('option-rom', rom, 'file')),
    ...children(domain, 'sysinfo').flatMap((info) =>
      children(info, 'entry').flatMap((entry) => inAttribute('fw-cfg', entry, 'file')),
    ),
    ...devicesOf(document, 'memory')
      .filter((memory) => attribute(memory, 'model') === 'nvdimm')
      .flatMap((memory) => inText('nvdimm', child(child(memory, 'source'), 'path'))),
  ]
}

export const externalFiles = (xml: string): DomainFile[] =>
  placesOf(parse(xml)).map(({ role, path }) => ({ role, path }))

/**
 * Since 9.2 libvirt writes both into a domain whose firmware it has chosen: how to choose it, and its name. It refuses
 * the two together where no firmware of the host's own has that name (qemu_firmware.c, qemuFirmwareFillDomain).
 */
function nameOnly(document: Document): void {
  const os = child(document.documentElement, 'os')
  if (os === null || child(os, 'loader') === null) return
  os.removeAttribute('firmware')
  remove(os, 'firmware')
}

/** The domain with the firmware that it names, whichever ones the host has to choose from. */
export function withNamedFirmware(xml: string): string {
  const document = parse(xml)
  nameOnly(document)
  return print(document)
}

/** Names each file as `pathOf` says; null leaves it as it is. */
export function placeFiles(xml: string, pathOf: (file: DomainFile) => string | null): string {
  const document = parse(xml)
  for (const place of placesOf(document)) {
    const path = pathOf(place)
    if (path === null || path === place.path) continue
    place.set(path)
    if (place.role === 'firmware') nameOnly(document)
  }
  return print(document)
}

/** The format of the image that firmware keeps its variables in. */
export const varsFormat = (xml: string): string =>
  attribute(child(child(parse(xml).documentElement, 'os'), 'nvram'), 'format') ?? 'raw'
