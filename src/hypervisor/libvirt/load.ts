// Starts a domain from a saved machine: fresh overlays, the image's own XML with disks and taps of this host, restored
// paused by libvirt, and its configuration stored again where it was stored before.

import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../errors/errors.js'
import { withIngressHook } from '../../linux/ingress-hooks.js'
import type { Deadline, LoadedMachine, LoadRequest } from '../hypervisor.js'
import { within } from '../shared/deadline.js'
import { makeFreshDisks } from '../shared/fresh-disks.js'
import { endWithHolder } from '../shared/tap-holder.js'
import { asOwned, moveToTaps, tapsByMac } from './bridged-nics.js'
import {
  appendToLogs,
  type PlacedDisk,
  placeDisks,
  placeMedia,
  placeNics,
  tapsOfLibvirt,
  useTaps,
  withoutIngressLimits,
} from './domain-edits.js'
import { placeFiles } from './domain-files.js'
import { describeDomain } from './domain-xml.js'
import { examineDomain } from './examine.js'
import { placeVars } from './firmware-vars.js'
import { Loader } from './loader.js'
import { type AfterLoad, findQemu, LibvirtMachine, type LibvirtSettings } from './machine.js'
import { makeOwn } from './own-files.js'
import { patiently } from './process-handle.js'
import { domainState, xmlFlags } from './protocol.js'
import { settleConfiguration, storeConfiguration, storedXml, takeBackConfiguration } from './stored-config.js'
import type { DomainLoad, LibvirtDefinition, LibvirtSpec } from './types.js'

const loadFailed = (name: string, reason: string, cause?: unknown) =>
  new SnapswitchError(
    'RESTORE_FAILED',
    `${name} could not be loaded: ${reason}`,
    'Use the same QEMU and libvirt versions on both hosts, and directories that QEMU’s user may enter; the domain’s log ' +
      'in /var/log/libvirt/qemu/ says more.',
    cause,
  )

/** How long ending a domain may take that is not to run; a restart of libvirtd fits in. */
const recoveryMs = 20_000

export async function loadDomain(
  request: LoadRequest<LibvirtDefinition>,
  settings: LibvirtSettings,
  deadline: Deadline,
): Promise<LoadedMachine<LibvirtSpec>> {
  const loader = new Loader(settings)
  try {
    return await load(loader, request, settings, deadline)
  } finally {
    loader.close()
  }
}

async function load(
  loader: Loader,
  request: LoadRequest<LibvirtDefinition>,
  settings: LibvirtSettings,
  deadline: Deadline,
): Promise<LoadedMachine<LibvirtSpec>> {
  const { definition } = request
  const { domain, name } = definition
  const before = await loader.find(domain, deadline)
  if (before?.active === true) {
    throw new SnapswitchError(
      'MACHINE_RUNNING',
      `libvirt’s domain ${domain} runs here already`,
      `End it first: \`virsh destroy ${domain}\`.`,
    )
  }
  const [obstacle] = await examineDomain(loader, definition, deadline)
  if (obstacle !== undefined) throw SnapswitchError.fromReport(obstacle)
  const made: string[] = []
  let restored = false
  try {
    const disks = (await makeFreshDisks(request, made, deadline)).map(
      ({ name: target, overlay, backing }): PlacedDisk => ({
        target,
        layers: [{ file: overlay, format: 'qcow2' }, ...backing],
      }),
    )
    const image = { file: request.memoryFile, flags: xmlFlags.secure }
    const saved = asOwned((await loader.call('imageXml', image, deadline)) as string)
    const { directory, taps } = request
    const { files, media } = await makeOwn(request, made)
    const stored = await storedXml(loader, domain, before, deadline)
    let xml = appendToLogs(placeNics(placeMedia(placeDisks(saved, disks), media), taps))
    xml = placeFiles(xml, (file) => files.get(file.path) ?? null)
    const { varsBytes: bytes } = definition
    if (bytes !== undefined) xml = await placeVars(xml, { bytes, stored, directory }, made)
    // Set first: an answer that comes too late does not mean that nothing was done.
    restored = true
    // Ports are there before their machine is, and with them taps that libvirt makes itself as a rule.
    const own = [...tapsOfLibvirt(xml), ...(stored === null ? [] : tapsOfLibvirt(stored))]
    const there = new Set(own.filter((tap) => taps.includes(tap) && existsSync(`/sys/class/net/${tap}`)))
    const bridged = tapsByMac(definition.bridgedNics ?? [], request.bridgedTaps ?? [])
    // Of the domain that runs; what is stored keeps its limits.
    const startable = withoutIngressLimits(useTaps(xml, there), withIngressHook(taps))
    const onTaps = moveToTaps(startable, bridged)
    await loader.call('restore', { file: request.memoryFile, xml: onTaps }, deadline)
    for (const tap of [...there, ...bridged.values()]) endWithHolder(tap, findQemu(definition.uuid)?.pid ?? 0)
    if (definition.persistent)
      await storeConfiguration(loader, { directory, domain, xml, disks, taps }, stored, deadline)
    const spec = { domain, uri: settings.uri }
    const control = await LibvirtMachine.attach(name, spec, settings, deadline, afterLoad(settings, directory, domain))
    return { control, spec: { libvirt: spec } }
  } catch (error) {
    if (restored) {
      const limit = within(recoveryMs)
      await end(loader, { directory: request.directory, domain, mayRun: false }, limit).catch(() => {})
    }
    for (const file of made) await rm(file, { force: true }).catch(() => {})
    const known = asSnapswitchError(error)
    throw known.code === 'HYPERVISOR_REFUSED' ? loadFailed(name, known.message, known) : known
  }
}

/** What becomes of the stored configuration once it shows whether the domain runs. */
function afterLoad(settings: LibvirtSettings, directory: string, domain: string): AfterLoad {
  return {
    hasRun: () => settleConfiguration(directory),
    async neverRan(deadline) {
      const loader = new Loader(settings)
      try {
        await patiently(() => takeBackConfiguration(loader, { directory, domain }, deadline), deadline)
      } finally {
        loader.close()
      }
    },
  }
}

export async function examine(
  definition: LibvirtDefinition,
  settings: LibvirtSettings,
  deadline: Deadline,
): Promise<ErrorReport[]> {
  const loader = new Loader(settings)
  try {
    return await examineDomain(loader, definition, deadline)
  } finally {
    loader.close()
  }
}

export async function endLoad(load: DomainLoad, settings: LibvirtSettings, deadline: Deadline): Promise<boolean> {
  const loader = new Loader(settings)
  try {
    return await end(loader, load, deadline)
  } finally {
    loader.close()
  }
}

/**
 * Its disks tell a domain that was started by a load from one that its owner has started since. One without disks
 * counts as its owner's once it runs.
 */
function end(loader: Loader, { directory, domain, mayRun }: DomainLoad, deadline: Deadline): Promise<boolean> {
  const one = { domain }
  return patiently(async () => {
    const found = await loader.find(one.domain, deadline)
    if (found?.active === true) {
      const isPaused = found.state === domainState.paused
      const { disks } = describeDomain((await loader.call('domainXml', one, deadline)) as string)
      const inside = disks.every(({ layers }) => layers[0]?.file.startsWith(`${directory}/`))
      if (!inside || (disks.length === 0 && !isPaused)) return true
      if (mayRun && !isPaused) return false
      await loader.call('destroy', one, deadline)
    }
    await takeBackConfiguration(loader, { directory, domain: one.domain }, deadline)
    return true
  }, deadline)
}
