// What can be told of a QEMU from its command line: its name, and the QMP sockets that it can be driven by. Pure.

import { SnapswitchError } from '../../errors/errors.js'
import type { HolderProcess, Recognized } from '../holder.js'
import { type Argument, OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'

/** Null when it is no QEMU. */
export function recognize(holder: HolderProcess): Recognized<string> | null {
  if (!/^(qemu-system-|qemu-kvm|kvm$|qemu$)/.test(holder.binary) && !/qemu-(system|kvm)/.test(holder.argv[0] ?? ''))
    return null
  const split = splitArguments(holder.argv)
  const last = (option: string) => split.findLast((one) => one.option === option)?.value ?? null
  const given = last('name')
  const name = given === null ? null : new OptionValue(given, 'guest').get('guest')
  const uuid = last('uuid')
  const title = name ?? uuid
  const found = monitors(split)
  const sockets = found.flatMap((monitor) => {
    const socketName = typeof monitor === 'number' ? holder.socketBehind(monitor) : monitor
    const socket = socketName === null ? null : holder.socketAt(socketName)
    return socket === null ? [] : [socket]
  })
  const free = sockets.filter(({ busy }) => !busy).map(({ here }) => here)
  const who = `the QEMU ${title === null ? `of process ${holder.pid}` : `${title} (process ${holder.pid})`}`
  const problem = free.length > 0 ? null : problemOf(who, found, sockets.length > 0)
  return { title, identity: uuid === null ? null : `uuid:${uuid.toLowerCase()}`, addresses: free, problem }
}

const FURTHER = '`-qmp unix:/run/NAME.qmp,server=on,wait=off`'

function problemOf(who: string, found: readonly Monitor[], isBusy: boolean): SnapswitchError {
  if (isBusy) {
    return new SnapswitchError(
      'HYPERVISOR_UNREACHABLE',
      `${who} cannot be driven: another program is connected to its QMP socket`,
      `QEMU serves one client per QMP socket: close the other one, or start the machine with a second ${FURTHER}.`,
    )
  }
  if (found.length === 0) {
    return new SnapswitchError(
      'MACHINE_UNSUPPORTED',
      `${who} cannot be driven: it has no QMP socket (no unix socket that it listens on) on its command line`,
      `Start the machine with ${FURTHER}; until then its port forwards, and is no part of snapshots.`,
    )
  }
  const names = found.map((one) => (typeof one === 'number' ? `descriptor ${one}` : one)).join(', ')
  return new SnapswitchError(
    'HYPERVISOR_UNREACHABLE',
    `${who} cannot be driven: nothing leads to its QMP socket ${names} any more`,
    'The file was removed or replaced, by another QEMU with the same path, perhaps: start the machine again with a path of its own.',
  )
}

/** A QMP monitor's socket, by name or as a descriptor that QEMU was given. */
type Monitor = string | number

function monitors(split: readonly Argument[]): Monitor[] {
  const chardevs = new Map<string, Monitor>()
  for (const argument of split) {
    if (argument.option !== 'chardev') continue
    const value = optionValue(argument)
    const id = value.get('id')
    const listener = listenerOf(value)
    if (id !== null && listener !== null) chardevs.set(id, listener)
  }
  return split.flatMap((argument) => {
    switch (argument.option) {
      case 'qmp':
      case 'qmp-pretty':
        return ofQmp(argument.value ?? '', chardevs)
      case 'mon': {
        const value = optionValue(argument)
        return value.get('mode') === 'control' ? listed(chardevs, value.get('chardev')) : []
      }
      default:
        return []
    }
  })
}

const listed = (chardevs: ReadonlyMap<string, Monitor>, id: string | null): Monitor[] => {
  const monitor = id === null ? undefined : chardevs.get(id)
  return monitor === undefined ? [] : [monitor]
}

function ofQmp(text: string, chardevs: ReadonlyMap<string, Monitor>): Monitor[] {
  if (text.startsWith('chardev:')) return listed(chardevs, text.slice('chardev:'.length))
  if (!text.startsWith('unix:')) return []
  const value = new OptionValue(text.slice('unix:'.length), 'path')
  const path = value.get('path')
  return path !== null && listens(value) ? [path] : []
}

/** Of a client, or an abstract name, nothing can be had. */
function listens(value: OptionValue): boolean {
  const isOn = (key: string, otherwise: string) => /^(on|yes|true|y)$/.test(value.get(key) ?? otherwise)
  return isOn('server', 'off') && !isOn('abstract', 'off')
}

function listenerOf(value: OptionValue): Monitor | null {
  if (value.get('backend') !== 'socket' || !listens(value)) return null
  const fd = value.get('fd')
  if (fd !== null && /^\d+$/.test(fd)) return Number(fd)
  return value.get('path')
}
