// The control thread's handle on the datapath: typed commands with deadlines, events, and a restart with the same ports
// when the worker fails. Frames keep flowing whatever the control thread does, and the other way round.

import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { Worker } from 'node:worker_threads'
import { SnapswitchError } from '../../src/errors/errors.js'
import { libc } from '../../src/linux/libc.js'
import { nowMs } from '../../src/runtime/clock.js'
import { type CounterTable, createCounters, ROW } from '../forwarding/counters.js'
import type { NetworkOptions } from '../forwarding/network.js'
import type { DeviceState } from '../forwarding/port-state.js'
import type {
  CommandName,
  Commands,
  DatapathEvent,
  FromWorker,
  PollMode,
  Request,
  Start,
  WorkerInput,
} from './protocol.js'

const COMMAND_DEADLINE_MS = 5000
const EFD_NONBLOCK_CLOEXEC = 0o2004000
/** A worker that fails more often than this within a minute is not started again: something is wrong beyond repair. */
const RESTARTS_PER_MINUTE = 5

export interface DatapathOptions {
  readonly poll: PollMode
  readonly spinUs: number
}

interface Pending {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}

/** A network as its owner describes it; the boot id is the datapath's. */
export interface NetworkArgs {
  readonly options: Omit<NetworkOptions, 'bootId' | 'bootedAt'>
  readonly epoch: number
  /** Colors below it are of a former incarnation of the network. */
  readonly fence: number
}

const newBootId = () => randomBytes(8).toString('hex')

export interface DatapathEvents {
  event: [DatapathEvent]
  /** The worker failed and was started anew: open snapshots are lost, ports and networks are back. */
  restarted: [Error]
  /** A port could not be opened again after a restart: its device is gone, perhaps. */
  lost: [port: number, Error]
  /** The worker cannot be kept alive. */
  dead: [Error]
}

export class Datapath extends EventEmitter<DatapathEvents> {
  readonly counters: CounterTable = createCounters()
  restarts = 0
  /** 16 hex digits, new with every start of the worker: peers' counts begin anew with it. */
  bootId = newBootId()
  private bootedAt = Math.round(nowMs())
  /** The worker's thread id. */
  thread = 0
  private readonly options: DatapathOptions
  private readonly wakeFd: number
  private readonly wakeOne = new Uint8Array(new BigUint64Array([1n]).buffer)
  private readonly pending = new Map<number, Pending>()
  private worker: Worker | null = null
  private nextId = 1
  private stopping = false
  private readonly restartTimes: number[] = []
  /** What a new worker is told first: the networks and ports that exist, with the highest epoch seen. */
  private readonly networks = new Map<string, NetworkArgs>()
  private readonly ports = new Map<number, Commands['addPort']['args']>()

  constructor(options: DatapathOptions) {
    super()
    this.options = options
    this.wakeFd = libc().eventfd(0, EFD_NONBLOCK_CLOEXEC)
  }

  async start(): Promise<void> {
    const input: WorkerInput = {
      counters: this.counters.buffer as SharedArrayBuffer,
      wakeFd: this.wakeFd,
      poll: this.options.poll,
      spinUs: this.options.spinUs,
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: input, name: 'datapath' })
    this.worker = worker
    let failure: Error = new Error('the datapath worker ended')
    worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error))
    })
    await new Promise<void>((resolve, reject) => {
      let ready = false
      worker.once('exit', () => {
        if (ready) return void this.workerEnded(worker, failure)
        this.worker = null
        reject(failure)
      })
      worker.on('message', (message: FromWorker) => {
        if (message.kind === 'unable') {
          failure = SnapswitchError.fromReport(message.error)
          return
        }
        if (message.kind !== 'ready') return this.take(message)
        ready = true
        this.thread = message.thread
        resolve()
      })
    })
  }

  /** Sends a command; rejects with what the worker refused, DEADLINE, or INTERNAL when the worker ends meanwhile. */
  call<K extends CommandName>(name: K, args: Commands[K]['args']): Promise<Commands[K]['result']> {
    return new Promise((resolve, reject) => {
      const { worker } = this
      if (worker === null) return reject(ended(null))
      const id = this.nextId++
      const timer = setTimeout(() => {
        this.pending.delete(id)
        reject(new SnapswitchError('DEADLINE', `the datapath did not answer ${name} in time`, 'See the daemon’s log.'))
      }, COMMAND_DEADLINE_MS)
      this.pending.set(id, { resolve: resolve as (result: unknown) => void, reject, timer })
      const request: Request<K> = { id, name, args }
      worker.postMessage(request)
      libc().write(this.wakeFd, this.wakeOne, 8)
    })
  }

  async addNetwork(args: NetworkArgs): Promise<void> {
    await this.sendNetwork(args)
    this.networks.set(args.options.network, args)
  }

  async addPort(args: Commands['addPort']['args']): Promise<void> {
    this.clearCounters(args.spec.index)
    await this.call('addPort', args)
    // A worker that is started again opens its gates: what waited behind them is gone, and the restore is called off.
    this.ports.set(args.spec.index, { ...args, spec: { ...args.spec, gated: false } })
  }

  /** The device under a port has changed; a worker that is started again hears of it as it is then. */
  async portChanged(network: string, index: number, device: DeviceState): Promise<void> {
    const known = this.ports.get(index)
    if (known !== undefined) {
      const { spec } = known
      const { mac, mtu, queueLength } = device
      const uplink = spec.uplink === undefined ? {} : { uplink: { ...spec.uplink, mtu } }
      this.ports.set(index, { ...known, spec: { ...spec, mac, queueLength, ...uplink } })
    }
    await this.call('portChanged', { network, index, device })
  }

  async removePort(network: string, index: number): Promise<void> {
    this.ports.delete(index)
    await this.call('removePort', { network, index })
  }

  /** Remembers the highest epoch of a network, so that a restarted worker never goes back. */
  rememberEpoch(network: string, epoch: number): void {
    const known = this.networks.get(network)
    if (known === undefined || known.epoch >= epoch) return
    this.networks.set(network, { ...known, epoch })
    for (const [index, args] of this.ports) {
      if (args.network === network) this.ports.set(index, { ...args, spec: { ...args.spec, epoch } })
    }
  }

  /** Remembers the epoch of the last restore: what is older is stopped by a restarted worker, too. */
  rememberFence(network: string, fence: number): void {
    const known = this.networks.get(network)
    if (known !== undefined && known.fence < fence) this.networks.set(network, { ...known, fence })
  }

  async stop(): Promise<void> {
    this.stopping = true
    const worker = this.worker
    if (worker === null) return
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    await this.call('stop', null).catch(() => undefined)
    await Promise.race([ended, worker.terminate()])
  }

  private take(message: Exclude<FromWorker, Start>): void {
    if (message.kind !== 'reply' && message.kind !== 'refusal') {
      this.emit('event', message)
      return
    }
    const pending = this.pending.get(message.id)
    if (pending === undefined) return
    this.pending.delete(message.id)
    clearTimeout(pending.timer)
    if (message.kind === 'reply') pending.resolve(message.result)
    else pending.reject(SnapswitchError.fromReport(message.error))
  }

  private async workerEnded(worker: Worker, failure: Error): Promise<void> {
    if (this.worker !== worker) return
    this.worker = null
    for (const { reject, timer } of this.pending.values()) {
      clearTimeout(timer)
      reject(ended(failure))
    }
    this.pending.clear()
    if (this.stopping) return
    const now = performance.now()
    this.restartTimes.push(now)
    while (now - this.restartTimes[0] > 60_000) this.restartTimes.shift()
    if (this.restartTimes.length > RESTARTS_PER_MINUTE) {
      this.emit('dead', failure)
      return
    }
    try {
      await this.start()
      this.bootId = newBootId()
      this.bootedAt = Math.round(nowMs())
      for (const args of this.networks.values()) await this.sendNetwork(args)
      for (const [index, args] of this.ports) {
        try {
          await this.call('addPort', args)
        } catch (error) {
          if (this.worker === null) throw error
          this.ports.delete(index)
          this.emit('lost', index, error as Error)
        }
      }
      this.restarts++
      this.emit('restarted', failure)
    } catch (error) {
      this.emit('dead', error instanceof Error ? error : new Error(String(error)))
    }
  }

  private sendNetwork({ options, epoch, fence }: NetworkArgs): Promise<null> {
    return this.call('addNetwork', {
      options: { ...options, bootId: this.bootId, bootedAt: this.bootedAt },
      epoch,
      fence,
    })
  }

  private clearCounters(index: number): void {
    this.counters.fill(0, index * ROW, (index + 1) * ROW)
  }
}

function ended(cause: Error | null): SnapswitchError {
  return new SnapswitchError(
    'INTERNAL',
    'the datapath worker ended',
    'It is being restarted; see the daemon’s log.',
    cause ?? undefined,
  )
}
