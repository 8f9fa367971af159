// Whether the files of snapshots are on this host as they were: by a look at their sizes, or by reading them. Changes
// nothing.

import { stat } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { distinctFiles, filesOf } from '../../src/api/files.js'
import type { FileFault, FileReference, FilesFound, HostHealth } from '../../src/api/schemas.js'
import type { Look } from './images.js'
import type { LocalStore } from './local-store.js'

/** Faults of one part that are told. */
const FAULTS_TOLD = 20

/** Which of these files are nowhere on this host. What a disk that hangs keeps from being looked at is `unchecked`. */
export async function findFaults(
  store: LocalStore,
  files: readonly FileReference[],
  look: Look,
  deadline: number,
): Promise<FilesFound> {
  const find = await store.images.finder(look)
  return faultsOf(distinctFiles(files), find, deadline)
}

type Find = (file: FileReference) => Promise<string | null>

async function faultsOf(files: readonly FileReference[], find: Find, deadline: number): Promise<FilesFound> {
  const faults: FileFault[] = []
  for (const [at, file] of files.entries()) {
    if (performance.now() >= deadline) return { faults, unchecked: files.length - at }
    const fault = await inTime(
      find(file).then((path) => (path === null ? faultOf(file) : null)),
      deadline,
    )
    if (fault === late) return { faults, unchecked: files.length - at }
    if (fault !== null) faults.push(fault)
  }
  return { faults, unchecked: 0 }
}

const late = Symbol('late')

async function inTime<T>(work: Promise<T>, deadline: number): Promise<T | typeof late> {
  work.catch(() => undefined)
  const ended = new AbortController()
  try {
    const timer = pause(Math.max(0, deadline - performance.now()), late, { signal: ended.signal, ref: false })
    return await Promise.race([work, timer])
  } finally {
    ended.abort()
  }
}

/** What is wrong with a file where it ought to be. */
async function faultOf(file: FileReference): Promise<FileFault> {
  try {
    const here = await stat(file.path)
    if (!here.isFile()) return { file, fault: 'changed', detail: 'it is no file any more' }
    const detail =
      here.size === file.bytes ? 'its content has changed' : `it has ${here.size} bytes, and had ${file.bytes}`
    return { file, fault: 'changed', detail }
  } catch (thrown) {
    const code = (thrown as NodeJS.ErrnoException).code ?? String(thrown)
    if (code === 'ENOENT' || code === 'ENOTDIR') return { file, fault: 'missing', detail: 'it is not there' }
    return { file, fault: 'unreadable', detail: code }
  }
}

/** All parts of a network that are here, by a quick look; those that there is no time for are unchecked. */
export async function networkHealth(store: LocalStore, network: string, deadline: number): Promise<HostHealth> {
  const parts = (await store.parts()).filter((part) => part.network === network)
  const find = await store.images.finder('size')
  const found: HostHealth['parts'] = []
  for (const part of parts) {
    const { faults, unchecked } = await faultsOf(distinctFiles(filesOf(part)), find, deadline)
    found.push({
      snapshot: part.snapshot,
      epoch: part.epoch,
      faults: faults.slice(0, FAULTS_TOLD),
      faultCount: faults.length,
      unchecked,
    })
  }
  return { parts: found }
}
