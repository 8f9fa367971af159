// All drives of a machine's next incarnation: which of its arguments change for its disks and media, and which block
// nodes nobody needs then. Pure.

import { SnapswitchError } from '../../errors/errors.js'
import type { Medium } from '../hypervisor.js'
import type { FreshDisk } from '../shared/fresh-disks.js'
import { nodeArguments, references } from '../shared/qemu-disks.js'
import { type Argument, optionValue, splitArguments } from '../shared/qemu-options.js'
import { defaultDrive, type NewImage, withImage } from './drive-options.js'
import type { QemuDefinition } from './types.js'

export interface EditedDrives {
  /** By their index in argv; null: left out. */
  readonly edited: ReadonlyMap<number, Argument | null>
  /** Arguments that must come before, and some that come after all others. */
  readonly first: readonly Argument[]
  readonly last: readonly Argument[]
}

/** Linux takes no more of all arguments and the environment together than 2 MiB by default. */
const mostBytes = 1_500_000

const unsupported = (message: string, action: string) => new SnapswitchError('MACHINE_UNSUPPORTED', message, action)

export function editDrives(
  { name, argv, drives = [] }: QemuDefinition,
  disks: readonly FreshDisk[],
  media: readonly Medium[],
): EditedDrives {
  const split = splitArguments(argv)
  const nodes = nodeArguments(split)
  const prefix = unusedPrefix([...nodes.keys()])
  const edited = new Map<number, Argument | null>()
  const first: Argument[] = []
  const last: Argument[] = []
  const put = (drive: string, image: Omit<NewImage, 'nodes'> | null, otherwise: Argument | null) => {
    const index = drives.find((one) => one.name === drive)?.argument
    const argument = index === undefined ? otherwise : split.find((one) => one.index === index)
    if (argument === undefined || argument === null) {
      if (image === null) return
      throw unsupported(`${name}’s command line has no drive ${drive}.`, 'Take the snapshot again.')
    }
    if (index === undefined && image === null) return
    const wanted = image === null ? null : { ...image, nodes: `${prefix}d${edited.size + last.length}` }
    const changed = withImage(argument, nodes, wanted)
    first.push(...changed.layers)
    if (index === undefined) last.push(...(changed.argument === null ? [] : [changed.argument]))
    else edited.set(index, changed.argument)
    if (changed.argument === null) unwire(argument, split, edited)
  }
  for (const disk of disks) {
    put(disk.name, { file: disk.overlay, format: 'qcow2', readOnly: false, backing: disk.backing }, null)
  }
  for (const medium of media) {
    const { file, format, backing = [] } = medium
    put(medium.name, file === null ? null : { file, format, readOnly: true, backing }, defaultDrive(medium))
  }
  const bytes = first.reduce((sum, { value }) => sum + (value?.length ?? 0) + 20, 0)
  if (bytes > mostBytes) {
    throw unsupported(
      `${name}’s disks have too many layers for a command line: ${first.length}.`,
      'Delete snapshots that are not needed, so that layers are merged.',
    )
  }
  return { edited, first, last }
}

/** A device whose node goes has no drive. */
function unwire(node: Argument, split: readonly Argument[], edited: Map<number, Argument | null>): void {
  const name = optionValue(node).get('node-name')
  for (const argument of split) {
    if (argument.option !== 'device' || name === null) continue
    const value = optionValue(argument)
    if (value.get('drive') !== name) continue
    value.remove('drive')
    edited.set(argument.index, { ...argument, value: value.toString() })
  }
}

/** Nodes of a former restore may be on the command line. */
function unusedPrefix(taken: readonly string[]): string {
  for (let i = 0; ; i++) {
    const prefix = `snapswitch${i}`
    if (!taken.some((name) => name.startsWith(`${prefix}d`))) return prefix
  }
}

/** Leaves out block nodes that only the replaced images used. `before`: the command line as it was. */
export function withoutOrphans(split: readonly Argument[], before: readonly Argument[]): Argument[] {
  const wasReferenced = new Set(before.flatMap((argument) => references(argument)))
  let kept = [...split]
  for (;;) {
    const referenced = new Set(kept.flatMap((argument) => references(argument)))
    const next = kept.filter((argument) => {
      const node = argument.option === 'blockdev' ? optionValue(argument).get('node-name') : null
      return node === null || !wasReferenced.has(node) || referenced.has(node)
    })
    if (next.length === kept.length) return next
    kept = next
  }
}
