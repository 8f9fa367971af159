// The drives of a running QEMU as they are now: its monitor's answers, put beside what the kernel says its process, and
// all others, have open.

import path from 'node:path'
import type { Deadline, DiskLayer, UnsupportedDrive } from '../hypervisor.js'
import { type Locate, type MachineDrives, readDrives } from './block-drives.js'
import { askBlockGraph, type BlockGraph, type Monitor } from './block-graph.js'
import { locator, openFilesOf, type Writer, writersOf } from './open-files.js'
import { directoryOf, type ProcessIdentity } from './process.js'
import { unsupportedDrive } from './qemu-checks.js'

export interface MachineBlocks extends MachineDrives {
  readonly graph: BlockGraph
  readonly locate: Locate
}

/** `process`: the QEMU; null when it cannot be seen. */
export async function askBlocks(
  monitor: Monitor,
  process: ProcessIdentity | null,
  deadline: Deadline,
): Promise<MachineBlocks> {
  const graph = await askBlockGraph(monitor, deadline)
  const locate = locator(process === null ? null : openFilesOf(process.pid), startDirectory(process))
  return { graph, locate, ...readDrives(graph, locate) }
}

function startDirectory(process: ProcessIdentity | null): string {
  try {
    return process === null ? '/' : directoryOf(process.pid)
  } catch {
    return '/'
  }
}

const filesOf = (layers: readonly DiskLayer[]) =>
  layers.flatMap(({ file, dataFile }) => (dataFile === undefined ? [file] : [file, dataFile]))

/** Drives of which somebody else has an image, or a layer of it, open for writing. Sharing to read is no harm. */
export async function drivesOthersWrite(
  { disks, media, locate }: MachineBlocks,
  process: ProcessIdentity | null,
): Promise<UnsupportedDrive[]> {
  const drives = [
    ...disks.map(({ name, layers }) => ({ name, files: filesOf(layers) })),
    ...media.map(({ name, file, backing = [] }) => ({
      name,
      files: [...(file === null ? [] : [file]), ...filesOf(backing)],
    })),
  ]
  const files = drives.flatMap(({ files }) => files)
  const written = (writers: readonly Writer[]) =>
    drives.flatMap(({ name, files }) => {
      for (const file of files) {
        const found = locate(file)
        const writer = writers.find(({ key, pid }) => 'path' in found && found.key === key && pid !== process?.pid)
        if (writer !== undefined) return [{ name, reason: `${file} is open for writing by ${writer.who}, too` }]
      }
      return []
    })
  const found = written(await writersOf(files))
  // A writer that was seen lately may have ended since: the machine's own last process, when it was started again.
  return found.length === 0 ? found : written(await writersOf(files, { anew: true }))
}

/** Throws MACHINE_UNSUPPORTED when there is a drive that cannot be snapshot. */
export async function supportedBlocks(
  machine: string,
  monitor: Monitor,
  process: ProcessIdentity | null,
  deadline: Deadline,
): Promise<MachineBlocks> {
  const blocks = await askBlocks(monitor, process, deadline)
  const [first] = [...blocks.unsupported, ...(await drivesOthersWrite(blocks, process))]
  if (first !== undefined) throw unsupportedDrive(machine, first)
  return blocks
}

/** Where QEMU was started: where its relative names start from. Where it is now may be / (-daemonize). */
export function startedIn({ graph, locate }: MachineBlocks, now: string): string {
  for (const { driver, filename } of graph.nodes.values()) {
    if (driver !== 'file' || path.isAbsolute(filename)) continue
    const found = locate(filename)
    const end = path.normalize(`/${filename}`)
    if ('path' in found && found.path.endsWith(end) && path.resolve(now, filename) !== found.path)
      return found.path.slice(0, -end.length) || '/'
  }
  return now
}
