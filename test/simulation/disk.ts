// A host's disk, and how its daemon writes to it: what is written is there when the answer comes, or not at all when
// the daemon is killed first. What switch/agent/local-store.ts, journal.ts and host-records.ts keep in files.

import type { LocalPart } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Host as AgentHost } from '../../switch/agent/host.js'
import type { HostRecords, Moves } from '../../switch/agent/host-records.js'
import type { CutRecord, RestoreRecord } from '../../switch/agent/journal.js'
import type { Daemon } from './daemon.js'
import { networkName, waysOf } from './networks.js'
import type { World } from './world.js'

const STORE = 41

interface Unfinished {
  readonly network: string
  readonly machines: Map<string, { readonly record: CutRecord; resumed: boolean }>
}

export class Disk {
  epochs: ReadonlyMap<string, number>
  fences: ReadonlyMap<string, number> = new Map()
  moves: Moves = { machines: {}, ports: [], gone: [] }
  /** By snapshot, whose names are the world's. */
  readonly parts = new Map<string, LocalPart>()
  readonly unfinished = new Map<string, Unfinished>()
  /** By network. */
  readonly restores = new Map<string, RestoreRecord>()
  /** Digests of files that are whole. */
  readonly files = new Set<string>()

  constructor(world: World) {
    this.epochs = new Map(
      world.networks.map((network) => [networkName(network), waysOf(world.scenario, network).epoch]),
    )
  }
}

export class DiskDrive {
  readonly store: AgentHost['store']
  readonly journal: AgentHost['journal']
  readonly records: Pick<HostRecords, 'readEpochs' | 'readFences' | 'writeEpochs' | 'writeFences' | 'writeMoves'>
  readonly #daemon: Daemon
  readonly #disk: Disk
  #writes = 0
  #directories = 0
  /** Records are written one after the other. */
  #lastRecord: Promise<unknown> = Promise.resolve()

  constructor(daemon: Daemon) {
    this.#daemon = daemon
    this.#disk = daemon.host.disk
    this.store = this.#makeStore()
    this.journal = this.#makeJournal()
    const inTurn = (write: () => () => void) => {
      const written = this.#lastRecord.then(() => this.durably(write()))
      this.#lastRecord = written.catch(() => undefined)
      return written
    }
    const disk = this.#disk
    this.records = {
      readEpochs: async () => new Map(disk.epochs),
      readFences: async () => new Map(disk.fences),
      writeEpochs: (epochs) =>
        inTurn(() => {
          const copy = new Map(epochs)
          return () => {
            disk.epochs = copy
          }
        }),
      writeFences: (fences) =>
        inTurn(() => {
          const copy = new Map(fences)
          return () => {
            disk.fences = copy
          }
        }),
      writeMoves: (moves) =>
        inTurn(() => {
          const copy = moves()
          return () => {
            disk.moves = copy
          }
        }),
    }
  }

  /** `write` happens at some point before the answer. */
  durably(write: () => void): Promise<void> {
    const { world, host } = this.#daemon
    const wait = world.wait(STORE, host.index, this.#writes++, world.scenario.pace.store)
    return this.#daemon.answer((done) =>
      this.#daemon.after(wait, () => {
        world.step(host)
        write()
        this.#daemon.after(0, () => done(undefined))
      }),
    )
  }

  #makeStore(): DiskDrive['store'] {
    const daemon = this.#daemon
    const disk = this.#disk
    const { world, host } = daemon
    const writeFile = async (snapshot: string, name: string, content: Uint8Array) => {
      const digest = `${name} ${snapshot} ${host.name}`
      await this.durably(() => world.contents.set(digest, content))
      return { path: digest, bytes: content.length, digest }
    }
    return {
      create: async (network, snapshot) => {
        if (disk.parts.has(snapshot)) throw new SnapswitchError('SNAPSHOT_EXISTS', snapshot, 'None.')
        await this.durably(() => disk.unfinished.set(snapshot, { network, machines: new Map() }))
      },
      remove: (_network, snapshot) =>
        this.durably(() => {
          disk.parts.delete(snapshot)
          disk.unfinished.delete(snapshot)
          for (const file of disk.files) if (file.includes(` ${snapshot} `)) disk.files.delete(file)
        }),
      machineImages: (network, snapshot, vm) => `${network}/${snapshot}/${vm}`,
      writeFile: (_network, snapshot, name, content) => writeFile(snapshot, name, Buffer.from(content as Uint8Array)),
      writePieces: (_network, snapshot, name, pieces) => writeFile(snapshot, name, Buffer.concat([...pieces])),
      readFile: async (path) => world.contents.get(path) as Uint8Array,
      reference: async (path) => {
        throw new Error(`${path} is no file of a machine here`)
      },
      writePart: (part) =>
        this.durably(() => {
          disk.parts.set(part.snapshot, part)
          disk.unfinished.delete(part.snapshot)
          disk.files.add(part.channel.digest)
          for (const { memory } of part.members) disk.files.add(memory.digest)
          world.note(host.name, `part e${part.epoch} written`)
        }),
      readPart: async (_network, snapshot) => disk.parts.get(snapshot) ?? null,
      parts: async () => [...disk.parts.values()],
      freeBytes: async () => Number.MAX_SAFE_INTEGER,
      freeMachineDirectory: async (vm, epoch) => `${host.name}/${vm}/e${epoch}/${daemon.boot}.${this.#directories++}`,
      makeMachineDirectory: async () => undefined,
      removeMachineDirectory: async () => undefined,
      images: {
        finder: async () => async (file) => (disk.files.has(file.digest) ? file.digest : null),
        release: async () => undefined,
        share: async (path) => path,
      },
    }
  }

  #makeJournal(): DiskDrive['journal'] {
    const { unfinished, restores } = this.#disk
    return {
      writeCut: (_network, snapshot, vm, record) =>
        this.durably(() => unfinished.get(snapshot)?.machines.set(vm, { record, resumed: false })),
      noteResumed: (_network, snapshot, vm) =>
        this.durably(() => {
          const machine = unfinished.get(snapshot)?.machines.get(vm)
          if (machine !== undefined) machine.resumed = true
        }),
      // The record of a cut stays in any case until the machine has been put right.
      noteStuck: async () => undefined,
      unfinished: async () =>
        [...unfinished].map(([snapshot, { network, machines }]) => ({
          network,
          snapshot,
          machines: [...machines].map(([vm, { record, resumed }]) => ({ vm, record, mayBePaused: !resumed })),
        })),
      removeUnfinished: (_network, snapshot) => this.durably(() => unfinished.delete(snapshot)),
      restores: async () => [...restores.values()],
      writeRestore: (record) => this.durably(() => restores.set(record.network, record)),
      removeRestore: (network) => this.durably(() => restores.delete(network)),
    }
  }
}
