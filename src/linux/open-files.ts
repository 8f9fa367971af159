// Which processes have which files open, whoever they are: /proc/PID/fd, and loop devices, whose files no process
// holds. Files are told apart by device and inode, since one file may have many names.

import { readdir, readFile, stat } from 'node:fs/promises'
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

async function usesImages(directory: string): Promise<boolean> {
  const name = await readFile(join(directory, 'comm'), 'utf8').catch(() => 'gone')
  return /qemu|kvm|nbd|virt|guestfs|vhost|storage/i.test(name)
}

export interface OpenFiles {
  /** Of the files asked for: the processes that have them open. 0 stands for the kernel (a loop device). */
  readonly holders: ReadonlyMap<FileId, readonly number[]>
  /**
   * Processes that could not be looked into and go by the name of a program that uses disk images. (Not even root may
   * look into those of an outer container; QEMU's locks, which images are asked for besides, show there, too.)
   */
  readonly hidden: readonly number[]
}

/** Processes other than this one that have any of `wanted` open. */
export async function openFiles(wanted: ReadonlySet<FileId>, proc = '/proc'): Promise<OpenFiles> {
  const holders = new Map<FileId, number[]>()
  const hidden: number[] = []
  const add = (id: FileId | null, pid: number) => {
    if (id === null || !wanted.has(id)) return
    const pids = holders.get(id) ?? []
    if (!pids.includes(pid)) pids.push(pid)
    holders.set(id, pids)
  }
  for (const name of await readdir(proc)) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    const directory = join(proc, name, 'fd')
    try {
      const descriptors = await readdir(directory)
      await Promise.all(descriptors.map(async (fd) => add(await idOf(join(directory, fd)), pid)))
    } catch (thrown) {
      // Else it has ended.
      if (isRefusal(thrown) && (await usesImages(join(proc, name)))) hidden.push(pid)
    }
  }
  for (const file of await loopFiles()) add(await fileId(file), 0)
  return { holders, hidden }
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
