// Which processes have which files open, whoever they are: /proc/PID/fd, and loop devices, whose files no process
// holds. Files are told apart by device and inode, since one file may have many names. A file system whose server is
// away may never answer (NFS, FUSE): it is asked about files only whose inode's number fits, and not waited for long.

import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** Device and inode of a file. */
export type FileId = string

export async function fileId(path: string): Promise<FileId | null> {
  try {
    const { dev, ino } = await stat(path, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null
  }
}

const isRefusal = (thrown: unknown) => ['EACCES', 'EPERM'].includes((thrown as NodeJS.ErrnoException).code ?? '')

/** Throws when it may not be told. */
async function idOf(descriptor: string): Promise<FileId | null> {
  try {
    const { dev, ino } = await stat(descriptor, { bigint: true })
    return `${dev}:${ino}`
  } catch (thrown) {
    if (isRefusal(thrown)) throw thrown
    return null
  }
}

/** For a file system to answer. */
const ANSWER_MS = 5000

/** A file system does not answer. The message is the file's name. */
class NoAnswer extends Error {}

/** What file systems have been asked for, by path. One that does not answer keeps a thread: it is not asked twice. */
const asked = new Map<string, Promise<FileId | null>>()

/** Throws NoAnswer, and what `ask` throws. */
async function answered(
  path: string,
  name: string,
  answerMs: number,
  ask: (path: string) => Promise<FileId | null>,
): Promise<FileId | null> {
  const answer = asked.get(path) ?? ask(path).finally(() => asked.delete(path))
  asked.set(path, answer)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    // An answer may have come while this thread was busy: it is heard first.
    timer = setTimeout(() => setImmediate(() => reject(new NoAnswer(name))), answerMs)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

async function usesImages(directory: string): Promise<boolean> {
  const name = await readFile(join(directory, 'comm'), 'utf8').catch(() => 'gone')
  return /qemu|kvm|nbd|virt|guestfs|vhost|storage/i.test(name)
}

export interface OpenFiles {
  /** Of the files asked for: the processes that have them open. 0 stands for the kernel (a loop device). */
  readonly holders: ReadonlyMap<FileId, readonly number[]>
  /**
   * Why these are not all of them: a file system does not answer, or a process could not be looked into and goes by the
   * name of a program that uses disk images. (Not even root may look into those of an outer container; QEMU's locks,
   * which images are asked for besides, show there, too.)
   */
  readonly hidden: readonly string[]
}

/** Processes other than this one that have any of `wanted` open. */
export async function openFiles(wanted: ReadonlySet<FileId>, proc = '/proc', answerMs = ANSWER_MS): Promise<OpenFiles> {
  const holders = new Map<FileId, number[]>()
  const hidden: string[] = []
  const add = (id: FileId | null, pid: number) => {
    if (id === null || !wanted.has(id)) return
    const pids = holders.get(id) ?? []
    if (!pids.includes(pid)) pids.push(pid)
    holders.set(id, pids)
  }
  const inodes = new Set([...wanted].map(inodeOf))
  for (const name of await readdir(proc)) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    const directory = join(proc, name)
    try {
      for (const id of await idsIn(directory, inodes, answerMs)) add(id, pid)
    } catch (thrown) {
      // There is no more to be told then; the others are not waited for as well.
      if (thrown instanceof NoAnswer) return { holders, hidden: [...hidden, silent(`process ${pid}`, thrown.message)] }
      // Else it has ended.
      if (isRefusal(thrown) && (await usesImages(directory)))
        hidden.push(`the files that process ${pid} has open cannot be seen: the daemon lacks the permission`)
    }
  }
  for (const file of await loopFiles()) {
    try {
      add(await answered(file, file, answerMs, fileId), 0)
    } catch {
      return { holders, hidden: [...hidden, silent('a loop device', file)] }
    }
  }
  return { holders, hidden }
}

const silent = (who: string, file: string) => `${who} has ${file} open, whose file system does not answer`

/** The number as the kernel writes it: a large one is negative in a FileId. */
const inodeOf = (id: FileId) => BigInt.asUintN(64, BigInt(id.slice(id.indexOf(':') + 1))).toString()

/** The files that a process has open but those whose inode has another number. Throws NoAnswer, refusals. */
async function idsIn(directory: string, inodes: ReadonlySet<string>, answerMs: number): Promise<FileId[]> {
  let overlays: Promise<ReadonlySet<string>> | undefined
  const look = async (fd: string) => {
    const descriptor = join(directory, 'fd', fd)
    const name = await nameOf(descriptor)
    // Sockets, pipes and the like have no path.
    if (!name?.startsWith('/')) return null
    const info = await readFile(join(directory, 'fdinfo', fd), 'latin1').catch(() => '')
    // Linux 5.14 and later.
    const inode = /^ino:\s+(\d+)/m.exec(info)?.[1]
    if (inode !== undefined && !inodes.has(inode)) {
      overlays ??= overlayMounts(directory)
      if (!(await overlays).has(/^mnt_id:\s+(\d+)/m.exec(info)?.[1] ?? '')) return null
    }
    return answered(descriptor, name, answerMs, idOf)
  }
  const found = await Promise.all((await readdir(join(directory, 'fd'))).map(look))
  return found.filter((id) => id !== null)
}

/** What a descriptor's file is called, which no file system is asked for; null when it was closed. Throws refusals. */
async function nameOf(descriptor: string): Promise<string | null> {
  try {
    return await readlink(descriptor)
  } catch (thrown) {
    if (isRefusal(thrown)) throw thrown
    return (thrown as NodeJS.ErrnoException).code === 'ENAMETOOLONG' ? '/…' : null
  }
}

/**
 * Mounts of overlayfs, by their numbers. The number of an inode there need not be that which the kernel has in memory
 * and shows in fdinfo.
 */
async function overlayMounts(directory: string): Promise<ReadonlySet<string>> {
  const mounts = await readFile(join(directory, 'mountinfo'), 'latin1').catch(() => '')
  return new Set([...mounts.matchAll(/^(\d+) .* - overlay /gm)].map(([, mount]) => mount!))
}

async function loopFiles(): Promise<string[]> {
  const devices = (await readdir('/sys/block').catch(() => [])).filter((name) => name.startsWith('loop'))
  const found = await Promise.all(
    devices.map((name) => readFile(join('/sys/block', name, 'loop', 'backing_file'), 'utf8').catch(() => '')),
  )
  return found.map((text) => text.trim()).filter((text) => text !== '')
}

/** Whether some process was started with `text` in its arguments. */
export async function onCommandLines(texts: readonly string[], proc = '/proc'): Promise<Set<string>> {
  const found = new Set<string>()
  if (texts.length === 0) return found
  for (const name of await readdir(proc)) {
    if (!/^\d+$/.test(name)) continue
    const line = await readFile(join(proc, name, 'cmdline'), 'utf8').catch(() => '')
    for (const text of texts) if (line.includes(text)) found.add(text)
  }
  return found
}
