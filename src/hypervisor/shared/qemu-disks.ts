// Where a QEMU's command line names its disks and media. Pure.

import path from 'node:path'
import type { DiskLayer } from '../hypervisor.js'
import { type Argument, optionValue, splitArguments } from './qemu-options.js'
import { isObject, type JsonObject } from './qmp-messages.js'

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

/**
 * The block node that has an image open, by the answer of `query-named-block-nodes`; null when there is none, or
 * several.
 */
export function findNode(answer: unknown, layer: DiskLayer, directory: string): string | null {
  const nodes = (Array.isArray(answer) ? (answer as unknown[]) : []).filter(
    (node): node is JsonObject => isObject(node) && localFile(node.file, directory) === layer.file,
  )
  const formatNodes = nodes.filter(({ drv }) => drv === layer.format)
  const found = formatNodes.length === 0 && layer.format === 'raw' ? nodes : formatNodes
  return found.length === 1 ? String(found[0]!['node-name']) : null
}

/** Which argument (by its value's index in argv) brings a disk into the machine, or is the drive of a medium. */
export interface DriveArgument {
  readonly name: string
  readonly argument: number
}

/** A drive of the running machine, as its command line is searched for it. */
export interface SoughtDrive {
  readonly name: string
  /** Its device by id or QOM path. */
  readonly qdev: string | null
  /** Files of its images, whatever is on top of them now. */
  readonly files: readonly string[]
}

/** Options that are short for a -drive: its interface, index and media. */
const shorthands: Readonly<Record<string, { type?: string; index?: number; media?: string }>> = {
  '': { index: 0, media: 'disk' },
  hda: { index: 0, media: 'disk' },
  hdb: { index: 1, media: 'disk' },
  hdc: { index: 2, media: 'disk' },
  hdd: { index: 3, media: 'disk' },
  cdrom: { index: 2, media: 'cdrom' },
  fda: { type: 'floppy', index: 0 },
  fdb: { type: 'floppy', index: 1 },
  pflash: { type: 'pflash' },
  mtdblock: { type: 'mtd' },
  sd: { type: 'sd' },
}

/** The options of the -drive that another option is short for, without its file; null when it is none. */
export function longhand(option: string): string | null {
  const short = shorthands[option]
  if (short === undefined) return null
  const { type, index, media } = short
  const words = [type && `if=${type}`, index !== undefined && `index=${index}`, media && `media=${media}`]
  return words.filter(Boolean).join(',')
}

interface Slot {
  readonly argument: Argument
  readonly id: string | null
  /** null: the machine's usual. */
  readonly type: string | null
  readonly bus: number
  readonly unit: number
  readonly index: number
  readonly isCdrom: boolean
}

function slotOf(argument: Argument): Slot | null {
  const none = { argument, id: null, bus: 0, unit: -1 }
  const short = shorthands[argument.option]
  if (short !== undefined) {
    return { ...none, type: short.type ?? null, index: short.index ?? -1, isCdrom: short.media === 'cdrom' }
  }
  if (argument.option !== 'drive') return null
  const value = optionValue(argument)
  const number = (key: string, otherwise: number) => Number(value.get(key) ?? otherwise)
  return {
    argument,
    id: value.get('id'),
    type: value.get('if'),
    bus: number('bus', 0),
    unit: number('unit', -1),
    index: number('index', -1),
    isCdrom: value.get('media') === 'cdrom',
  }
}

/**
 * The names that QEMU gives to -drives without an id (blockdev.c, drive_new): by interface, bus and unit. Which
 * interface is a machine's usual one, and how many drives its buses take, shows in the names that it has.
 */
function automaticNames(split: readonly Argument[], known: ReadonlySet<string>): Map<string, Argument> {
  const slots = split.flatMap((argument) => slotOf(argument) ?? [])
  for (const usual of ['ide', 'virtio', 'scsi', 'sd']) {
    for (const ideDrives of [2, 1]) {
      const names = nameSlots(slots, usual, { ide: ideDrives, scsi: 7 })
      if ([...names.keys()].every((name) => known.has(name))) return names
    }
  }
  return new Map(slots.flatMap(({ id, argument }) => (id === null ? [] : [[id, argument] as const])))
}

function nameSlots(slots: readonly Slot[], usual: string, places: Readonly<Record<string, number>>) {
  const taken = new Set<string>()
  const names = new Map<string, Argument>()
  for (const slot of slots) {
    const type = slot.type ?? usual
    const most = places[type] ?? 0
    let bus = slot.index < 0 ? slot.bus : most > 0 ? Math.floor(slot.index / most) : 0
    let unit = slot.index < 0 ? slot.unit : most > 0 ? slot.index % most : slot.index
    if (unit < 0) {
      for (unit = 0; taken.has(`${type} ${bus} ${unit}`); ) {
        unit++
        if (most > 0 && unit >= most) {
          unit -= most
          bus++
        }
      }
    }
    taken.add(`${type} ${bus} ${unit}`)
    const kind = type !== 'ide' && type !== 'scsi' ? '' : slot.isCdrom ? '-cd' : '-hd'
    names.set(slot.id ?? `${type}${most > 0 ? bus : ''}${kind}${unit}`, slot.argument)
  }
  return names
}

/** The image file that an argument names itself, or null. */
function fileOf(argument: Argument): string | null {
  const { option, value } = argument
  if (value === null) return null
  if (option in shorthands) return value
  if (option !== 'drive' && option !== 'blockdev') return null
  const set = optionValue(argument)
  return option === 'drive'
    ? (set.get('file') ?? set.get('file.filename'))
    : (set.get('file.filename') ?? set.get('filename'))
}

function isFormatOver(argument: Argument, node: string): boolean {
  const value = optionValue(argument)
  return value.get('file') === node && ['qcow2', 'raw'].includes(value.get('driver') ?? '')
}

/** -blockdev arguments by the node that each makes. */
export function nodeArguments(split: readonly Argument[]): Map<string, Argument> {
  const nodes = new Map<string, Argument>()
  for (const argument of split) {
    const node = argument.option === 'blockdev' ? optionValue(argument).get('node-name') : null
    if (node !== null) nodes.set(node, argument)
  }
  return nodes
}

/** The nodes that an argument stands on by name, in these roles. */
export function references(argument: Argument, roles: readonly string[] = ['file', 'backing', 'data-file']): string[] {
  if (argument.option !== 'blockdev' && argument.option !== 'drive') return []
  const names: string[] = []
  const walk = (tree: unknown, top: boolean) => {
    if (typeof tree !== 'object' || tree === null) return
    for (const [key, value] of Object.entries(tree)) {
      // A -drive's own `file` is a file name.
      const isNode = roles.includes(key) && !(key === 'file' && top && argument.option === 'drive')
      if (isNode && typeof value === 'string') names.push(value)
      else walk(value, false)
    }
  }
  walk(optionValue(argument).toTree(), true)
  return names
}

const deviceId = (qdev: string) => /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1] ?? qdev
const anonymous = (qdev: string | null) =>
  Number(/^\/machine\/peripheral-anon\/device\[(\d+)\]/.exec(qdev ?? '')?.[1] ?? -1)

/** The argument behind a device's id: the node that it is wired to, or itself when it has no drive. */
function byDevice(
  split: readonly Argument[],
  nodes: ReadonlyMap<string, Argument>,
  qdev: string,
): Argument | undefined {
  const flash = /^\/machine\/system\.flash([01])$/.exec(qdev)?.[1]
  if (flash !== undefined) {
    const machines = split.filter(({ option }) => option === 'machine' || option === 'M')
    return machines.map((argument) => nodes.get(optionValue(argument).get(`pflash${flash}`) ?? '')).find(Boolean)
  }
  const id = deviceId(qdev)
  const device = split.find((argument) => argument.option === 'device' && optionValue(argument).get('id') === id)
  if (device === undefined) return undefined
  const drive = optionValue(device).get('drive')
  return drive === null ? device : nodes.get(drive)
}

/**
 * Finds each drive's argument: by its name, by its device, else by an image file, which is one of the chain's layers
 * (what was the active layer when the machine started). Returns those it cannot find as `missing`: they were plugged in
 * later, or QEMU made them by itself. `pathOf`: the file of a name on the command line.
 */
export function findDriveArguments(
  argv: readonly string[],
  sought: readonly SoughtDrive[],
  pathOf: (filename: string) => string | null,
): { drives: DriveArgument[]; missing: string[] } {
  const split = splitArguments(argv)
  const nodes = nodeArguments(split)
  const names = automaticNames(split, new Set(sought.map(({ name }) => name)))
  const found = new Map<string, Argument>()
  const free = (argument: Argument) => ![...found.values()].includes(argument)
  for (const { name, qdev } of sought) {
    const argument = names.get(name) ?? (qdev === null ? undefined : byDevice(split, nodes, qdev))
    if (argument !== undefined && free(argument)) found.set(name, argument)
  }
  const backing = new Set(split.flatMap((argument) => references(argument, ['backing'])))
  for (const { name, files } of sought) {
    if (found.has(name) || files.length === 0) continue
    const argument = split.find((one) => {
      const file = fileOf(one)
      const isBacking = one.option === 'blockdev' && backing.has(optionValue(one).get('node-name') ?? '')
      return !isBacking && file !== null && free(one) && files.includes(pathOf(file) ?? '')
    })
    if (argument !== undefined) found.set(name, argument)
  }
  // Devices without an id come in the order of the command line, those in JSON after the others.
  const left = sought
    .filter(({ name, qdev }) => !found.has(name) && anonymous(qdev) >= 0)
    .sort((a, b) => anonymous(a.qdev) - anonymous(b.qdev))
  const devices = split.filter((argument) => argument.option === 'device' && optionValue(argument).get('id') === null)
  const ordered = [false, true].flatMap((json) => devices.filter(({ value }) => value!.startsWith('{') === json))
  const wired = ordered.flatMap((device) => nodes.get(optionValue(device).get('drive') ?? '') ?? []).filter(free)
  if (left.length === wired.length) for (const [i, { name }] of left.entries()) found.set(name, wired[i]!)

  const drives: DriveArgument[] = []
  const missing: string[] = []
  for (const { name } of sought) {
    const argument = found.get(name)
    if (argument === undefined) missing.push(name)
    else drives.push({ name, argument: imageArgument(argument, split, nodes).index })
  }
  return { drives, missing }
}

/** From a file node, or a filter, to the node that stands for the image; from anything else to itself. */
function imageArgument(argument: Argument, split: readonly Argument[], nodes: ReadonlyMap<string, Argument>): Argument {
  if (argument.option !== 'blockdev') return argument
  const value = optionValue(argument)
  const below = value.get('driver') === 'throttle' ? nodes.get(value.get('file') ?? '') : undefined
  if (below !== undefined) return imageArgument(below, split, nodes)
  // A file node may have its format node in another argument: that one stands for the disk.
  const node = value.get('node-name')
  const above = node === null ? undefined : [...nodes.values()].find((one) => isFormatOver(one, node))
  return above === undefined ? argument : imageArgument(above, split, nodes)
}
