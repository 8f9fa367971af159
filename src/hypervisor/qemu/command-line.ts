// From a machine's command line to that of its next incarnation: other taps, other disks, another control socket,
// waiting for its memory. Pure.

import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type { Medium } from '../hypervisor.js'
import type { FreshDisk } from '../shared/fresh-disks.js'
import { type Argument, joinArguments, optionValue, splitArguments } from '../shared/qemu-options.js'
import { besidePath, listeningPath, oldCharacterDevices, withListeningPath } from './beside.js'
import { editDrives, withoutOrphans } from './drives.js'
import { withOwnFile } from './emptied.js'
import { withFiles } from './files.js'
import { type TapPlace, tapArguments, withTap } from './nics.js'
import { withoutUser } from './own-user.js'
import { forRehearsal } from './rehearsal.js'
import type { QemuDefinition } from './types.js'
import { withoutWindow } from './window.js'

export interface NextIncarnation {
  readonly taps: readonly TapPlace[]
  readonly disks: readonly FreshDisk[]
  /** What was in the other drives at the cut. */
  readonly media?: readonly Medium[]
  readonly qmp: string
  /** Only to see whether it loads. */
  readonly rehearsal?: boolean
  /** The machine's other files, as they lie here, by their paths in the definition. */
  readonly files?: ReadonlyMap<string, string>
  /** Where sockets and files go whose own directory is not there. */
  readonly directory: string
  /** Whether a directory exists here. */
  readonly exists: (directory: string) => boolean
  /** Its former self still runs here: sockets get paths in the machine's own directory until it has ended. */
  readonly beside?: boolean
}

/** What belongs to one incarnation only: how it was started. */
const dropped = new Set(['S', 'daemonize', 'incoming', 'loadvm', 'pidfile', 'preconfig'])

const unsupported = (message: string, action: string) => new SnapswitchError('MACHINE_UNSUPPORTED', message, action)

/** The socket that a character device or a monitor listens on, as it was given; null when it is none. */
function socketOf(argument: Argument): string | null {
  if (argument.option === 'chardev') return optionValue(argument).get('path')
  return /^unix:((?:[^,]|,,)+)/.exec(argument.value ?? '')?.[1]?.replaceAll(',,', ',') ?? null
}

/** Ids of character devices that QMP monitors use, and that nobody but the former incarnation's daemon did. */
function ownChardevs(split: readonly Argument[], isOwn: (socket: string | null) => boolean): Set<string> {
  const ids = new Set<string>()
  for (const argument of split) {
    if (argument.option !== 'mon') continue
    const value = optionValue(argument)
    const id = value.get('chardev')
    if (value.get('mode') !== 'control' || id === null) continue
    const chardev = split.find((one) => one.option === 'chardev' && optionValue(one).get('id') === id)
    if (chardev === undefined || isOwn(socketOf(chardev))) ids.add(id)
  }
  return ids
}

/** A socket, or a character device's file, moved into the incarnation's directory when its own does not exist here. */
function withReachablePath(given: Argument, next: NextIncarnation): Argument {
  const moved = (file: string) =>
    path.isAbsolute(file) && !next.exists(path.dirname(file)) ? path.join(next.directory, path.basename(file)) : file
  const listens = listeningPath(given)
  const place = (socket: string) => (next.beside === true ? besidePath(socket, next.directory) : moved(socket))
  const argument = listens === null ? given : withListeningPath(given, place(listens))
  if (argument.option === 'chardev') {
    const value = optionValue(argument)
    const before = value.toString()
    for (const key of ['path', 'logfile']) {
      const file = value.get(key)
      if (file !== null && moved(file) !== file) value.set(key, moved(file))
    }
    // What the machine has said so far stays: QEMU would empty the file.
    if (value.get('backend') === 'file' && value.get('append') === null) value.set('append', true)
    if (value.get('logfile') !== null && value.get('logappend') === null) value.set('logappend', true)
    return value.toString() === before ? argument : { ...argument, value: value.toString() }
  }
  if (argument.option === 'qmp' || argument.option === 'qmp-pretty') {
    const match = /^(unix:)((?:[^,]|,,)+)(.*)$/.exec(argument.value ?? '')
    return match === null ? argument : { ...argument, value: `${match[1]}${moved(match[2]!)}${match[3]}` }
  }
  if (oldCharacterDevices.has(argument.option)) {
    const match = /^((?:mon:)?(?:unix|file):)([^,]+)(.*)$/.exec(argument.value ?? '')
    return match === null ? argument : { ...argument, value: `${match[1]}${moved(match[2]!)}${match[3]}` }
  }
  return withOwnFile(argument, next.directory)
}

/** -serial file:… empties the file, and only a -chardev can be told not to. */
function appending(argument: Argument): Argument[] {
  const match = /^file:((?:[^,]|,,)+)$/.exec(argument.value ?? '')
  if (match === null || !oldCharacterDevices.has(argument.option)) return [argument]
  // QEMU gives the device of -debugcon the character device of that name, whatever it has made.
  const id = argument.option === 'debugcon' ? 'debugcon' : `snapswitch-${argument.option}-${argument.index}`
  return [
    { option: 'chardev', value: `file,id=${id},path=${match[1]},append=on`, index: argument.index },
    { ...argument, value: `chardev:${id}` },
  ]
}

/** The argv of a machine that loads `definition`'s memory as `next` says. */
export function commandLineFor(definition: QemuDefinition, next: NextIncarnation): string[] {
  const { argv, directory = '/' } = definition
  const split = splitArguments(argv)
  const taps = new Map(tapArguments(argv).map(({ index }, i) => [index, next.taps[i]]))
  if (taps.size !== next.taps.length) {
    throw unsupported(
      `${definition.name} has ${taps.size} tap devices, but ${next.taps.length} were given for it.`,
      'Give each of the machine’s NICs one tap.',
    )
  }
  const images = editDrives(definition, next.disks, next.media ?? [])
  // Of definitions that do not tell which socket was the daemon's, none is kept.
  const isOwn = (socket: string | null) =>
    definition.qmp === undefined || socket === null || path.resolve(directory, socket) === definition.qmp
  const controls = ownChardevs(split, isOwn)
  const edited: Argument[] = []
  for (const argument of split) {
    if (dropped.has(argument.option)) continue
    if ((argument.option === 'qmp' || argument.option === 'qmp-pretty') && isOwn(socketOf(argument))) continue
    if (argument.option === 'mon' && controls.has(optionValue(argument).get('chardev') ?? '')) continue
    if (argument.option === 'chardev' && controls.has(optionValue(argument).get('id') ?? '')) continue
    const tap = taps.get(argument.index)
    const drive = images.edited.get(argument.index)
    if (tap !== undefined) edited.push(withTap(argument, tap))
    else if (drive !== undefined) edited.push(...(drive === null ? [] : [drive]))
    else edited.push(...appending(withReachablePath(withFiles(argument, directory, next.files ?? new Map()), next)))
  }
  const own: Argument[] = [
    { option: 'qmp', value: `unix:${next.qmp.replaceAll(',', ',,')},server=on,wait=off`, index: 0 },
    { option: 'S', value: null, index: 0 },
    { option: 'incoming', value: 'defer', index: 0 },
  ]
  const kept = definition.user === undefined ? edited : withoutUser(edited)
  const machine = [...images.first, ...withoutOrphans(kept, split), ...images.last]
  const shown = withoutWindow(machine, definition.window === true, path.join(next.directory, 'vnc.sock'))
  return joinArguments(definition.binary ?? argv[0]!, [
    ...(next.rehearsal === true ? forRehearsal(machine) : shown),
    ...own,
  ])
}
