// From a machine's command line to that of its next incarnation: other taps, other disks, another control socket, waiting
// for its memory. Pure.

import path from 'node:path'
import { SnapswitchError } from '../errors/errors.js'
import type { Medium, QemuDefinition } from './hypervisor.js'
import { type DiskWanted, editDrives, withoutOrphans } from './qemu-drives.js'
import { tapArguments, withTap } from './qemu-nics.js'
import { type Argument, joinArguments, optionValue, splitArguments } from './qemu-options.js'

export interface NextIncarnation {
  readonly taps: readonly string[]
  readonly disks: readonly DiskWanted[]
  /** What was in the other drives at the cut. */
  readonly media?: readonly Medium[]
  readonly qmp: string
  /** Where sockets and files go whose own directory is not there. */
  readonly directory: string
  /** Whether a directory exists here. */
  readonly exists: (directory: string) => boolean
}

/** What belongs to one incarnation only: how it was started, and its control sockets. */
const dropped = new Set(['S', 'daemonize', 'incoming', 'loadvm', 'pidfile', 'qmp', 'qmp-pretty'])

const unsupported = (message: string, action: string) => new SnapswitchError('MACHINE_UNSUPPORTED', message, action)

/** Throws MACHINE_UNSUPPORTED when a machine with this command line could not be started again. */
export function checkCommandLine(argv: readonly string[]): void {
  for (const { option, value } of splitArguments(argv)) {
    if (option === 'snapshot') {
      throw unsupported(
        'The machine runs with -snapshot: its disks are temporary files.',
        'Start it without -snapshot.',
      )
    }
    if (option === 'drive' && /(^|,)snapshot=(on|true|yes)(,|$)/.test(value ?? '')) {
      throw unsupported('A drive has snapshot=on: its disk is a temporary file.', 'Start it without snapshot=on.')
    }
    if (option === 'chroot' || option === 'add-fd' || option === 'readconfig') {
      throw unsupported(
        `The machine was started with -${option}, so its command line alone cannot start it again.`,
        `Start it without -${option}.`,
      )
    }
  }
}

/** Ids of the -chardev arguments that carry a QMP monitor. */
function monitorChardevs(split: readonly Argument[]): Set<string> {
  const ids = new Set<string>()
  for (const argument of split) {
    if (argument.option !== 'mon') continue
    const value = optionValue(argument)
    const id = value.get('chardev')
    if (value.get('mode') === 'control' && id !== null) ids.add(id)
  }
  return ids
}

const isControl = (argument: Argument) => argument.option === 'mon' && optionValue(argument).get('mode') === 'control'

/** A character device's socket or file, moved into the incarnation's directory when its own does not exist here. */
function withReachablePath(argument: Argument, next: NextIncarnation): Argument {
  const moved = (file: string) =>
    path.isAbsolute(file) && !next.exists(path.dirname(file)) ? path.join(next.directory, path.basename(file)) : file
  if (argument.option === 'chardev') {
    const value = optionValue(argument)
    const file = value.get('path')
    if (file === null || moved(file) === file) return argument
    value.set('path', moved(file))
    return { ...argument, value: value.toString() }
  }
  if (argument.option === 'serial' || argument.option === 'monitor' || argument.option === 'parallel') {
    const match = /^((?:mon:)?(?:unix|file):)([^,]+)(.*)$/.exec(argument.value ?? '')
    return match === null ? argument : { ...argument, value: `${match[1]}${moved(match[2]!)}${match[3]}` }
  }
  if (argument.option === 'D') return { ...argument, value: moved(argument.value ?? '') }
  return argument
}

/** The argv of a machine that loads `definition`'s memory as `next` says. */
export function commandLineFor(definition: QemuDefinition, next: NextIncarnation): string[] {
  const { argv } = definition
  const split = splitArguments(argv)
  const taps = new Map(tapArguments(argv).map(({ index }, i) => [index, next.taps[i]]))
  if (taps.size !== next.taps.length) {
    throw unsupported(
      `${definition.name} has ${taps.size} tap devices, but ${next.taps.length} were given for it.`,
      'Give each of the machine’s NICs one tap.',
    )
  }
  const images = editDrives(definition, next.disks, next.media ?? [])
  const controls = monitorChardevs(split)
  const edited: Argument[] = []
  for (const argument of split) {
    if (dropped.has(argument.option) || isControl(argument)) continue
    if (argument.option === 'chardev' && controls.has(optionValue(argument).get('id') ?? '')) continue
    const tap = taps.get(argument.index)
    const drive = images.edited.get(argument.index)
    if (tap !== undefined) edited.push(withTap(argument, tap))
    else if (drive !== undefined) edited.push(...(drive === null ? [] : [drive]))
    else edited.push(withReachablePath(argument, next))
  }
  const own: Argument[] = [
    { option: 'qmp', value: `unix:${next.qmp.replaceAll(',', ',,')},server=on,wait=off`, index: 0 },
    { option: 'S', value: null, index: 0 },
    { option: 'incoming', value: 'defer', index: 0 },
  ]
  return joinArguments(definition.binary ?? argv[0]!, [
    ...images.first,
    ...withoutOrphans(edited, split),
    ...images.last,
    ...own,
  ])
}
