// Image files that lie in the state directory: overlays of restored machines, and copies of other hosts' files.

import { readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { endedMark, wholeMark } from '../../../src/hypervisor/shared/whole.js'
import { fileId, openFiles } from '../../../src/linux/open-files.js'
import { fileTimeMs } from '../../../src/runtime/clock.js'
import { released } from '../images.js'
import { type LocalStore, leftBehind } from '../local-store.js'

/** No transfer stands still for so long. */
const TRANSFER_MS = 3_600_000

export interface FetchedFile {
  readonly path: string
  /** Why it is to stay though nobody uses it; null when nothing speaks for that. */
  readonly reason: string | null
}

export async function fetchedFiles(store: LocalStore): Promise<FetchedFile[]> {
  const found: FetchedFile[] = []
  const images = join(store.state, 'images')
  for (const path of await filesIn(images)) found.push({ path, reason: await whyKept(path) })
  for (const { network, snapshot } of await store.snapshots()) {
    const paths = await filesIn(join(store.directory(network, snapshot), 'files'))
    const isOver = paths.some((path) => path.endsWith(`/${leftBehind}`))
    for (const path of paths) {
      if (path.endsWith(`/${leftBehind}`)) continue
      found.push({ path, reason: isOver ? null : copyFor(network, snapshot) })
    }
  }
  return found
}

export const copyFor = (network: string, snapshot: string) => `it is a copy for restores of ${network}/${snapshot}`

/**
 * Copies are for restores, and keep a snapshot alive whose host is lost: until the coordinator says that no snapshot
 * has them.
 */
async function whyKept(path: string): Promise<string | null> {
  const { mtimeMs } = (await stat(path).catch(() => null)) ?? { mtimeMs: released.getTime() }
  // Of a transfer: one that a daemon which was killed has left is never finished.
  if (path.endsWith('.new')) return fileTimeMs() - mtimeMs < TRANSFER_MS ? 'it is being fetched' : null
  return mtimeMs === released.getTime() ? null : copyForRestores
}

/** A day, and more: for so long at most a flattening copies disks before a manifest names what it has made. */
const SETTLED_MS = 25 * 3_600_000

/**
 * Copies for restores that nobody is about to name, by their digests. The coordinator may say that no snapshot has
 * them.
 */
export async function settledCopies(store: LocalStore): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  for (const { path, reason } of await fetchedFiles(store)) {
    if (reason !== copyForRestores || !/^[0-9a-f]{64}$/.test(basename(path))) continue
    const { mtimeMs } = (await stat(path).catch(() => null)) ?? { mtimeMs: Number.POSITIVE_INFINITY }
    if (fileTimeMs() - mtimeMs > SETTLED_MS) found.set(basename(path), path)
  }
  return found
}

export const copyForRestores = 'it is a copy for restores of a snapshot'

/**
 * The disk images of restored machines, whether they are in use or not. What a driver keeps for itself (whole.ts) is
 * none.
 */
export async function restoredImages(store: LocalStore): Promise<{ file: string; vm: string }[]> {
  const found: { file: string; vm: string }[] = []
  for (const { directory, vm } of await machineDirectories(store)) {
    const files = await filesIn(directory)
    if (files.includes(join(directory, wholeMark))) continue
    for (const file of files) if (file.endsWith('.qcow2')) found.push({ file, vm })
  }
  return found
}

/** Directories of restored machines that hold no image any more, but sockets and logs at most. */
export async function emptyMachineDirectories(store: LocalStore): Promise<{ directory: string; vm: string }[]> {
  const found: { directory: string; vm: string }[] = []
  for (const one of await machineDirectories(store)) {
    const files = await filesIn(one.directory)
    if (files.every((file) => /\.(sock|name|log)$/.test(file))) found.push(one)
  }
  return found
}

/** Directories that hold files of their machine's driver, whatever they are called: see whole.ts. */
export async function wholeDirectories(
  store: LocalStore,
): Promise<{ directory: string; vm: string; ended: boolean }[]> {
  const found: { directory: string; vm: string; ended: boolean }[] = []
  for (const one of await machineDirectories(store)) {
    const names = (await filesIn(one.directory)).map((file) => basename(file))
    if (names.includes(wholeMark)) found.push({ ...one, ended: names.includes(endedMark) })
  }
  return found
}

/** Whether some process has a file of a directory open, at any depth. */
export async function isInUse(directory: string): Promise<boolean> {
  const names = await readdir(directory, { recursive: true }).catch(() => [])
  const ids = await Promise.all(names.map((name) => fileId(join(directory, name))))
  const { holders, hidden } = await openFiles(new Set(ids.filter((id) => id !== null)))
  return holders.size > 0 || hidden.length > 0
}

async function machineDirectories(store: LocalStore): Promise<{ directory: string; vm: string }[]> {
  const root = join(store.state, 'machines')
  const vms = await readdir(root).catch(() => [])
  const found = await Promise.all(
    vms.map(async (vm) => (await filesIn(join(root, vm))).map((directory) => ({ directory, vm }))),
  )
  return found.flat()
}

/** None when there is no such directory. */
const filesIn = async (directory: string): Promise<string[]> =>
  (await readdir(directory).catch(() => [])).map((name) => join(directory, name))
