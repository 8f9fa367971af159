// The control thread's handle on the datapath: typed commands with deadlines, events, and a restart with the same ports
// when the worker fails. Frames keep flowing whatever the control thread does, and the other way round.

import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { Worker } from 'node:worker_threads'
import { SnapswitchError } from '../../src/errors/errors.js'
import { libc } from '../../src/linux/libc.js'
import { news, tellsOfAll } from '../../src/linux/news.js'
import type { PortSockets } from '../../src/linux/port-sockets.js'
import { beatSoon, tellsOfNews } from '../../src/runtime/beat.js'
import { nowMs } from '../../src/runtime/clock.js'
import { type CounterTable, createCounters, ROW } from '../forwarding/counters.js'
import type { NetworkOptions, NetworkSettings } from '../forwarding/network.js'
import type { DeviceState } from '../forwarding/port-state.js'
import { FastPathControl } from './fast-path.js'
import type {
  CommandName,
  Commands,
  DatapathEvent,
  FastPathMode,
  FromWorker,
  Polling,
  Request,
  Start,
  WorkerInput,
} from './protocol.js'
import { WorkerSockets } from './worker-sockets.js'

const COMMAND_DEADLINE_MS = 5000
const STOP_DEADLINE_MS = 2000
const EFD_NONBLOCK_CLOEXEC = 0o2004000
/** A worker that fails more often than this within a minute is not started again: something is wrong beyond repair. */
const RESTARTS_PER_MINUTE = 5

interface Pending {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: Error) => void
}

/** A network as its owner describes it; the boot id is the datapath's. */
export interface NetworkArgs {
  readonly options: Omit<NetworkOptions, 'bootId' | 'bootedAt'>
  readonly epoch: number
  /** Colors below it are of a former incarnation of the network. */
  readonly fence: number
}

export type PortArgs = Omit<Commands['addPort']['args'], 'sockets'>

const newBootId = () => randomBytes(8).toString('hex')

export interface DatapathEvents {
  event: [DatapathEvent]
  /** The worker failed and was started anew: open snapshots are lost, ports and networks are back. */
  restarted: [Error]
  /** A port could not be opened again after a restart: its device is gone, perhaps. */
  lost: [port: number, Error]
  /** The worker cannot be kept alive. */
  dead: [Error]
  /** The fast path cannot be had, for another reason than before; null: it can now. */
  fastPath: [why: string | null]
}

export class Datapath extends EventEmitter<DatapathEvents> {
  readonly counters: CounterTable = createCounters()
  restarts = 0
  /** 16 hex digits, new with every start of the worker: peers' counts begin anew with it. */
  bootId = newBootId()
  #bootedAt = Math.round(nowMs())
  /** The worker's thread id. */
  thread = 0
  #polling: Polling
  readonly #fastPath = new FastPathControl(
    (name, args) => this.call(name, args),
    (trouble) => this.emit('fastPath', trouble),
  )
  readonly #wakeFd: number
  readonly #wakeOne = new Uint8Array(new BigUint64Array([1n]).buffer)
  readonly #pending = new Map<number, Pending>()
  #worker: Worker | null = null
  #nextId = 1
  #stopping = false
  /** A worker that has ended is being replaced: changes of ports and networks wait, or the new one might miss them. */
  #restarting: Promise<void> = Promise.resolve()
  readonly #restartTimes: number[] = []
  /** What a new worker is told first: the networks and ports that exist, with the highest epoch seen. */
  readonly #networks = new Map<string, NetworkArgs>()
  readonly #ports = new Map<number, PortArgs>()
  readonly #sockets = new WorkerSockets()

  constructor(polling: Polling) {
    super()
    this.#polling = polling
    this.#wakeFd = libc().eventfd(0, EFD_NONBLOCK_CLOEXEC)
  }

  async start(): Promise<void> {
    const input: WorkerInput = {
      oversize: await this.#sockets.openOversize(),
      counters: this.counters.buffer as SharedArrayBuffer,
      wakeFd: this.#wakeFd,
      newsFd: news().fd,
      ...this.#polling,
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: input, name: 'datapath' })
    this.#worker = worker
    let failure: Error = new Error('the datapath worker ended')
    worker.on('error', (error) => {
      failure = error instanceof Error ? error : new Error(String(error))
    })
    await new Promise<void>((resolve, reject) => {
      let ready = false
      worker.once('exit', () => {
        if (ready) this.#restarting = this.#workerEnded(worker, failure)
        else {
          this.#worker = null
          reject(failure)
        }
      })
      worker.on('message', (message: FromWorker) => {
        if (message.kind === 'unable') {
          failure = SnapswitchError.fromReport(message.error)
          return
        }
        if (message.kind !== 'ready') return this.#take(message)
        ready = true
        this.thread = message.thread
        tellsOfNews(tellsOfAll)
        resolve()
      })
    })
  }

  /**
   * Sends a command; rejects with what the worker refused, DEADLINE, or INTERNAL when the worker ends meanwhile. After
   * a DEADLINE the worker may do it yet, before whatever it is asked for next.
   */
  call<K extends CommandName>(name: K, args: Commands[K]['args']): Promise<Commands[K]['result']> {
    return inTime(name, this.ask(name, args))
  }

  /** The same, however long the answer takes. */
  ask<K extends CommandName>(name: K, args: Commands[K]['args']): Promise<Commands[K]['result']> {
    return new Promise((resolve, reject) => {
      const worker = this.#worker
      if (worker === null) return reject(ended(null))
      const id = this.#nextId++
      this.#pending.set(id, { resolve: resolve as (result: unknown) => void, reject })
      const request: Request<K> = { id, name, args }
      worker.postMessage(request)
      libc().write(this.#wakeFd, this.#wakeOne, 8)
    })
  }

  /** How it waits for frames from now on, also when it is started again. */
  async setPolling(polling: Polling): Promise<void> {
    this.#polling = polling
    await this.call('polling', polling)
  }

  get fastPath(): FastPathMode {
    return this.#fastPath.mode
  }

  /** Why there is no fast path though there is to be one; null: there is, or none is wanted. */
  get fastPathTrouble(): string | null {
    return this.#fastPath.trouble
  }

  /** Devices (indexes) at whose other end a program is that the fast path would leave out. */
  keepSlow(devices: ReadonlySet<number>): void {
    this.#fastPath.behind(devices)
  }

  /** Also when it is started again. */
  setFastPath(mode: FastPathMode): Promise<void> {
    return this.#fastPath.set(mode)
  }

  async addNetwork(args: NetworkArgs): Promise<void> {
    await this.#restarting
    const { network } = args.options
    try {
      await this.#sendNetwork(args)
    } catch (error) {
      // It is undone as soon as it is done.
      if (isLate(error)) this.ask('removeNetwork', { network }).catch(() => undefined)
      throw error
    }
    this.#networks.set(network, args)
  }

  hasNetwork(network: string): boolean {
    return this.#networks.has(network)
  }

  /** Its ports must be gone. */
  async removeNetwork(network: string): Promise<void> {
    await this.#restarting
    this.#networks.delete(network)
    await this.#takenAway(this.call('removeNetwork', { network }))
  }

  /** A worker that ends meanwhile is followed by one that has not got what it was to take away. */
  async #takenAway(answer: Promise<unknown>): Promise<void> {
    const worker = this.#worker
    try {
      await answer
    } catch (error) {
      if (this.#worker === worker) throw error
      await this.#restarting
    }
  }

  async configure(network: string, settings: NetworkSettings): Promise<void> {
    await this.#restarting
    await this.call('configure', { network, settings })
    const known = this.#networks.get(network)
    if (known !== undefined) this.#networks.set(network, { ...known, options: { ...known.options, ...settings } })
  }

  /** The port is of another kind, or another machine's; its device is the same. */
  async changePort(network: string, spec: PortArgs['spec']): Promise<void> {
    await this.#restarting
    await this.call('changePort', { network, spec })
    const known = this.#ports.get(spec.index)
    if (known !== undefined) this.#ports.set(spec.index, { ...known, spec })
  }

  /**
   * Throws SYSCALL, PERMISSION, DEVICE_MISSING: nothing is open then. DEADLINE: it is undone as soon as it is done.
   * Several at a time take little longer than one.
   */
  async addPort(args: PortArgs): Promise<void> {
    await this.#restarting
    this.#clearCounters(args.spec.index)
    await this.#openPort(args)
    // A worker that is started again opens its gates: what waited behind them is gone, and the restore is called off.
    // A handover is over by then.
    const { handover: _, ...device } = args.device
    this.#ports.set(args.spec.index, { ...args, device, spec: { ...args.spec, gated: false } })
  }

  /** The device under a port has changed; a worker that is started again hears of it as it is then. */
  async portChanged(network: string, index: number, device: DeviceState): Promise<void> {
    await this.#restarting
    const known = this.#ports.get(index)
    if (known !== undefined) {
      const { spec } = known
      const { mac, mtu, queueLength } = device
      const uplink = spec.uplink === undefined ? {} : { uplink: { ...spec.uplink, mtu } }
      this.#ports.set(index, { ...known, spec: { ...spec, mac, queueLength, ...uplink } })
    }
    await this.call('portChanged', { network, index, device })
  }

  async #openPort(args: PortArgs): Promise<void> {
    const { network, spec, device } = args
    const { index } = spec
    const sockets = await this.#sockets.open(index, device)
    const added = this.ask('addPort', { ...args, sockets }).then((aside) => this.#sockets.addAside(sockets, aside))
    try {
      await inTime('addPort', added)
    } catch (error) {
      this.#sockets.take(index)
      // The worker would have a port that nobody knows of, and the next one of its device would get everything again.
      if (isLate(error)) this.#letGo(network, index, sockets).catch(() => undefined)
      else this.#sockets.close(sockets)
      throw error
    }
  }

  /**
   * Its sockets are closed after it has settled, and nobody waits for that. DEADLINE: it is done before whatever the
   * worker is asked for next.
   */
  async removePort(network: string, index: number): Promise<void> {
    await this.#restarting
    this.#ports.delete(index)
    this.#fastPath.hooks?.forget(index)
    await this.#takenAway(inTime('removePort', this.#letGo(network, index, this.#sockets.take(index))))
  }

  /** However long the worker takes. It answers in order: what it says of a later port with the index comes after it. */
  async #letGo(network: string, index: number, sockets: PortSockets | null): Promise<void> {
    await this.ask('removePort', { network, index })
    this.#fastPath.hooks?.forget(index)
    this.#fastPath.hooks?.release(index)
    if (sockets !== null) this.#sockets.close(sockets)
  }

  /** Remembers the highest epoch of a network, so that a restarted worker never goes back. */
  rememberEpoch(network: string, epoch: number): void {
    const known = this.#networks.get(network)
    if (known === undefined || known.epoch >= epoch) return
    this.#networks.set(network, { ...known, epoch })
    for (const [index, args] of this.#ports) {
      if (args.network === network) this.#ports.set(index, { ...args, spec: { ...args.spec, epoch } })
    }
  }

  /** Remembers the epoch of the last restore: what is older is stopped by a restarted worker, too. */
  rememberFence(network: string, fence: number): void {
    const known = this.#networks.get(network)
    if (known !== undefined && known.fence < fence) this.#networks.set(network, { ...known, fence })
  }

  async stop(): Promise<void> {
    this.#stopping = true
    this.#fastPath.end()
    await this.#restarting
    const worker = this.#worker
    if (worker === null) {
      this.#fastPath.close()
      this.#sockets.takeAll()()
      return await this.#sockets.closed()
    }
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    await this.call('stop', null).catch(() => undefined)
    // By itself it unmaps its rings before it ends; a mapped one keeps its socket open.
    const timer = setTimeout(() => void worker.terminate(), STOP_DEADLINE_MS)
    await ended
    clearTimeout(timer)
    this.#fastPath.close()
    this.#sockets.takeAll()()
    await this.#sockets.closed()
  }

  #take(message: Exclude<FromWorker, Start>): void {
    if (message.kind === 'hook') {
      this.#fastPath.hooks?.want(message)
      return
    }
    if (message.kind === 'news') {
      beatSoon()
      return
    }
    if (message.kind === 'busy') {
      this.#fastPath.hooks?.hasten(message.index)
      return
    }
    if (message.kind !== 'reply' && message.kind !== 'refusal') {
      this.emit('event', message)
      return
    }
    const pending = this.#pending.get(message.id)
    if (pending === undefined) return
    this.#pending.delete(message.id)
    if (message.kind === 'reply') pending.resolve(message.result)
    else pending.reject(SnapswitchError.fromReport(message.error))
  }

  async #workerEnded(worker: Worker, failure: Error): Promise<void> {
    if (this.#worker !== worker) return
    this.#worker = null
    for (const { reject } of this.#pending.values()) reject(ended(failure))
    this.#pending.clear()
    if (this.#stopping) return
    const now = performance.now()
    this.#restartTimes.push(now)
    while (now - this.#restartTimes[0] > 60_000) this.#restartTimes.shift()
    if (this.#restartTimes.length > RESTARTS_PER_MINUTE) {
      this.emit('dead', failure)
      return
    }
    // What it has left at the ports forwards yet; soon the next one does.
    this.#fastPath.takeBack()
    // After the new ones are open: what closes is in nobody's way.
    const closeFormer = this.#sockets.takeAll()
    try {
      await this.start()
      this.bootId = newBootId()
      this.#bootedAt = Math.round(nowMs())
      for (const args of this.#networks.values()) await this.#sendNetwork(args)
      await Promise.all([...this.#ports.values()].map((args) => this.#openAgain(args)))
      this.restarts++
      this.emit('restarted', failure)
      this.#fastPath.open()
    } catch (error) {
      this.emit('dead', error instanceof Error ? error : new Error(String(error)))
    } finally {
      closeFormer()
    }
  }

  async #openAgain(args: PortArgs): Promise<void> {
    try {
      await this.#openPort(args)
    } catch (error) {
      if (this.#worker === null) throw error
      this.#ports.delete(args.spec.index)
      this.emit('lost', args.spec.index, error as Error)
    }
  }

  #sendNetwork({ options, epoch, fence }: NetworkArgs): Promise<null> {
    return this.call('addNetwork', {
      options: { ...options, bootId: this.bootId, bootedAt: this.#bootedAt },
      epoch,
      fence,
    })
  }

  #clearCounters(index: number): void {
    this.counters.fill(0, index * ROW, (index + 1) * ROW)
  }
}

/** Rejects with DEADLINE when the worker takes too long; the answer may come yet. */
function inTime<T>(name: CommandName, answer: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new SnapswitchError('DEADLINE', `the datapath did not answer ${name} in time`, 'See the daemon’s log.'))
    }, COMMAND_DEADLINE_MS)
    answer.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

const isLate = (error: unknown) => error instanceof SnapswitchError && error.code === 'DEADLINE'

function ended(cause: Error | null): SnapswitchError {
  return new SnapswitchError(
    'INTERNAL',
    'the datapath worker ended',
    'It is being restarted; see the daemon’s log.',
    cause ?? undefined,
  )
}
