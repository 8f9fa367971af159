// What a domain's XML (https://libvirt.org/formatdomain.html) says of the domain, and libvirt's capabilities of the
// host. Pure.

import { type Document, type Element, XMLSerializer } from '@xmldom/xmldom'
import type { Nic } from '../hypervisor.js'
import { bridgedInterfaces, isMoved } from './bridged-nics.js'
import { type DomainDrives, readDrives } from './domain-disks.js'
import { attribute, child, children, devicesOf, macOf, parse, targetOf, textOf } from './domain-tree.js'

export interface DomainDescription extends DomainDrives {
  readonly name: string
  readonly uuid: string
  readonly memoryBytes: number
  /** NICs on taps of the host's, in the order of the XML: what ports can be on. */
  readonly nics: readonly Nic[]
  /** NICs on taps that libvirt puts into bridges. */
  readonly bridgedNics: readonly Nic[]
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

/**
 * Interfaces on a bare tap, which libvirt names in a running domain and the owner in others. All others (bridge,
 * network, user, direct, …) are libvirt's to make again as they were.
 */
export const tapInterfaces = (document: Document): Element[] =>
  devicesOf(document, 'interface').filter(
    (nic) => attribute(nic, 'type') === 'ethernet' && targetOf(nic) !== null && !isMoved(nic),
  )

function describeNic(nic: Element): Nic {
  const device = targetOf(nic)!
  const queues = Number(attribute(child(nic, 'driver'), 'queues') ?? 1)
  return {
    device,
    mac: macOf(nic),
    ...(queues > 1 ? { queues } : {}),
    // VIR_NET_GENERATED_VNET_PREFIX: libvirt takes such a name out of what it is given, and makes up another.
    ...(/^vnet\d+$/.test(device) ? { isMadeUp: true } : {}),
  }
}

export function describeDomain(xml: string): DomainDescription {
  const document = parse(xml)
  const domain = document.documentElement!
  return {
    name: textOf(child(domain, 'name')),
    uuid: textOf(child(domain, 'uuid')),
    memoryBytes: memoryOf(domain),
    ...readDrives(document),
    nics: tapInterfaces(document).map(describeNic),
    bridgedNics: bridgedInterfaces(document).map(describeNic),
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
