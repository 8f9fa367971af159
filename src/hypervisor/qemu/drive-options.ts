// How a command line's drive is given another image: a fresh overlay on a frozen chain, or the medium that was in it.
// Pure.
//
// A frozen layer is a -blockdev of its own, so that no argument grows with the depth of a chain (Linux takes none of
// over 128 KiB). A -drive stays one, and so do the devices that QEMU makes of it: it names its backing by the node. The
// layers are spelled out because their own headers may name where they lay on another host.

import type { DiskLayer, Medium } from '../hypervisor.js'
import { longhand } from '../shared/qemu-disks.js'
import { type Argument, OptionValue, optionValue } from '../shared/qemu-options.js'
import { isObject, type JsonObject } from '../shared/qmp-messages.js'

/** An image to put in a drive. */
export interface NewImage {
  readonly file: string
  readonly format: string
  readonly readOnly: boolean
  /** What it stands on, from the top down. */
  readonly backing: readonly DiskLayer[]
  /** Begins the names of the layers' nodes: at most 16 characters. */
  readonly nodes: string
}

/** `layers`: the -blockdev arguments of the frozen layers, bottom first; they must come before all others. */
export interface EditedDrive {
  readonly argument: Argument | null
  readonly layers: readonly Argument[]
}

const blockdev = (tree: JsonObject, index: number): Argument => ({
  option: 'blockdev',
  value: JSON.stringify(tree),
  index,
})

const layerName = (prefix: string, depth: number) => `${prefix}-${depth}`

function layerArguments({ backing, nodes }: NewImage, direct: boolean, index: number): Argument[] {
  return backing
    .map(({ file, format, dataFile }, i) => {
      const below = i + 1 < backing.length ? layerName(nodes, i + 1) : null
      const tree: JsonObject = {
        driver: format,
        'node-name': layerName(nodes, i),
        'read-only': true,
        discard: 'unmap',
        ...(direct && { cache: { direct: true } }),
        file: { driver: 'file', filename: file },
        ...(dataFile !== undefined && { 'data-file': { driver: 'file', filename: dataFile } }),
        // Said where there is none, too: or QEMU looks for what the header names.
        ...(format === 'qcow2' && { backing: below }),
      }
      return blockdev(tree, index)
    })
    .reverse()
}

/** Options that say how an image is used rather than which one it is; they go with the drive onto another image. */
const keptOfFormatNode = ['node-name', 'discard', 'cache', 'detect-zeroes']
const keptOfFileNode = ['aio', 'cache', 'locking', 'discard', 'aio-max-batch', 'drop-cache']
/** Options of a -drive that belong to the drive and not to what is in it. */
const ofDrive =
  /^(id|if|bus|unit|index|media|readonly|read-only|werror|rerror|serial|addr|throttling\..*|(bps|iops)(_.*)?|stats-.*)$/

const pick = (from: JsonObject, keys: readonly string[]) =>
  Object.fromEntries(keys.flatMap((key) => (from[key] === undefined ? [] : [[key, from[key]]])))

/** Puts an image in the place of the one that `argument` names; null: takes it out, and leaves the drive empty. */
export function withImage(
  argument: Argument,
  nodes: ReadonlyMap<string, Argument>,
  image: NewImage | null,
): EditedDrive {
  if (argument.option === 'blockdev') return withNode(argument, nodes, image)
  if (argument.option === 'device') return withWire(argument, image)
  const isDrive = argument.option === 'drive'
  const set = isDrive ? optionValue(argument) : new OptionValue(longhand(argument.option) ?? '', null)
  const result = (layers: Argument[]) => ({
    argument: { option: 'drive', value: set.toString(), index: argument.index },
    layers,
  })
  if (image === null) {
    for (const key of set.keys()) if (!ofDrive.test(key)) set.remove(key)
    return result([])
  }
  const direct = ['none', 'directsync'].includes(set.get('cache') ?? '') || set.get('cache.direct') === 'on'
  let at = ''
  while (set.get(`${at}driver`) === 'throttle') at += 'file.'
  const file = keptOfFileNode.flatMap((key) => {
    const value = set.get(`${at}file.${key}`)
    return value === null ? [] : [[key, value] as const]
  })
  for (const key of ['direct', 'no-flush']) {
    const value = set.get(`${at}file.cache.${key}`)
    if (value !== null) file.push([`cache.${key}`, value])
  }
  for (const key of ['file', 'backing', 'driver', 'format', 'data-file', 'offset', 'size']) set.remove(`${at}${key}`)
  if (at === '' && file.length === 0) {
    set.set('file', image.file)
    set.set('format', image.format)
  } else {
    set.set(`${at}driver`, image.format)
    set.set(`${at}file.driver`, 'file')
    set.set(`${at}file.filename`, image.file)
    for (const [key, value] of file) set.set(`${at}file.${key}`, value)
  }
  if (image.backing.length > 0) set.set(`${at}backing`, layerName(image.nodes, 0))
  // A medium may have been changed for one of the other kind.
  for (const key of ['readonly', 'read-only']) set.remove(key)
  if (image.readOnly && set.get('media') !== 'cdrom') set.set('read-only', 'on')
  return result(layerArguments(image, direct, argument.index))
}

function imageTree(image: NewImage, kept: JsonObject, keptOfFile: JsonObject): JsonObject {
  return {
    driver: image.format,
    ...kept,
    'read-only': image.readOnly,
    file: { driver: 'file', filename: image.file, ...keptOfFile },
    ...(image.format === 'qcow2' && { backing: image.backing.length > 0 ? layerName(image.nodes, 0) : null }),
  }
}

function withNode(argument: Argument, nodes: ReadonlyMap<string, Argument>, image: NewImage | null): EditedDrive {
  if (image === null) return { argument: null, layers: [] }
  let direct = false
  const replace = (old: JsonObject): JsonObject => {
    if (old.driver === 'throttle' && isObject(old.file)) return { ...typed(old), file: replace(old.file) }
    const file = typeof old.file === 'string' ? nodes.get(old.file) : undefined
    const isFormat = isObject(old.file) || typeof old.file === 'string'
    const oldFile =
      file !== undefined ? optionValue(file).toTree() : isObject(old.file) ? old.file : isFormat ? {} : old
    const kept = typed(pick(old, keptOfFormatNode))
    direct = isObject(kept.cache) && kept.cache.direct === true
    return imageTree(image, kept, typed(pick(oldFile, keptOfFileNode)))
  }
  const tree = replace(optionValue(argument).toTree())
  return { argument: blockdev(tree, argument.index), layers: layerArguments(image, direct, argument.index) }
}

/** A device that was given no drive on the command line gets a node of its own. */
function withWire(device: Argument, image: NewImage | null): EditedDrive {
  const value = optionValue(device)
  if (image === null) value.remove('drive')
  else value.set('drive', image.nodes)
  const argument = { ...device, value: value.toString() }
  if (image === null) return { argument, layers: [] }
  const node = blockdev(imageTree(image, { 'node-name': image.nodes }, {}), device.index)
  return { argument, layers: [...layerArguments(image, false, device.index), node] }
}

/**
 * The drive of a medium that no argument names: QEMU makes a CD-ROM, a floppy and an SD drive by itself (-nodefaults
 * aside). null: it is none of those.
 */
export function defaultDrive({ name }: Medium): Argument | null {
  const floppy = /^floppy(\d)$/.exec(name)?.[1]
  const value = /^(ide|scsi)\d+-cd\d+$/.test(name)
    ? 'index=2,media=cdrom'
    : floppy !== undefined
      ? `if=floppy,index=${floppy}`
      : name === 'sd0'
        ? 'if=sd,index=0'
        : null
  return value === null ? null : { option: 'drive', value, index: -1 }
}

/**
 * Block options that are no text in JSON (qapi/block-core.json). `locking` and `detect-zeroes` are: they know more than
 * on and off.
 */
const flags = new Set(['read-only', 'auto-read-only', 'force-share', 'direct', 'no-flush', 'drop-cache'])
const numbers = new Set(['aio-max-batch'])
const truths: ReadonlyMap<unknown, boolean> = new Map([
  ...['on', 'yes', 'true', 'y'].map((word) => [word, true] as const),
  ...['off', 'no', 'false', 'n'].map((word) => [word, false] as const),
])

/** Text values of the key=value notation as the types that JSON wants. */
function typed(tree: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(tree).map(([key, value]) => {
      if (isObject(value)) return [key, typed(value)]
      if (flags.has(key)) return [key, truths.get(value) ?? value]
      return [key, numbers.has(key) ? Number(value) : value]
    }),
  )
}
