// What libvirt starts a domain from when it has been off. A load changes it, for a restored domain is on other disks;
// until the domain has run, that can be undone, by this daemon or the next: what was stored before lies in the load's
// directory.

import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { readPlain } from '../../files/plain.js'
import type { Deadline } from '../hypervisor.js'
import { type PlacedDisk, placeDisks, placeNics } from './domain-edits.js'
import { externalFiles, placeFiles } from './domain-files.js'
import { describeDomain } from './domain-xml.js'
import type { Loader } from './loader.js'
import { type DescribeResult, undefineKeepNvram, xmlFlags } from './protocol.js'

/** What libvirt takes in one call (VIR_NET_MESSAGE_MAX). */
const xmlLimit = 32 << 20

/** Empty: libvirt had nothing stored. */
const fileOf = (directory: string) => path.join(directory, 'stored.xml')

export async function storedXml(
  loader: Loader,
  domain: string,
  before: DescribeResult | null,
  deadline: Deadline,
): Promise<string | null> {
  if (before?.persistent !== true) return null
  const flags = xmlFlags.inactive | xmlFlags.secure
  return (await loader.call('domainXml', { domain, flags }, deadline)) as string
}

export interface Restored {
  readonly directory: string
  readonly domain: string
  /** As it was restored. */
  readonly xml: string
  readonly disks: readonly PlacedDisk[]
  readonly taps: readonly string[]
}

/** A configuration that this host has keeps all but the disks; a host that has none gets that of the running domain. */
export async function storeConfiguration(
  loader: Loader,
  { directory, xml, disks, taps }: Restored,
  stored: string | null,
  deadline: Deadline,
): Promise<void> {
  await writeFile(fileOf(directory), stored ?? '', { mode: 0o600 })
  const base = stored ?? xml
  const known = new Set(describeDomain(base).disks.map(({ target }) => target))
  const placed = placeDisks(
    base,
    disks.filter(({ target }) => known.has(target)),
  )
  const named = describeDomain(base).nics.length === taps.length ? placeNics(placed, taps) : placed
  const vars = externalFiles(xml).find(({ role }) => role === 'vars')
  const whole = vars === undefined ? named : placeFiles(named, ({ role }) => (role === 'vars' ? vars.path : null))
  await loader.call('define', { xml: whole }, deadline)
}

/** The domain has run: what is stored is its own. */
export async function settleConfiguration(directory: string): Promise<void> {
  await rm(fileOf(directory), { force: true })
}

/**
 * The domain never ran and is off: what was stored before is stored again, unless its owner has stored something else
 * since.
 */
export async function takeBackConfiguration(
  loader: Loader,
  { directory, domain }: Pick<Restored, 'directory' | 'domain'>,
  deadline: Deadline,
): Promise<void> {
  const stored = (await readPlain(fileOf(directory), xmlLimit).catch(() => null))?.toString('utf8') ?? null
  if (stored === null) return
  const found = await loader.find(domain, deadline)
  if (found?.persistent === true) {
    const now = (await storedXml(loader, domain, found, deadline)) ?? ''
    const { disks } = describeDomain(now)
    if (disks.some(({ layers }) => layers[0]?.file.startsWith(`${directory}/`))) {
      if (stored === '') await loader.call('undefine', { domain, flags: undefineKeepNvram }, deadline)
      else await loader.call('define', { xml: stored }, deadline)
    }
  }
  await settleConfiguration(directory)
}
