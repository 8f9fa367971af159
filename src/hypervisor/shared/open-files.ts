// Which files processes have open, by what the kernel says and not by their names: two names may be one file, and one
// name two files in two mount namespaces.

import { type BigIntStats, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import path from 'node:path'
import type { Locate } from './block-drives.js'

/** A file as the kernel tells it from all others: device and inode. */
export type FileKey = string

const keyOfStat = ({ dev, ino }: BigIntStats): FileKey => `${dev}:${ino}`

function statOrNull(file: string): BigIntStats | null {
  try {
    return statSync(file, { bigint: true })
  } catch {
    return null
  }
}

/** The error with which a file that may be there cannot be looked at; null for one that is not there. */
function whyHidden(file: string): string | null {
  try {
    statSync(file)
    return null
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ENOTDIR' ? null : String(code)
  }
}

export function keyOf(file: string): FileKey | null {
  const stat = statOrNull(file)
  return stat === null ? null : keyOfStat(stat)
}

export interface OpenFile {
  readonly key: FileKey
  /** As it is called in the mount namespace of the process. */
  readonly path: string
  /** No name leads to it any more. */
  readonly deleted: boolean
}

const O_ACCMODE = 3
const O_PATH = 0o10000000

/** Of a descriptor, by its fdinfo. */
const flagsOf = (info: string) => Number.parseInt(/^flags:\s+([0-7]+)/m.exec(info)?.[1] ?? '0', 8)

/** A descriptor that gives no access: anybody has one of a file that he may not read. */
const isNameOnly = (pid: string, fd: string) =>
  (flagsOf(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8')) & O_PATH) !== 0

/** The regular files that a process has open; null when that cannot be seen. */
export function openFilesOf(pid: number): OpenFile[] | null {
  let entries: string[]
  try {
    entries = readdirSync(`/proc/${pid}/fd`)
  } catch {
    return null
  }
  return entries.flatMap((fd) => {
    try {
      const link = `/proc/${pid}/fd/${fd}`
      const name = readlinkSync(link)
      if (!name.startsWith('/') || name.startsWith('/dev/') || name.startsWith('/memfd:')) return []
      if (isNameOnly(String(pid), fd)) return []
      const stat = statSync(link, { bigint: true })
      if (!stat.isFile()) return []
      return [{ key: keyOfStat(stat), path: name.replace(/ \(deleted\)$/, ''), deleted: stat.nlink === 0n }]
    } catch {
      // Closed meanwhile.
      return []
    }
  })
}

/**
 * Finds files by the names that a hypervisor has for them: relative ones start from where it was started, which may not
 * be where it is now (-daemonize). What it has open decides. `open` null: it cannot be seen, and the names are
 * believed.
 */
export function locator(open: readonly OpenFile[] | null, directory: string): Locate {
  const known = new Map<string, ReturnType<Locate>>()
  return (filename) => {
    const found = known.get(filename) ?? locate(open, directory, filename)
    known.set(filename, found)
    return found
  }
}

function locate(open: readonly OpenFile[] | null, directory: string, filename: string): ReturnType<Locate> {
  const name = filename.startsWith('file:') ? filename.slice(5) : filename
  if (name.startsWith('/dev/fdset/')) return { reason: 'it was passed to QEMU as a descriptor' }
  const file = path.resolve(directory, name)
  const here = statOrNull(file)
  if (here !== null && !here.isFile()) return { reason: `${file} is no regular file` }
  if (open === null) return here === null ? { path: file } : { path: realpathSync(file), key: keyOfStat(here) }
  if (here !== null && open.some(({ key }) => key === keyOfStat(here)))
    return { path: realpathSync(file), key: keyOfStat(here) }
  if (!path.isAbsolute(name)) {
    const found = byEnd(open, name)
    if (found !== null) return found
  }
  if (open.some((one) => one.deleted && one.path === file))
    return { reason: `${file} is deleted, and only the machine still has it` }
  const code = here === null ? whyHidden(file) : null
  if (code !== null)
    return { reason: `${file} cannot be looked at (${code}): its file system may let in its own user only (FUSE, NFS)` }
  const what = here === null ? 'is not there' : 'is not the file that the machine has open'
  return { reason: `${file} ${what}: it was renamed or replaced, or the machine sees other directories than this host` }
}

/** The one open file whose path ends as a relative name does, and that this host has under that path, too. */
function byEnd(open: readonly OpenFile[], name: string): OpenFile | null {
  const end = path.normalize(`/${name.replace(/^(\.\.?\/)+/, '')}`)
  const fits = open.filter((one) => one.path.endsWith(end) && keyOf(one.path) === one.key)
  return new Set(fits.map((one) => one.path)).size === 1 ? fits[0]! : null
}

/** Somebody who may write to a file, for people. */
export interface Writer {
  readonly key: FileKey
  readonly who: string
  /** null: not a process. */
  readonly pid: number | null
}

/** A scan of a host with many processes lets others work in between. */
const filesAtOnce = 500

interface Scan {
  readonly wanted: Map<FileKey, string>
  readonly result: Promise<Writer[]>
}

/**
 * A look that is no older tells of new writers as well as a new one: whoever opens a file just after a look is not seen
 * either. It may still name a writer that has ended since. A snapshot asks about the same files three times in a row,
 * and a look costs as much as all else that the daemon does for it.
 */
export const freshMs = 500

/** What was seen of a file lately. */
const seen = new Map<FileKey, { readonly untilMs: number; readonly writers: readonly Writer[] }>()

let queued: Scan | null = null
let running: Promise<unknown> = Promise.resolve()

/**
 * Who has one of these files open for writing, among all processes that can be seen, and loop devices. Requests that
 * come while a scan runs share the next one. `anew`: whatever was seen lately.
 */
export async function writersOf(files: readonly string[], { anew = false } = {}): Promise<Writer[]> {
  const own = new Set<FileKey>()
  const wanted = queued?.wanted ?? new Map<FileKey, string>()
  for (const file of files) {
    const key = keyOf(file)
    if (key === null) continue
    own.add(key)
    wanted.set(key, file)
  }
  const now = performance.now()
  const known = [...own].map((key) => seen.get(key))
  if (!anew && known.every((one) => one !== undefined && one.untilMs > now)) return known.flatMap((one) => one!.writers)
  if (queued === null) {
    const result = running.then(() => {
      queued = null
      return remembered(wanted)
    })
    running = result.catch(() => {})
    queued = { wanted, result }
  }
  return (await queued.result).filter(({ key }) => own.has(key))
}

async function remembered(wanted: ReadonlyMap<FileKey, string>): Promise<Writer[]> {
  const writers = await scan(wanted)
  const now = performance.now()
  for (const [key, { untilMs }] of seen) if (untilMs <= now) seen.delete(key)
  for (const key of wanted.keys())
    seen.set(key, { untilMs: now + freshMs, writers: writers.filter((one) => one.key === key) })
  return writers
}

async function scan(wanted: ReadonlyMap<FileKey, string>): Promise<Writer[]> {
  const inodes = new Set([...wanted.keys()].map((key) => key.slice(key.indexOf(':') + 1)))
  const writers: Writer[] = [...loopDevices(wanted)]
  let looked = 0
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    const keys = new Set<FileKey>()
    for (const fd of entriesOf(`/proc/${entry}/fd`)) {
      const key = writtenBehind(entry, fd, inodes)
      if (key !== null && wanted.has(key)) keys.add(key)
      if (++looked % filesAtOnce === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    for (const key of writtenInMemory(entry, inodes)) if (wanted.has(key)) keys.add(key)
    if (keys.size === 0) continue
    const who = describe(entry)
    if (who !== null) writers.push(...[...keys].map((key) => ({ key, who, pid: Number(entry) })))
  }
  return writers
}

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/**
 * The file behind a descriptor that may write. Files are only asked (a filesystem may hang) when the inode's number
 * fits.
 */
function writtenBehind(pid: string, fd: string, inodes: ReadonlySet<string>): FileKey | null {
  try {
    const info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8')
    const flags = flagsOf(info)
    if ((flags & O_ACCMODE) === 0 || (flags & O_PATH) !== 0) return null
    // Linux 5.14 and later.
    const inode = /^ino:\s+(\d+)/m.exec(info)?.[1]
    if (inode !== undefined && !inodes.has(inode)) return null
    const link = `/proc/${pid}/fd/${fd}`
    return inode !== undefined || readlinkSync(link).startsWith('/') ? keyOf(link) : null
  } catch {
    return null
  }
}

/** Files that are mapped to be written, whose descriptor may be closed. */
function writtenInMemory(pid: string, inodes: ReadonlySet<string>): FileKey[] {
  let maps: string
  try {
    maps = readFileSync(`/proc/${pid}/maps`, 'latin1')
  } catch {
    return []
  }
  const keys: FileKey[] = []
  for (const [, range, inode] of maps.matchAll(/^([0-9a-f]+-[0-9a-f]+) .w.s \S+ \S+ (\d+)/gm)) {
    const key = inodes.has(inode!) ? keyOf(`/proc/${pid}/map_files/${range}`) : null
    if (key !== null) keys.push(key)
  }
  return keys
}

/** libvirt's lock daemon opens images to lock them, and writes nothing. */
const writesNothing = new Set(['virtlockd'])

function describe(pid: string): string | null {
  try {
    const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim()
    if (writesNothing.has(name)) return null
    const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    const machine = argv[argv.indexOf('-name') + 1]?.replace(/^guest=/, '').split(',')[0]
    const isMachine = argv.includes('-name') && /qemu|kvm/.test(argv[0] ?? '') && machine !== undefined
    return `${isMachine ? `the machine ${machine}, ` : ''}${name} (process ${pid})`
  } catch {
    return null
  }
}

function loopDevices(wanted: ReadonlyMap<FileKey, string>): Writer[] {
  return entriesOf('/sys/block').flatMap((device) => {
    if (!device.startsWith('loop')) return []
    try {
      const file = readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8').replace(/\n$/, '')
      const readOnly = readFileSync(`/sys/block/${device}/ro`, 'utf8').trim() === '1'
      const key = readOnly ? null : keyOf(file)
      return key !== null && wanted.has(key) ? [{ key, who: `the loop device ${device}`, pid: null }] : []
    } catch {
      return []
    }
  })
}
