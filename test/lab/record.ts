// What a lab has made on this machine, written down before it is made: so that it can be taken down whole, by its owner
// or by a later run whose predecessor was killed. A lab is one directory, a few namespaces, a few processes.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { deleteNamespace, listNamespaces, processesIn } from './namespaces.js'
import { end, identify, type ProcessId, runs } from './processes.js'

export interface LabRecord {
  readonly id: string
  readonly owner: ProcessId
  /** True: it outlives its owner on purpose, until it is taken down by name. */
  kept: boolean
  readonly namespaces: string[]
  /** Daemons are asked to end; guests are killed. */
  readonly daemons: ProcessId[]
  readonly guests: ProcessId[]
}

/** Not /tmp or /run, which may be memory: machine images go here too. */
export const labsBase = '/var/tmp/snapswitch-lab'
const namespacePrefix = 'snaplab-'

export const labDirectory = (id: string): string => join(labsBase, id)
export const namespaceName = (id: string, host: string): string => `${namespacePrefix}${id}-${host}`

export function newRecord(): LabRecord {
  const id = `${process.pid}${Math.floor(Math.random() * 46_656)
    .toString(36)
    .padStart(3, '0')}`
  const record = { id, owner: identify(process.pid)!, kept: false, namespaces: [], daemons: [], guests: [] }
  mkdirSync(labDirectory(id), { recursive: true, mode: 0o700 })
  save(record)
  return record
}

export function save(record: LabRecord): void {
  const file = join(labDirectory(record.id), 'record.json')
  writeFileSync(`${file}.new`, JSON.stringify(record))
  renameSync(`${file}.new`, file)
}

/** Takes a lab down, whatever is left of it. Harmless when it is gone already. */
export async function takeDown(record: LabRecord): Promise<void> {
  await end(record.guests, 0)
  await end(record.daemons, 4_000)
  const there = new Set(await listNamespaces())
  for (const namespace of record.namespaces.filter((name) => there.has(name))) {
    // Machines that a restore started are the daemon's children, not ours: their namespace tells them.
    await end(await processesIn(namespace), 0)
    await deleteNamespace(namespace)
  }
  rmSync(labDirectory(record.id), { recursive: true, force: true })
}

function read(id: string): LabRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(labDirectory(id), 'record.json'), 'utf8')) as LabRecord
  } catch {
    return undefined
  }
}

export function allRecords(): LabRecord[] {
  return existsSync(labsBase) ? readdirSync(labsBase).flatMap((id) => read(id) ?? []) : []
}

// A lab's directory is made before its namespaces and removed after them.
function hasDirectory(namespace: string): boolean {
  const id = namespace.slice(namespacePrefix.length).split('-')[0]!
  return existsSync(labDirectory(id))
}

/** Takes down what runs that were killed have left; returns what it was. Kept labs and those of living owners stay. */
export async function sweep(): Promise<string[]> {
  const stale = allRecords().filter((record) => !record.kept && !runs(record.owner))
  for (const record of stale) await takeDown(record)
  const orphans = (await listNamespaces()).filter((name) => name.startsWith(namespacePrefix) && !hasDirectory(name))
  for (const namespace of orphans) {
    await end(await processesIn(namespace), 0)
    await deleteNamespace(namespace)
  }
  return [...stale.map((record) => record.id), ...orphans]
}
