// A domain's XML as a tree: what the rooms around read and change it with. Pure.

import { DOMParser, type Document, type Element, XMLSerializer } from '@xmldom/xmldom'
import { SnapswitchError } from '../../errors/errors.js'

export function parse(xml: string, root = 'domain'): Document {
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

export const print = (document: Document): string => new XMLSerializer().serializeToString(document)

export function children(element: Element | null, name: string): Element[] {
  const found: Element[] = []
  for (let node = element?.firstChild ?? null; node !== null; node = node.nextSibling) {
    if (node.nodeType === 1 && (node as Element).tagName === name) found.push(node as Element)
  }
  return found
}

export const child = (element: Element | null, name: string): Element | null => children(element, name)[0] ?? null
export const attribute = (element: Element | null, name: string): string | null => element?.getAttribute(name) ?? null
export const textOf = (element: Element | null): string => element?.textContent ?? ''

export function need(element: Element, name: string): Element {
  const found = child(element, name)
  if (found !== null) return found
  const made = element.ownerDocument!.createElement(name)
  element.appendChild(made)
  return made
}

export function remove(element: Element, name: string): void {
  for (const found of children(element, name)) element.removeChild(found)
}

/** Devices of one kind, in their order. */
export const devicesOf = (document: Document, name: string): Element[] =>
  children(child(document.documentElement, 'devices'), name)

/** aa:bb:cc:dd:ee:ff; null: it has none. */
export const macOf = (nic: Element): string | null => attribute(child(nic, 'mac'), 'address')?.toLowerCase() ?? null

export const targetOf = (device: Element): string | null => attribute(child(device, 'target'), 'dev')
