// What this daemon has under way, on disk before it touches anything, so that the next one can undo it should this one
// be killed (leftovers.ts). Where it lies: docs/reference/files.md.

import { rm, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Static, Type } from '@sinclair/typebox'
import { Name } from '../../src/api/schemas.js'
import { validator } from '../../src/api/validate.js'
import { syncFile, writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'
import { loadRecord, SpecRecord } from '../../src/hypervisor/drivers.js'
import { completeMark, namesIn } from './local-store.js'

/**
 * A machine in an unfinished snapshot: what it takes to put it right should the daemon be killed. On disk before it is
 * touched.
 */
const CutRecord = Type.Object({
  /** The capture's label: in the names of its overlays. */
  label: Type.String(),
  incarnation: Type.Union([Type.String(), Type.Null()]),
  /** How it is reached: it may not be found again before it is put right. */
  spec: Type.Optional(SpecRecord),
  /** The hypervisor's settings as they were (hypervisor.ts, HypervisorSettings). */
  settings: Type.Optional(
    Type.Object({
      capabilities: Type.Record(Type.String(), Type.Boolean()),
      parameters: Type.Record(Type.String(), Type.Unknown()),
    }),
  ),
  /** Disks as they were. */
  disks: Type.Array(
    Type.Object({
      name: Type.String(),
      layers: Type.Array(
        Type.Object({
          file: Type.String(),
          format: Type.Union([Type.Literal('qcow2'), Type.Literal('raw')]),
          dataFile: Type.Optional(Type.String()),
        }),
      ),
    }),
  ),
})
export type CutRecord = Static<typeof CutRecord>

export interface UnfinishedSnapshot {
  readonly network: string
  readonly snapshot: string
  /** `mayBePaused`: it ran when the record was made, and nobody has seen it run since its cut. */
  readonly machines: readonly { readonly vm: string; readonly record: CutRecord; readonly mayBePaused: boolean }[]
}

/** A restore that has begun to load and is not over. */
export const RestoreRecord = Type.Object({
  network: Name,
  snapshot: Name,
  /** Whether the machines had been told to run: all hosts had loaded. */
  resuming: Type.Boolean(),
  machines: Type.Array(loadRecord({ vm: Name })),
  /** Ports that were to be added. */
  ports: Type.Array(Type.Object({ name: Name, vm: Name })),
  /** TAPs that were to be made. */
  taps: Type.Array(Type.Object({ device: Type.String(), vm: Name })),
  /** TAPs that may stand in for others until former machines have ended. */
  standIns: Type.Optional(Type.Array(Type.Object({ vm: Name, device: Type.String(), name: Type.String() }))),
  /** Machines that run, and stand still until they are ended or the restore is called off. */
  formers: Type.Optional(
    Type.Array(Type.Object({ vm: Name, incarnation: Type.Union([Type.String(), Type.Null()]), spec: SpecRecord })),
  ),
})
export type RestoreRecord = Static<typeof RestoreRecord>

/** One of these is there: the snapshot was finished. */
const finished = ['part.json', 'part.removing.json', completeMark]

const fits = { cut: validator(CutRecord), restore: validator(RestoreRecord) }

export class Journal {
  readonly #state: string

  constructor(state: string) {
    this.#state = state
  }

  /** Call before a machine is touched. */
  writeCut(network: string, snapshot: string, vm: string, record: CutRecord): Promise<void> {
    return writeDurable(join(this.#cutDirectory(network, snapshot, vm), 'cut.json'), JSON.stringify(record))
  }

  /**
   * Call once a machine runs again: whoever pauses it from now on means to. It need not survive the host, which ends
   * machines.
   */
  async noteResumed(network: string, snapshot: string, vm: string): Promise<void> {
    await writeFile(join(this.#cutDirectory(network, snapshot, vm), 'resumed'), '')
  }

  /** Call when a machine could not be put right, since it stands still, say: its record is kept until it is undone. */
  async noteStuck(network: string, snapshot: string, vm: string): Promise<void> {
    await writeDurable(join(this.#cutDirectory(network, snapshot, vm), 'stuck'), '')
  }

  /** Whether some machine of an unfinished snapshot is not put right yet. */
  async hasStuck(network: string, snapshot: string): Promise<boolean> {
    const vms = await namesIn(join(this.#directory(network, snapshot), 'vms'))
    const notes = await Promise.all(vms.map((vm) => namesIn(this.#cutDirectory(network, snapshot, vm))))
    return notes.some((names) => names.includes('stuck'))
  }

  /** Snapshots that were begun and have never had a part.json. What cannot be read is left out. */
  async unfinished(): Promise<UnfinishedSnapshot[]> {
    const found: UnfinishedSnapshot[] = []
    for (const network of await namesIn(join(this.#state, 'snapshots'))) {
      for (const snapshot of await namesIn(join(this.#state, 'snapshots', network))) {
        const names = await namesIn(this.#directory(network, snapshot))
        if (names.some((name) => finished.includes(name)) || !names.includes('vms')) continue
        const machines = []
        for (const vm of await namesIn(join(this.#directory(network, snapshot), 'vms'))) {
          const directory = this.#cutDirectory(network, snapshot, vm)
          const record = await readJson(join(directory, 'cut.json'), fits.cut).catch(() => null)
          const mayBePaused = !(await namesIn(directory)).includes('resumed')
          if (record !== null) machines.push({ vm, record, mayBePaused })
        }
        found.push({ network, snapshot, machines })
      }
    }
    return found
  }

  /** What a restore has fetched stays: machines may stand on it. */
  async removeUnfinished(network: string, snapshot: string): Promise<void> {
    const directory = this.#directory(network, snapshot)
    for (const name of await namesIn(directory)) {
      if (name !== 'files') await rm(join(directory, name), { recursive: true, force: true })
    }
    await rmdir(directory).catch(() => undefined)
  }

  async restores(): Promise<RestoreRecord[]> {
    const found = []
    for (const name of await namesIn(join(this.#state, 'restores'))) {
      const record = name.endsWith('.json') ? await readJson(join(this.#state, 'restores', name), fits.restore) : null
      if (record !== null) found.push(record)
    }
    return found
  }

  writeRestore(record: RestoreRecord): Promise<void> {
    return writeDurable(join(this.#state, 'restores', `${record.network}.json`), JSON.stringify(record, null, 2))
  }

  async removeRestore(network: string): Promise<void> {
    const directory = join(this.#state, 'restores')
    await rm(join(directory, `${network}.json`), { force: true })
    // Or it might come back after a power failure, when the machines have run for long.
    await syncFile(directory)
  }

  #directory(network: string, snapshot: string): string {
    return join(this.#state, 'snapshots', network, snapshot)
  }

  #cutDirectory(network: string, snapshot: string, vm: string): string {
    return join(this.#directory(network, snapshot), 'vms', vm)
  }
}
