// A QEMU's disks: what `query-block` says of them, and where its command line names them. Pure.

import path from 'node:path'
import type { Disk, DiskLayer } from './hypervisor.js'
import { type Argument, OptionValue, optionValue, splitArguments } from './qemu-options.js'
import { isObject, type JsonObject } from './qmp-messages.js'

export interface LiveDisk extends Disk {
  /** The block node that the machine writes to now; it changes with every overlay. */
  readonly node: string
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean }
  readonly detectZeroes: string
}

export interface BlockDevices {
  readonly disks: readonly LiveDisk[]
  /** Writable drives that cannot be snapshot, each with the reason. */
  readonly unsupported: readonly { readonly name: string; readonly reason: string }[]
}

/** The local file that a `filename` of query-block, or `file` of a block node, means, or null. */
export function localFile(filename: unknown, directory: string): string | null {
  if (typeof filename !== 'string') return null
  if (filename.startsWith('json:')) {
    let tree: unknown
    try {
      tree = JSON.parse(filename.slice(5))
    } catch {
      return null
    }
    const file = isObject(tree) && isObject(tree.file) ? tree.file : tree
    return isObject(file) && file.driver === 'file' ? localFile(file.filename, directory) : null
  }
  if (filename.startsWith('file:')) return path.resolve(directory, filename.slice(5))
  if (/^[a-z0-9+.-]+:/.test(filename)) return null
  return path.resolve(directory, filename)
}

/** The chain that an `image` of query-block describes, or why it is none of files in known formats. */
function readChain(image: unknown, directory: string): DiskLayer[] | string {
  const layers: DiskLayer[] = []
  for (let at: unknown = image; at !== undefined; ) {
    if (!isObject(at)) return 'QEMU does not describe its image'
    const file = localFile(at.filename, directory)
    if (file === null) return `its image ${String(at.filename)} is no local file`
    if (file.startsWith('/dev/')) return `its image ${file} is a block device`
    // A file node used without a format node above it means raw.
    const format = at.format === 'file' ? 'raw' : at.format
    if (format !== 'qcow2' && format !== 'raw') return `${file} has the format ${String(format)}`
    if (at.encrypted === true) return `${file} is encrypted`
    layers.push({ file, format })
    at = at['backing-image']
  }
  return layers
}

/**
 * Reads the answer of `query-block`. Empty and read-only drives (CD-ROMs, firmware) are left out: a machine cannot change
 * them. `directory` is QEMU's working directory, which relative names start from.
 */
export function readBlockDevices(answer: unknown, directory: string): BlockDevices {
  const disks: LiveDisk[] = []
  const unsupported: { name: string; reason: string }[] = []
  for (const device of Array.isArray(answer) ? (answer as unknown[]) : []) {
    if (!isObject(device) || !isObject(device.inserted)) continue
    const inserted: JsonObject = device.inserted
    if (inserted.ro === true) continue
    const name = [device.device, device.qdev, inserted['node-name']].find(
      (word) => typeof word === 'string' && word !== '',
    )
    const chain = readChain(inserted.image, directory)
    if (typeof name !== 'string') continue
    if (typeof chain === 'string') {
      unsupported.push({ name, reason: chain })
      continue
    }
    const cache = isObject(inserted.cache) ? inserted.cache : {}
    const image = inserted.image as JsonObject
    disks.push({
      name,
      layers: chain,
      bytes: typeof image['virtual-size'] === 'number' ? image['virtual-size'] : 0,
      node: String(inserted['node-name']),
      cache: { direct: cache.direct === true, noFlush: cache['no-flush'] === true },
      detectZeroes: typeof inserted.detect_zeroes === 'string' ? inserted.detect_zeroes : 'off',
    })
  }
  return { disks, unsupported }
}

/** Names of all drives, by the answer of `query-block`. */
export function driveNames(answer: unknown): Set<string> {
  return new Set((Array.isArray(answer) ? answer.filter(isObject) : []).map(({ device }) => String(device)))
}

/** The block node that has an image open, by the answer of `query-named-block-nodes`; null when there is none, or several. */
export function findNode(answer: unknown, layer: DiskLayer, directory: string): string | null {
  const nodes = (Array.isArray(answer) ? (answer as unknown[]) : []).filter(
    (node): node is JsonObject => isObject(node) && localFile(node.file, directory) === layer.file,
  )
  const formatNodes = nodes.filter(({ drv }) => drv === layer.format)
  const found = formatNodes.length === 0 && layer.format === 'raw' ? nodes : formatNodes
  return found.length === 1 ? String(found[0]!['node-name']) : null
}

/** Which argument (by its value's index in argv) brings a disk into the machine. */
export interface DriveArgument {
  readonly name: string
  readonly argument: number
}

const shortDrives = ['hda', 'hdb', 'hdc', 'hdd']

/** The image file that an argument names itself, or null. */
function fileOf(argument: Argument, directory: string): string | null {
  const { option, value } = argument
  if (value === null) return null
  if (option === '' || shortDrives.includes(option)) return localFile(value, directory)
  if (option !== 'drive' && option !== 'blockdev') return null
  const set = optionValue(argument)
  const name =
    option === 'drive'
      ? (set.get('file') ?? set.get('file.filename'))
      : (set.get('file.filename') ?? set.get('filename'))
  return name === null ? null : localFile(name, directory)
}

/**
 * Finds each disk's argument: by the drive's id, else by its image file, which is one of the chain's layers (what was the
 * active layer when the machine started). Returns the disks it cannot find as `missing`: they were plugged in later.
 */
export function findDriveArguments(
  argv: readonly string[],
  disks: readonly Disk[],
  directory: string,
): { drives: DriveArgument[]; missing: string[] } {
  const split = splitArguments(argv)
  const drives: DriveArgument[] = []
  const missing: string[] = []
  const nodes = new Map<string, Argument>()
  for (const argument of split) {
    const node = argument.option === 'blockdev' ? optionValue(argument).get('node-name') : null
    if (node !== null) nodes.set(node, argument)
  }
  for (const disk of disks) {
    const files = new Set(disk.layers.map(({ file }) => file))
    const byId = split.find((argument) => argument.option === 'drive' && optionValue(argument).get('id') === disk.name)
    const byFile = split.find((argument) => {
      const file = fileOf(argument, directory)
      return file !== null && files.has(file)
    })
    let found = byId ?? byFile
    if (found?.option === 'blockdev') {
      // A file node stands below its format node: the format node is what the device uses.
      const node = optionValue(found).get('node-name')
      const above = split.find(
        (argument) => argument.option === 'blockdev' && node !== null && isFormatOver(optionValue(argument), node),
      )
      found = above ?? found
    }
    if (found === undefined) missing.push(disk.name)
    else drives.push({ name: disk.name, argument: found.index })
  }
  return { drives, missing }
}

function isFormatOver(value: OptionValue, node: string): boolean {
  return value.get('file') === node && ['qcow2', 'raw'].includes(value.get('driver') ?? '')
}

/** Image options of a chain below its first layer, as -blockdev nests them. */
export function backingTree(layers: readonly DiskLayer[]): JsonObject | null {
  return layers.reduceRight<JsonObject | null>(
    (below, { file, format }) => ({
      driver: format,
      file: { driver: 'file', filename: file },
      ...(below === null || format === 'raw' ? {} : { backing: below }),
    }),
    null,
  )
}

function flatten(tree: JsonObject, prefix: string, into: [string, string][]): [string, string][] {
  for (const [key, value] of Object.entries(tree)) {
    if (isObject(value)) flatten(value, `${prefix}${key}.`, into)
    else into.push([`${prefix}${key}`, String(value)])
  }
  return into
}

/** Options that say how an image is used rather than which one it is; they go with the drive onto another image. */
const keptOfFormatNode = ['node-name', 'discard', 'cache', 'detect-zeroes', 'read-only', 'auto-read-only']
const keptOfFileNode = ['aio', 'cache', 'locking', 'discard', 'aio-max-batch']

/**
 * Puts an overlay in the place of the image that `argument` names. `backing` is the frozen chain as it lies here: it is
 * spelled out, because the layers' own headers may name where they lay on another host.
 */
export function withOverlay(
  argument: Argument,
  nodes: ReadonlyMap<string, Argument>,
  overlay: string,
  backing: readonly DiskLayer[],
): Argument {
  const below = backingTree(backing)
  if (argument.option === 'blockdev') {
    const old = optionValue(argument).toTree()
    const file = typeof old.file === 'string' ? nodes.get(old.file) : undefined
    const isFormat = old.driver === 'qcow2' || old.driver === 'raw'
    const oldFile =
      file !== undefined ? optionValue(file).toTree() : isObject(old.file) ? old.file : isFormat ? {} : old
    const kept = (from: JsonObject, keys: readonly string[]) =>
      Object.fromEntries(keys.flatMap((key) => (from[key] === undefined ? [] : [[key, from[key]]])))
    const tree = {
      driver: 'qcow2',
      ...typed(kept(old, keptOfFormatNode)),
      file: { driver: 'file', filename: overlay, ...typed(kept(oldFile, keptOfFileNode)) },
      backing: below,
    }
    return { ...argument, value: JSON.stringify(tree) }
  }
  const set =
    argument.option === 'drive'
      ? optionValue(argument)
      : new OptionValue(`index=${Math.max(0, shortDrives.indexOf(argument.option))},media=disk`, null)
  for (const key of ['file', 'backing', 'driver', 'format']) set.remove(key)
  set.set('file', overlay)
  set.set('format', 'qcow2')
  if (below !== null) for (const [key, value] of flatten(below, 'backing.', [])) set.set(key, value)
  return { option: 'drive', value: set.toString(), index: argument.index }
}

/** Text values of the key=value notation as the types that JSON wants. */
function typed(tree: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(tree).map(([key, value]) => [
      key,
      isObject(value)
        ? typed(value)
        : key === 'detect-zeroes'
          ? value
          : value === 'on'
            ? true
            : value === 'off'
              ? false
              : value,
    ]),
  )
}
