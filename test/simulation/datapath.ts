// A daemon's handle on its datapath worker, as switch/datapath/datapath.ts: commands with answers, events, and what a
// new worker is told when one has failed.

import { EventEmitter } from 'node:events'
import type { DatapathEvents } from '../../switch/datapath/datapath.js'
import type { CommandName, Commands } from '../../switch/datapath/protocol.js'
import { ROW } from '../../switch/forwarding/counters.js'
import { type Daemon, ended } from './daemon.js'
import type { Nic } from './guest.js'
import { networkName } from './networks.js'
import { portCount } from './trunk.js'

export class VirtualDatapath extends EventEmitter<DatapathEvents> {
  readonly counters: Float64Array
  readonly thread = 0
  restarts = 0
  bootId = ''
  readonly #daemon: Daemon
  readonly #epochs = new Map<string, number>()
  readonly #fences = new Map<string, number>()

  constructor(daemon: Daemon) {
    super()
    this.#daemon = daemon
    const { world } = daemon
    this.counters = new Float64Array(portCount(world.networks.length) * ROW)
    world.counters.push(this.counters)
  }

  call<K extends CommandName>(name: K, args: Commands[K]['args']): Promise<Commands[K]['result']> {
    return this.#command(name, (worker) => worker.perform(name, args))
  }

  addPort(network: string, nic: Nic, epoch: number, gated: boolean): Promise<void> {
    return this.#command('addPort', (worker) => {
      worker.addMember(nic, epoch)
      if (gated) worker.network(network).snapshots.gate([nic.index], worker.now, true)
    })
  }

  rememberEpoch(network: string, epoch: number): void {
    this.#epochs.set(network, Math.max(epoch, this.#epochs.get(network) ?? 0))
  }

  rememberFence(network: string, fence: number): void {
    this.#fences.set(network, Math.max(fence, this.#fences.get(network) ?? 0))
  }

  epochOf(network: number): number {
    return this.#epochs.get(networkName(network)) ?? 0
  }

  fenceOf(network: number): number {
    return this.#fences.get(networkName(network)) ?? 0
  }

  hasRestarted(): void {
    this.restarts++
    this.emit('restarted', new Error('the datapath worker ended'))
  }

  #command<T>(name: string, run: (worker: NonNullable<Daemon['worker']>) => T): Promise<T> {
    const { worker } = this.#daemon
    return this.#daemon.answer((done, failed) => {
      if (worker === null) failed(ended('there is no datapath worker yet'))
      else
        worker.call(
          name,
          () => run(worker),
          done,
          (reason) => failed(ended(reason)),
        )
    })
  }
}
