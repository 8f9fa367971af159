// A process that holds a TAP, as /proc shows it.

import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import path from 'node:path'
import type { HolderProcess, ListeningSocket } from '../holder.js'
import { argumentsOf, binaryOf, directoryOf, identify, ownerOf } from './process.js'

/** Null when it has ended. Throws what /proc refuses. */
export function readHolder(pid: number): HolderProcess | null {
  const identity = identify(pid)
  if (identity === null) return null
  try {
    const argv = argumentsOf(pid)
    const program = readFileSync(`/proc/${pid}/comm`, 'utf8').replace(/\n$/, '')
    const sockets = new ProcessSockets(pid)
    const holder = {
      ...identity,
      program,
      binary: path.basename(binaryOf(pid)),
      argv,
      uid: ownerOf(pid).uid,
      socketAt: (name: string) => sockets.at(name),
      socketBehind: (descriptor: number) => sockets.behind(descriptor),
    }
    // Or its pid went to another while it was read.
    return identify(pid)?.startTicks === identity.startTicks ? holder : null
  } catch (thrown) {
    if (identify(pid) === null) return null
    throw thrown
  }
}

/** A line of /proc/net/unix: sockets of the process's network namespace, whoever has them. */
interface UnixSocket {
  readonly inode: string
  readonly listens: boolean
  readonly name: string
}

/** The unix sockets of one process; read when first asked for. */
class ProcessSockets {
  readonly #pid: number
  #all: UnixSocket[] | null = null
  #own: Map<string, string> | null = null

  constructor(pid: number) {
    this.#pid = pid
  }

  at(name: string): ListeningSocket | null {
    const directory = directoryOf(this.#pid)
    const file = path.resolve(directory, name)
    const own = this.#sockets().filter(
      (socket) =>
        path.resolve(directory, socket.name) === file && [...this.#descriptors().values()].includes(socket.inode),
    )
    if (!own.some(({ listens }) => listens)) return null
    const here = this.#outside(file)
    return here === null ? null : { here, busy: own.some(({ listens }) => !listens) }
  }

  behind(descriptor: number): string | null {
    const inode = this.#descriptors().get(String(descriptor))
    return this.#sockets().find((socket) => socket.inode === inode)?.name ?? null
  }

  /** A path of its mount namespace as one of ours. */
  #outside(file: string): string | null {
    const seen = `/proc/${this.#pid}/root${file}`
    const [ours, theirs] = [keyOf(file), keyOf(seen)]
    if (theirs === null || ours === theirs) return ours === null ? null : file
    return seen
  }

  #sockets(): UnixSocket[] {
    this.#all ??= parseUnixSockets(readFileSync(`/proc/${this.#pid}/net/unix`, 'utf8'))
    return this.#all
  }

  /** Descriptor -> inode of the socket. */
  #descriptors(): Map<string, string> {
    if (this.#own !== null) return this.#own
    const own = new Map<string, string>()
    for (const fd of readdirSync(`/proc/${this.#pid}/fd`)) {
      try {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${this.#pid}/fd/${fd}`))?.[1]
        if (inode !== undefined) own.set(fd, inode)
      } catch {
        // Closed meanwhile.
      }
    }
    this.#own = own
    return own
  }
}

/** SO_ACCEPTCON, the flag of a socket that listens (include/linux/net.h). */
const LISTENS = 0x10000

/** Those that have a name. Columns: Num RefCount Protocol Flags Type St Inode Path (net/unix/af_unix.c). */
export function parseUnixSockets(text: string): UnixSocket[] {
  return [...text.matchAll(/^\S+: \S+ \S+ (\S+) \S+ \S+ +(\d+) (.+)$/gm)].map(([, flags, inode, name]) => ({
    inode: inode!,
    listens: (Number.parseInt(flags!, 16) & LISTENS) !== 0,
    name: name!,
  }))
}

function keyOf(file: string): string | null {
  try {
    const { dev, ino } = statSync(file, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null
  }
}
