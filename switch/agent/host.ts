// What all of the agent's work shares: this host's identity, ports, machines, store and datapath, and the epochs that must
// never go back.

import type { Logger } from 'pino'
import type { Datapath } from '../datapath/datapath.js'
import type { Ports } from '../ports.js'
import type { DiskRecords } from './disks/records.js'
import type { HostRecords } from './host-records.js'
import type { Journal } from './journal.js'
import type { LocalStore } from './local-store.js'
import type { Machines } from './machines.js'
import type { UnreadFrames } from './unread.js'

export interface Host {
  readonly name: string
  readonly version: string
  readonly datapath: Datapath
  readonly ports: Ports
  readonly machines: Machines
  readonly store: LocalStore
  readonly records: HostRecords
  readonly journal: Journal
  readonly disks: DiskRecords
  readonly unread: UnreadFrames
  readonly epochs: Epochs
  readonly log: Logger
}

/**
 * The highest epoch ever used per network, and that of its last restore: the fence, below which colors are of a former
 * incarnation. Both are on disk before any port knows of them, and never go back.
 */
export class Epochs {
  private readonly records: HostRecords
  private readonly known: Map<string, number>
  private readonly durable: Map<string, number>
  private readonly fences: Map<string, number>

  private constructor(records: HostRecords, known: Map<string, number>, fences: Map<string, number>) {
    this.records = records
    this.known = known
    this.durable = new Map(known)
    this.fences = fences
  }

  static async open(records: HostRecords): Promise<Epochs> {
    return new Epochs(records, await records.readEpochs(), await records.readFences())
  }

  get(network: string): number {
    return this.known.get(network) ?? 0
  }

  fence(network: string): number {
    return this.fences.get(network) ?? 0
  }

  /** Returns when the epoch is on disk, whoever has asked for it first. */
  async raise(network: string, epoch: number): Promise<void> {
    if (epoch <= (this.durable.get(network) ?? 0)) return
    this.known.set(network, Math.max(epoch, this.get(network)))
    await this.records.writeEpochs(this.known)
    this.durable.set(network, Math.max(epoch, this.durable.get(network) ?? 0))
  }

  /** The same for the epoch of a restore. */
  async raiseFence(network: string, epoch: number): Promise<void> {
    await this.raise(network, epoch)
    this.fences.set(network, Math.max(epoch, this.fence(network)))
    await this.records.writeFences(this.fences)
  }
}
