// Which processes have which files open, whoever they are: /proc/PID/fd, and loop devices, whose files no process holds.
// Files are told apart by device and inode, since one file may have many names.

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

export interface OpenFiles {
  /** Of the files asked for: the processes that have them open. 0 stands for the kernel (a loop device). */
  readonly holders: ReadonlyMap<FileId, readonly number[]>
  /** Processes that could not be looked into; none with root's rights. */
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
    let descriptors: string[]
    try {
      descriptors = await readdir(directory)
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'EACCES') hidden.push(pid)
      continue
    }
    await Promise.all(descriptors.map(async (fd) => add(await fileId(join(directory, fd)), pid)))
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
