// What the agent's work shares: this host's identity, ports, machines, store and datapath, and the epochs that must
// never go back.

import type { EventEmitter } from 'node:events'
import type { Logger } from 'pino'
import type { coordinatorOf } from '../../src/api/embedded.js'
import type { Clock } from '../../src/runtime/clock.js'
import type { Datapath, DatapathEvents } from '../datapath/datapath.js'
import type { PortMachines } from '../discovery/port-machines.js'
import type { Ports } from '../ports/ports.js'
import type { UnreadFrames } from '../ports/unread.js'
import type { DiskRecords } from './disks/records.js'
import type { HostRecords } from './host-records.js'
import type { Images } from './images.js'
import type { Journal } from './journal.js'
import type { LocalStore } from './local-store.js'
import type { Machines } from './machines.js'
import type { Taps } from './restore/taps.js'

/** The process's share of the machine that it runs on. */
export interface Processor {
  readonly cores: number
  /** Those threads run before everything ordinary, for so long at most; the answer ends it (src/linux/priority.ts). */
  runAhead(threads: readonly number[], limitMs: number): () => void
  /** Now, so that it does not happen in the cut (src/runtime/engine.ts). */
  collectGarbage(): void
  /** Bytes of memory that can be had; null where nobody tells. */
  availableMemory(): number | null
}

/**
 * All that snapshots and restores do, they do through this: what they decide is the same wherever it is performed. The
 * daemon has the real ones; those of test/simulation are made up.
 */
export interface Host {
  readonly name: string
  readonly version: string
  readonly clock: Clock
  readonly processor: Processor
  readonly datapath: Pick<
    Datapath,
    'call' | 'counters' | 'thread' | 'bootId' | 'restarts' | 'rememberEpoch' | 'rememberFence'
  > &
    Pick<EventEmitter<DatapathEvents>, 'on'>
  readonly ports: Pick<
    Ports,
    | 'all'
    | 'get'
    | 'byIndex'
    | 'ofMachine'
    | 'membersOf'
    | 'machinesOf'
    | 'add'
    | 'change'
    | 'remove'
    | 'takeBack'
    | 'replaceDevice'
    | 'ensureTap'
    | 'removeTap'
    | 'hasDevice'
    | 'isTapHeld'
    | 'outside'
    | 'record'
    | 'problemsOf'
  >
  readonly machines: Pick<
    Machines,
    'attach' | 'using' | 'knownAs' | 'isThere' | 'examine' | 'load' | 'endLoad' | 'spec' | 'set' | 'delete' | 'moved'
  >
  readonly store: Pick<
    LocalStore,
    | 'create'
    | 'remove'
    | 'machineImages'
    | 'writeFile'
    | 'writePieces'
    | 'readFile'
    | 'reference'
    | 'writePart'
    | 'readPart'
    | 'parts'
    | 'freeBytes'
    | 'freeMachineDirectory'
    | 'makeMachineDirectory'
    | 'removeMachineDirectory'
  > & { readonly images: Pick<Images, 'finder' | 'release' | 'share'> }
  readonly records: Pick<HostRecords, 'writeMoves'>
  readonly journal: Pick<
    Journal,
    | 'writeCut'
    | 'noteResumed'
    | 'noteStuck'
    | 'unfinished'
    | 'removeUnfinished'
    | 'restores'
    | 'writeRestore'
    | 'removeRestore'
  >
  readonly disks: Pick<DiskRecords, 'chains' | 'learn' | 'noteOrigins' | 'noteMade' | 'made' | 'replace' | 'moveAway'>
  readonly unread: Pick<UnreadFrames, 'of' | 'emptied'>
  /** Frames that a gate lets out at once, and that may lie unread in a TAP when it does. */
  readonly portion: number
  /** Bound of a recording. */
  readonly recordedEvents: number
  /** Bound of a run that is recorded beside it, in bytes of memory; 0: none is. */
  readonly recordedBytes: number
  readonly epochs: Epochs
  /** For one restore. */
  readonly restoreTaps: () => Taps
  readonly log: Logger
}

/** The daemon's. */
export interface DaemonHost extends Host {
  readonly datapath: Datapath
  readonly ports: Ports
  readonly machines: Machines
  readonly store: LocalStore
  readonly records: HostRecords
  readonly journal: Journal
  readonly disks: DiskRecords
  readonly unread: UnreadFrames
  readonly holders: Pick<PortMachines, 'of' | 'undriven'>
  /** The one that serves this host, as the configuration says. */
  readonly coordinator: ReturnType<typeof coordinatorOf>
}

type EpochRecords = Pick<HostRecords, 'readEpochs' | 'readFences' | 'writeEpochs' | 'writeFences'>

/**
 * The highest epoch ever used per network, and that of its last restore: the fence, below which colors are of a former
 * incarnation. Both are on disk before any port knows of them, and never go back.
 */
export class Epochs {
  readonly #records: EpochRecords
  readonly #known: Map<string, number>
  readonly #durable: Map<string, number>
  readonly #fences: Map<string, number>

  private constructor(records: EpochRecords, known: Map<string, number>, fences: Map<string, number>) {
    this.#records = records
    this.#known = known
    this.#durable = new Map(known)
    this.#fences = fences
  }

  static async open(records: EpochRecords): Promise<Epochs> {
    return new Epochs(records, await records.readEpochs(), await records.readFences())
  }

  get(network: string): number {
    return this.#known.get(network) ?? 0
  }

  fence(network: string): number {
    return this.#fences.get(network) ?? 0
  }

  /** Returns when the epoch is on disk, whoever has asked for it first. */
  async raise(network: string, epoch: number): Promise<void> {
    if (epoch <= (this.#durable.get(network) ?? 0)) return
    this.#known.set(network, Math.max(epoch, this.get(network)))
    await this.#records.writeEpochs(this.#known)
    this.#durable.set(network, Math.max(epoch, this.#durable.get(network) ?? 0))
  }

  /** The same for the epoch of a restore. */
  async raiseFence(network: string, epoch: number): Promise<void> {
    await this.raise(network, epoch)
    this.#fences.set(network, Math.max(epoch, this.fence(network)))
    await this.#records.writeFences(this.#fences)
  }
}
