// What two incarnations of a machine cannot both have while the next one is loaded beside the one that runs: sockets
// that QEMU makes under a name, which it would take away from the other, and ports of the host. Pure.

import { createHash } from 'node:crypto'
import path from 'node:path'
import { type Argument, joinArguments, OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'
import type { QemuDefinition } from './types.js'

/** Options whose value may be a character device in the old notation. */
export const oldCharacterDevices: ReadonlySet<string> = new Set(['serial', 'monitor', 'parallel', 'debugcon'])
const oldListeners: ReadonlySet<string> = new Set([...oldCharacterDevices, 'qmp', 'qmp-pretty'])
const isOn = (value: string | null) => value === 'on' || value === 'true' || value === 'yes'

/** Where the path is that an option with keys listens on. */
const pathKeys: Readonly<Record<string, string>> = { chardev: 'path', vnc: 'vnc', spice: 'addr' }

const oldUnix = /^((?:mon:)?unix:)([^,]+)(.*)$/

/** The path of the unix socket that an argument has QEMU listen on; null when it is none. */
export function listeningPath(argument: Argument): string | null {
  const value = optionValue(argument)
  switch (argument.option) {
    case 'chardev':
      if (value.get('backend') !== 'socket' || !(isOn(value.get('server')) || value.get('server') === '')) return null
      return value.get('path')
    case 'vnc': {
      const address = value.get('vnc') ?? ''
      return address.startsWith('unix:') && !isOn(value.get('reverse')) ? address.slice('unix:'.length) : null
    }
    case 'spice':
      return isOn(value.get('unix')) ? value.get('addr') : null
  }
  if (!oldListeners.has(argument.option)) return null
  const match = oldUnix.exec(argument.value ?? '')
  return match !== null && /,server(=on)?(,|$)/.test(match[3]!) ? match[2]!.replaceAll(',,', ',') : null
}

export function withListeningPath(argument: Argument, file: string): Argument {
  const key = pathKeys[argument.option]
  if (key !== undefined) {
    const value = optionValue(argument)
    value.set(key, argument.option === 'vnc' ? `unix:${file}` : file)
    return { ...argument, value: value.toString() }
  }
  const match = oldUnix.exec(argument.value ?? '')!
  return { ...argument, value: `${match[1]}${file.replaceAll(',', ',,')}${match[3]}` }
}

/** Where the socket lies until the former self has ended: short, and one for each. */
export function besidePath(given: string, directory: string): string {
  return path.join(directory, `${createHash('sha256').update(given).digest('hex').slice(0, 8)}.sock`)
}

/** A link beside such a socket, which leads to its owner's name for it: QEMU's command line does not tell. */
export const namePath = (socket: string): string => socket.replace(/\.sock$/, '.name')

/** A command line with the names that its owner has given to its sockets. `nameOf`: by what the command line says. */
export function withGivenPaths(argv: readonly string[], nameOf: (socket: string) => string | null): string[] {
  const split = splitArguments(argv)
  const given = split.map((argument) => {
    const socket = listeningPath(argument)
    const name = socket === null ? null : nameOf(socket)
    return name === null ? argument : withListeningPath(argument, name)
  })
  return given.every((argument, nth) => argument === split[nth]) ? [...argv] : joinArguments(argv[0]!, given)
}

/** All sockets of a machine that change places when its former self has ended. */
export function listeningPaths(definition: QemuDefinition): { readonly given: string; readonly file: string }[] {
  return splitArguments(definition.argv).flatMap((argument) => {
    const given = listeningPath(argument)
    return given === null ? [] : [{ given, file: path.resolve(definition.directory ?? '/', given) }]
  })
}

/**
 * What keeps a machine from being loaded beside its former self, in the words of its command line; empty when nothing
 * does.
 */
export function heldAlone(definition: QemuDefinition): string[] {
  return splitArguments(definition.argv).flatMap((argument) => {
    const { option, value } = argument
    const text = value ?? ''
    const named = [`-${option}${value === null ? '' : ` ${text}`}`]
    if (option === 's') return named
    // QEMU makes a server of it by itself.
    if (option === 'gdb') return text.startsWith('tcp:') ? named : []
    if (option === 'vnc') return /^(none|unix:)/.test(text) ? [] : named
    if (option === 'spice') return /(^|,)(tls-)?port=/.test(text) ? named : []
    if (oldListeners.has(option)) return listensOnPort(text.replace(/^mon:/, '')) ? named : []
    if (option === 'chardev') {
      const chardev = optionValue(argument)
      const listens = isOn(chardev.get('server')) && chardev.get('port') !== null
      return chardev.get('backend') === 'socket' && listens ? named : []
    }
    if (option === 'netdev' || option === 'nic') {
      const net = optionValue(argument)
      if (net.get('type') === 'user' && net.get('hostfwd') !== null) return named
      // Datagrams go to whoever has bound the address last. A group's go to both.
      const bound = ['listen', 'local.path', 'local.port', ...(net.get('mcast') === null ? ['localaddr'] : [])]
      return bound.some((key) => net.get(key) !== null) || isOn(net.get('server')) ? named : []
    }
    if (option === 'object') {
      // Memory in a file that both would write to; a directory (huge pages) gives each a file of its own.
      const object = new OptionValue(text, 'qom-type')
      const isDirectory = ['/dev/shm', '/dev/hugepages'].includes((object.get('mem-path') ?? '').replace(/\/$/, ''))
      return object.get('qom-type') === 'memory-backend-file' && isOn(object.get('share')) && !isDirectory ? named : []
    }
    return []
  })
}

function listensOnPort(value: string): boolean {
  if (/^telnet:|^websocket:/.test(value)) return true
  return /^tcp:/.test(value) && /,server(=on)?(,|$)/.test(value)
}
