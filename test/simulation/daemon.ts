// A host: its disk, which outlives everything, and the switch daemon that runs on it, which may be killed at any step.

import type { LocalPart } from '../../src/api/schemas.js'
import type { FrameCopy } from '../../src/frame/frame.js'
import { Agent } from './agent.js'
import { waysOf } from './networks.js'
import type { Entry } from './timeline.js'
import { Worker } from './worker.js'
import type { World } from './world.js'

export class Host {
  readonly world: World
  readonly index: number
  readonly name: string
  daemon: Daemon | null = null
  boots = 0
  /** Steps of its daemons since the first order. */
  steps = 0
  /** What is on its disk. */
  readonly disk: {
    /** By network, as the fence. */
    readonly epochs: number[]
    readonly fences: number[]
    /** Machines whose ports are configured or were moved here. */
    members: ReadonlySet<number>
    readonly parts: Map<string, LocalPart>
    /** Snapshots begun: directories without a part. */
    readonly unfinished: Map<string, { readonly network: number; readonly machines: readonly number[] }>
    readonly files: Set<string>
    /** By network: machines of a restore that were loaded here and not yet told to run. */
    readonly loaded: ReadonlySet<number>[]
    /** By network: machines that a restore has paused here, with their lives. */
    readonly formers: ReadonlyMap<number, number>[]
  }

  constructor(world: World, index: number, members: ReadonlySet<number>) {
    this.world = world
    this.index = index
    this.name = `h${index}`
    this.disk = {
      epochs: world.networks.map((network) => waysOf(world.scenario, network).epoch),
      fences: world.networks.map(() => 0),
      members,
      parts: new Map(),
      unfinished: new Map(),
      files: new Set(),
      loaded: world.networks.map(() => new Set()),
      formers: world.networks.map(() => new Map()),
    }
  }

  start(): void {
    this.daemon = new Daemon(this)
    this.daemon.start()
  }

  kill(down: number): void {
    if (this.daemon === null) return
    this.world.note(this.name, 'KILLED')
    this.world.marks.add('daemon killed')
    this.daemon.end()
    this.daemon = null
    this.world.time.after(down, () => this.start())
  }
}

export class Daemon {
  readonly world: World
  readonly host: Host
  readonly boot: number
  readonly bootId: string
  /** By network: what one agent does for each. */
  readonly agents: readonly Agent[]
  worker: Worker
  alive = true
  /** What a new worker is told. */
  members: Set<number>
  private workers = 0
  private readonly onEnd = new Set<() => void>()

  constructor(host: Host) {
    this.host = host
    this.world = host.world
    this.boot = ++host.boots
    this.bootId = (0x1000 * (host.index + 1) + this.boot).toString(16).padStart(16, '0')
    this.members = new Set(host.disk.members)
    this.agents = host.world.networks.map((network) => new Agent(this, network))
    this.worker = this.makeWorker()
  }

  start(): void {
    if (this.boot > 1) this.world.note(this.host.name, `started, e${this.agents.map(({ epoch }) => epoch)}`)
    for (const agent of this.agents) agent.start()
  }

  /** Calls `act` later, if this daemon still lives. */
  after(ms: number, act: () => void): Entry {
    return this.world.time.after(ms, () => {
      if (this.alive) act()
    })
  }

  /** Hears of the daemon's death: connections break. Returns how to stop. */
  whenEnded(act: () => void): () => void {
    this.onEnd.add(act)
    return () => this.onEnd.delete(act)
  }

  arrive(port: number, copy: FrameCopy): void {
    this.worker.arrive(port, copy)
  }

  failWorker(): void {
    this.world.note(this.host.name, 'DATAPATH FAILED')
    this.world.marks.add('datapath failed')
    this.worker.end()
    this.worker = this.makeWorker()
    for (const agent of this.agents) this.after(0, () => agent.datapathRestarted())
  }

  end(): void {
    this.alive = false
    this.worker.end()
    for (const act of this.onEnd) act()
  }

  private makeWorker(): Worker {
    const { world, host } = this
    const nth = this.workers++
    const bootId =
      nth === 0 ? this.bootId : `${'f'.repeat(4)}${this.bootId.slice(4, 12)}${nth.toString(16).padStart(4, '0')}`
    const worker = new Worker(this, bootId)
    for (const vm of this.members) {
      for (const nic of world.guests[vm].nics) worker.addMember(nic, this.agents[nic.network].epoch)
    }
    for (const network of world.networks)
      for (const peer of world.peersOf(host.index, network)) worker.addTrunk(network, peer)
    if (world.scenario.lan !== null) worker.addUplink(world.scenario.lan)
    if (world.scenario.outside.includes(host.index)) worker.addPlain()
    return worker
  }
}
