// What a machine's drives are to a snapshot, by its block graph: disks with their chains, media, and drives that cannot
// be snapshot, each with the reason. Pure: where a file lies on the host is for `Locate` to say.

import type { Disk, DiskLayer, Medium, UnsupportedDrive } from '../hypervisor.js'
import {
  type BlockDrive,
  type BlockGraph,
  type BlockNode,
  bitmapObstacle,
  childOf,
  filtered,
  imageNode,
  internalSnapshotsWarning,
  jobFilters,
  ownFilters,
  ownJobs,
} from './block-graph.js'
import { checkCount } from './qmp-messages.js'

export interface LiveDisk extends Disk {
  /** The block node that the machine writes to now; it changes with every overlay. */
  readonly node: string
  /** What its device is wired to: a filter above `node`, or that itself. */
  readonly root: string
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean }
  readonly detectZeroes: string
}

/**
 * The path of a file on this host by the name that QEMU has for it, or why there is none. `key` is the file's own,
 * whatever it is called; left out when it cannot be told.
 */
export type Locate = (
  filename: string,
) => { readonly path: string; readonly key?: string } | { readonly reason: string }

export interface MachineDrives {
  /** All with a known chain, also those that something else speaks against: they are in `unsupported`, too. */
  readonly disks: readonly LiveDisk[]
  readonly media: readonly Medium[]
  readonly unsupported: readonly UnsupportedDrive[]
  /** Every file in the graph, at any depth, those included that no drive uses. */
  readonly files: readonly string[]
  readonly warnings: readonly string[]
}

/** Block drivers without data of their own: each changes what is read or written, or when. */
const filters = new Set([
  'copy-on-read',
  'compress',
  'preallocate',
  'snapshot-access',
  'quorum',
  'replication',
  'throttle',
])

/** A name for people, of bounded length. */
const short = (filename: string) =>
  filename.startsWith('json:') ? 'an image' : filename.length > 200 ? `${filename.slice(0, 200)}…` : filename

/** Where a protocol node's data are, when they are in a file of this host. */
function fileOf(node: BlockNode, locate: Locate): { path: string } | { reason: string } {
  if (node.driver === 'file') return locate(node.filename)
  if (node.driver === 'host_device' || node.driver === 'host_cdrom')
    return { reason: `${short(node.filename)} is a device of the host` }
  return { reason: `its data are not in a local file, but behind QEMU’s driver ${node.driver}` }
}

function layerOf(graph: BlockGraph, node: BlockNode, locate: Locate): DiskLayer | { reason: string } {
  const { driver } = node
  if (driver === 'file') {
    const found = locate(node.filename)
    return 'reason' in found ? found : { file: found.path, format: 'raw' }
  }
  if (jobFilters.has(driver)) return { reason: 'a block job works on it' }
  if (filters.has(driver)) return { reason: `it has a filter of the kind ${driver}` }
  if (driver !== 'qcow2' && driver !== 'raw') {
    if (!node.children.has('file')) return fileOf(node, locate) as { reason: string }
    return { reason: `${short(node.filename)} has the format ${driver}` }
  }
  const below = childOf(graph, node, 'file')
  if (below === null) return { reason: 'QEMU does not tell what its image stands on' }
  const found = fileOf(below, locate)
  if ('reason' in found) return found
  const file = found.path
  if (node.encrypted) return { reason: `${file} is encrypted` }
  // A raw node is named as its file, unless it shows only a part of it.
  if (driver === 'raw' && node.filename !== below.filename)
    return { reason: `it is a part of ${file} (offset or size)` }
  if (!node.children.has('data-file')) return { file, format: driver }
  let data = childOf(graph, node, 'data-file')
  if (data?.driver === 'raw') data = childOf(graph, data, 'file')
  const dataFile = data === null ? { reason: 'QEMU does not tell its data file' } : fileOf(data, locate)
  if ('reason' in dataFile) return { reason: `the data file of ${file}: ${dataFile.reason}` }
  return { file, format: driver, dataFile: dataFile.path }
}

/** The chain from an image node down, or why it is none of files in known formats. */
export function readChain(graph: BlockGraph, top: BlockNode, locate: Locate): DiskLayer[] | { reason: string } {
  const layers: DiskLayer[] = []
  for (let at: BlockNode | null = top; at !== null; at = childOf(graph, at, 'backing')) {
    const layer = layerOf(graph, at, locate)
    if ('reason' in layer) return layer
    layers.push(layer)
    if (layers.length > graph.nodes.size) return { reason: 'its chain of images has no end' }
  }
  return layers
}

/** Why a disk cannot be snapshot although its chain is known; null when it can. */
function obstacle(graph: BlockGraph, drive: BlockDrive, top: BlockNode, sharing: readonly string[]): string | null {
  const bitmaps = bitmapObstacle(top)
  if (bitmaps !== null) return bitmaps
  if (sharing.length > 1) return `the drives ${some(sharing).join(' and ')} have one image`
  const path: BlockNode[] = []
  for (let at = drive.root === null ? undefined : graph.nodes.get(drive.root); at !== undefined; ) {
    path.push(at)
    if (at === top) break
    at = filtered(graph, at) ?? undefined
  }
  path.unshift(...ownFilters(graph, path[0] ?? top))
  const jobs = path.flatMap(({ parents }) => parents.filter(({ kind }) => kind === 'job'))
  // Our own merges are called off before a snapshot begins.
  const foreign = jobs.find((job) => !job.name.startsWith(ownJobs))
  if (foreign !== undefined) return `the block job ${foreign.name} works on it`
  if (jobs.length === 0 && path.some(({ driver }) => driver === 'copy-on-read'))
    return 'it has a filter of the kind copy-on-read'
  if (jobs.length === 0 && path.some(({ driver }) => jobFilters.has(driver))) return 'a block job works on it'
  const own = new Set([drive.name, drive.qdev, ...path.map(({ name }) => name)])
  for (const { parents } of path) {
    const writer = parents.find(({ name, kind, writes }) => writes && kind !== 'job' && !own.has(name))
    if (writer !== undefined) return `something besides its device writes to it (${writer.name || 'an export'})`
  }
  return null
}

/** Some are enough to tell by: every one of many drives may say it. */
const some = (names: readonly string[]) => (names.length > 3 ? [...names.slice(0, 3), '…'] : names)

/** The names of the drives on each image. */
function drivesByImage(graph: BlockGraph): Map<BlockNode, string[]> {
  const names = new Map<BlockNode, string[]>()
  for (const { name, root } of graph.drives) {
    const node = root === null ? undefined : graph.nodes.get(root)
    if (node === undefined) continue
    const image = imageNode(graph, node)
    const all = names.get(image) ?? []
    all.push(name)
    names.set(image, all)
  }
  return names
}

type Users = ReadonlyMap<string, { readonly nodes: number; readonly written: boolean }>

/** How many nodes have each file open, and whether one writes. */
function usersOfFiles(graph: BlockGraph, locate: Locate): Users {
  const users = new Map<string, { nodes: number; written: boolean }>()
  for (const node of graph.nodes.values()) {
    const found = node.driver === 'file' ? locate(node.filename) : null
    if (found === null || 'reason' in found) continue
    const key = found.key ?? found.path
    const before = users.get(key) ?? { nodes: 0, written: false }
    users.set(key, { nodes: before.nodes + 1, written: before.written || !node.readOnly })
  }
  return users
}

/** A file that the machine has open more than once, not only to read; null when there is none. */
function writtenTwice(users: Users, layers: readonly DiskLayer[], locate: Locate): string | null {
  const twice = layers
    .flatMap(({ file, dataFile }) => (dataFile === undefined ? [file] : [file, dataFile]))
    .find((file) => {
      const found = locate(file)
      const use = 'path' in found ? users.get(found.key ?? found.path) : undefined
      return use?.written === true && use.nodes > 1
    })
  return twice === undefined ? null : `the machine has ${twice} open twice, and writes to it`
}

/** Of all drives together. */
const MOST_LAYERS = 16_000

/** Throws HYPERVISOR_PROTOCOL. */
export function readDrives(graph: BlockGraph, locate: Locate): MachineDrives {
  const disks: LiveDisk[] = []
  const media: Medium[] = []
  const unsupported: UnsupportedDrive[] = []
  const warnings: string[] = []
  const sharing = drivesByImage(graph)
  const users = usersOfFiles(graph, locate)
  let layers = 0
  for (const drive of graph.drives) {
    const { name, removable } = drive
    const root = drive.root === null ? undefined : graph.nodes.get(drive.root)
    if (root === undefined) {
      if (drive.root !== null) unsupported.push({ name, reason: 'QEMU does not describe its image' })
      else if (removable) media.push({ name, file: null, format: 'raw', removable })
      continue
    }
    const top = imageNode(graph, root)
    const chain = readChain(graph, top, locate)
    if ('reason' in chain) {
      if (drive.readOnly) warnings.push(`drive ${name} is read-only and no snapshot can name it: ${chain.reason}`)
      else unsupported.push({ name, reason: chain.reason })
      continue
    }
    layers += chain.length
    checkCount('layers of disks', layers, MOST_LAYERS)
    const [first, ...backing] = chain
    if (drive.readOnly && chain.some(({ dataFile }) => dataFile !== undefined)) {
      warnings.push(`drive ${name} is read-only and no snapshot can name it: it has an external data file`)
      continue
    }
    if (drive.readOnly) {
      media.push({ name, file: first!.file, format: first!.format, removable, ...(backing.length > 0 && { backing }) })
      continue
    }
    const { bytes, cache, detectZeroes } = top
    disks.push({ name, layers: chain, bytes, node: top.name, root: root.name, cache, detectZeroes })
    const reason = obstacle(graph, drive, top, sharing.get(top) ?? []) ?? writtenTwice(users, chain, locate)
    if (reason !== null) unsupported.push({ name, reason })
    const warning = internalSnapshotsWarning(name, top)
    if (warning !== null) warnings.push(warning)
  }
  return { disks, media, unsupported, files: filesOf(graph, locate), warnings }
}

/** Every file of the graph. One that is not here, or is another here, by QEMU's name for it: in doubt it is needed. */
function filesOf(graph: BlockGraph, locate: Locate): string[] {
  const files = new Set<string>()
  for (const node of graph.nodes.values()) {
    if (node.children.size > 0 || node.filename === '' || node.filename.startsWith('json:')) continue
    const found = locate(node.filename)
    files.add('path' in found ? found.path : node.filename)
  }
  return [...files]
}

/** The image node of the graph that has a file open as a given layer; null when there is none, or several. */
export function findImageNode(graph: BlockGraph, layer: DiskLayer, locate: Locate): string | null {
  const found: string[] = []
  for (const node of graph.nodes.values()) {
    const isImage = node.driver === layer.format || (layer.format === 'raw' && node.driver === 'file')
    if (!isImage) continue
    const file = node.driver === 'file' ? node : childOf(graph, node, 'file')
    if (file?.driver !== 'file') continue
    const at = locate(file.filename)
    if ('path' in at && at.path === layer.file) found.push(node.name)
  }
  // A raw file's own node counts only where no format node stands on it.
  const images = found.filter((name) => !graph.nodes.get(name)!.parents.some(({ kind }) => kind === 'node'))
  const formats = found.filter((name) => graph.nodes.get(name)!.driver === layer.format)
  const chosen = formats.length > 0 ? formats : images
  return chosen.length === 1 ? chosen[0]! : null
}
