// libvirt.so loaded, its event loop running, and connections made. Only in the libvirt process.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { peerCredentials } from '../shared/descriptors.js'
import { type Connection, type Library, loadLibrary, type MonitorListener } from './library.js'
import type { CallError } from './protocol.js'

export class LibvirtFailure extends Error {
  readonly code: number
  readonly disconnected: boolean

  constructor({ code, message, disconnected }: CallError) {
    super(message)
    this.code = code
    this.disconnected = disconnected
  }
}

let library: Library | null = null
let onMonitorEvent: MonitorListener = () => {}

/** Hears the QMP events of all domains that are watched, each with its token. */
export function hearMonitors(listener: MonitorListener): void {
  onMonitorEvent = listener
}

export const isLoaded = (): boolean => library !== null

let lastGlobalError = { code: 0, message: 'no reason given' }

/** Throws when libvirt is not installed. */
export function theLibrary(): Library {
  if (library !== null) return library
  const loaded = loadLibrary()
  loaded.onError((code, message) => {
    lastGlobalError = { code, message }
  })
  loaded.onMonitorEvent((...event) => onMonitorEvent(...event))
  if (loaded.registerDefaultLoop() < 0) throw new Error('libvirt’s event loop cannot be set up')
  library = loaded
  void loop(loaded)
  return loaded
}

async function loop(loaded: Library): Promise<void> {
  for (;;) {
    if ((await loaded.runLoop()) < 0) await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

export const version = (number: number): string =>
  `${Math.floor(number / 1_000_000)}.${Math.floor(number / 1000) % 1000}.${number % 1000}`

/** virConnectOpen tells its reason only to its own thread and to the global handler: one at a time, then. */
let opening: Promise<unknown> = Promise.resolve()

export interface Opened {
  readonly connection: Connection
  /**
   * The process at the other end of the connection: libvirtd, where it is on this host; null when that cannot be told.
   */
  readonly daemon: number | null
}

export function openConnection(uri: string): Promise<Opened> {
  const opened = opening.then(async () => {
    lastGlobalError = { code: 0, message: 'no reason given' }
    const before = openSockets()
    const connection = await theLibrary().open(uri)
    // The handler's call may still be on its way here.
    if (connection === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    if (connection === 0) throw new LibvirtFailure({ ...lastGlobalError, disconnected: true })
    const made = [...openSockets()].filter(([socket]) => !before.has(socket))
    return { connection, daemon: made.map(([, fd]) => daemonBehind(fd)).find((pid) => pid !== null) ?? null }
  })
  opening = opened.catch(() => {})
  return opened
}

/** This process's sockets, by inode, with their descriptors. */
function openSockets(): Map<string, number> {
  const found = new Map<string, number>()
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const what = readlinkSync(`/proc/self/fd/${fd}`)
      if (what.startsWith('socket:')) found.set(what, Number(fd))
    } catch {
      // The one that the list was read through.
    }
  }
  return found
}

function daemonBehind(fd: number): number | null {
  try {
    const { pid } = peerCredentials(fd)
    const name = readFileSync(`/proc/${pid}/comm`, 'latin1').trim()
    return name === 'libvirtd' || name === 'virtqemud' ? pid : null
  } catch {
    // No socket, or closed already.
    return null
  }
}
