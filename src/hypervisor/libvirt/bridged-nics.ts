// NICs of which libvirt makes the tap, and puts it into a bridge: interfaces of the types `bridge` and `network`. Where
// the tap is a port of ours, a restored domain needs one that is there before it: the tap that libvirt would make has
// another name, and forwards before the machine is whole. So the restored domain has a bare tap (`ethernet`) there, and
// its metadata say what its owner has: that is what is stored, and what the next restore begins with. Pure.

import type { Document, Element } from '@xmldom/xmldom'
import type { Nic } from '../hypervisor.js'
import { attribute, child, children, devicesOf, macOf, need, parse, print, targetOf } from './domain-tree.js'

/** Elements of ours in a domain's `<metadata>` (https://libvirt.org/formatdomain.html#general-metadata). */
const namespace = 'urn:snapswitch:interfaces:1'
const bridgedTypes = ['bridge', 'network']
/** What a bare tap does not have. */
const ownersParts = ['source', 'virtualport', 'vlan']

export const isBridged = (nic: Element): boolean => bridgedTypes.includes(attribute(nic, 'type') ?? '')

const keptIn = (document: Document): Element | null => {
  const found = document.getElementsByTagNameNS(namespace, 'interfaces')
  return found[0] ?? null
}

/** What an interface was before it came onto a bare tap; null: it is as its owner has it. */
function keptOf(nic: Element): Element | null {
  if (attribute(nic, 'type') !== 'ethernet') return null
  const mac = macOf(nic)
  return children(keptIn(nic.ownerDocument!), 'interface').find((one) => attribute(one, 'mac') === mac) ?? null
}

/** Those on taps that have names, as in the XML of a running domain. */
export const bridgedInterfaces = (document: Document): Element[] =>
  devicesOf(document, 'interface').filter((nic) => targetOf(nic) !== null && (isBridged(nic) || isMoved(nic)))

/** Whether a restore has put a bridged NIC onto this bare tap. */
export const isMoved = (nic: Element): boolean => keptOf(nic) !== null

/** Puts bridged NICs onto bare taps, which are there: those whose MAC has one. */
export function moveToTaps(xml: string, taps: ReadonlyMap<string, string>): string {
  if (taps.size === 0) return xml
  const document = parse(xml)
  const kept = document.createElementNS(namespace, 'snapswitch:interfaces')
  for (const nic of devicesOf(document, 'interface').filter(isBridged)) {
    const mac = macOf(nic)
    const tap = mac === null ? undefined : taps.get(mac)
    if (tap === undefined) continue
    const one = document.createElement('interface')
    one.setAttribute('mac', mac!)
    one.setAttribute('type', attribute(nic, 'type')!)
    for (const name of ownersParts) for (const part of children(nic, name)) one.appendChild(part)
    kept.appendChild(one)
    nic.setAttribute('type', 'ethernet')
    const target = need(nic, 'target')
    target.setAttribute('dev', tap)
    target.setAttribute('managed', 'no')
  }
  need(document.documentElement!, 'metadata').appendChild(kept)
  return print(document)
}

/** The domain as its owner has it: each NIC where it was before restores. */
export function asOwned(xml: string): string {
  const document = parse(xml)
  const kept = keptIn(document)
  if (kept === null) return xml
  for (const nic of devicesOf(document, 'interface')) {
    const one = keptOf(nic)
    if (one === null) continue
    nic.setAttribute('type', attribute(one, 'type')!)
    child(nic, 'target')?.removeAttribute('managed')
    for (const name of ownersParts) for (const part of children(one, name)) nic.appendChild(part)
  }
  kept.parentNode!.removeChild(kept)
  return print(document)
}

/** By MAC, as `moveToTaps` wants them. */
export function tapsByMac(nics: readonly Nic[], taps: readonly (string | null)[]): Map<string, string> {
  const pairs = nics.map(({ mac }, at) => [mac, taps[at] ?? null] as const)
  return new Map(pairs.flatMap(([mac, tap]) => (mac === null || tap === null ? [] : [[mac, tap]])))
}
