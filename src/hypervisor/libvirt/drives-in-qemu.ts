// A domain's drives as QEMU has them open, beside what libvirt says of them: under libvirt's names, and where the two
// differ, with the reason why that is no disk to take a snapshot of. Pure.

import type { Disk, DiskLayer, UnsupportedDrive } from '../hypervisor.js'
import type { MachineDrives } from '../shared/block-drives.js'
import type { MachineBlocks } from '../shared/qemu-blocks.js'
import type { DomainDisk } from './domain-disks.js'

export interface ComparedDrives {
  readonly disks: readonly Disk[]
  readonly unsupported: readonly UnsupportedDrive[]
  readonly warnings: readonly string[]
}

/** `aliases`: target by what QEMU's device is called. `written`: drives that others write to, by QEMU's names. */
export function compareDrives(
  disks: readonly DomainDisk[],
  aliases: ReadonlyMap<string, string>,
  blocks: Pick<MachineBlocks, 'locate'> & MachineDrives,
  written: readonly UnsupportedDrive[],
): ComparedDrives {
  const targetOf = (drive: string) => {
    const alias = [...aliases.keys()].find((one) => drive === one || drive.split('/').includes(one))
    return alias === undefined ? drive : aliases.get(alias)!
  }
  const unsupported = [...blocks.unsupported, ...written].map(({ name, reason }) => ({ name: targetOf(name), reason }))
  const found: Disk[] = []
  for (const { target, layers } of disks) {
    const inQemu = blocks.disks.find(({ name }) => targetOf(name) === target)
    found.push({ name: target, layers, bytes: inQemu?.bytes ?? 0 })
    const reason = inQemu === undefined ? 'QEMU has no such disk' : difference(layers, inQemu.layers, blocks.locate)
    if (reason !== null) unsupported.push({ name: target, reason })
  }
  const names = [...blocks.disks, ...blocks.media, ...blocks.unsupported].map(({ name }) => name)
  const plain = (text: string) => names.reduce((words, name) => words.replaceAll(name, targetOf(name)), text)
  return { disks: found, unsupported, warnings: blocks.warnings.map(plain) }
}

function difference(
  told: readonly DiskLayer[],
  real: readonly DiskLayer[],
  locate: MachineBlocks['locate'],
): string | null {
  const withData = real.find(({ dataFile }) => dataFile !== undefined)
  if (withData !== undefined)
    return `${withData.file} has an external data file (${withData.dataFile}), which libvirt cannot be told of`
  const pathOf = (file: string) => {
    const place = locate(file)
    return 'path' in place ? place.path : file
  }
  const same =
    told.length === real.length &&
    told.every(({ file, format }, at) => pathOf(file) === real[at]!.file && format === real[at]!.format)
  if (same) return null
  const chain = (layers: readonly DiskLayer[]) => layers.map(({ file }) => file).join(' on ')
  return `QEMU has other images open (${chain(real)}) than libvirt says (${chain(told)})`
}
