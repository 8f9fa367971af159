// A host: its disk, which outlives everything, and the switch daemon that runs on it, which may be killed at any step.
// The daemon is the production agent; what it reaches through its Host is made up (disk.ts, machines.ts, ports.ts,
// datapath.ts).

import { pino } from 'pino'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { FrameCopy } from '../../src/frame/frame.js'
import { hypervisorsBy } from '../../src/hypervisor/drivers.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { type Clock, type Instant, sleep } from '../../src/runtime/clock.js'
import { Agent, type Disks, RECOVERY_MS } from '../../switch/agent/agent.js'
import { type Host as AgentHost, Epochs } from '../../switch/agent/host.js'
import { endLoads } from '../../switch/agent/leftovers.js'
import { Machines } from '../../switch/agent/machines.js'
import type { Taps } from '../../switch/agent/restore/taps.js'
import type { PortEntry, PortRequest } from '../../switch/ports/table.js'
import { movedPorts } from '../../switch/wanted/wanted.js'
import { noImages } from '../switch/no-images.js'
import { VirtualDatapath } from './datapath.js'
import { Disk, DiskDrive } from './disk.js'
import type { Guest, Nic } from './guest.js'
import type { VirtualKernel } from './kernel.js'
import { VirtualHypervisor } from './machines.js'
import { networkName } from './networks.js'
import { requestFor, VirtualPorts } from './ports.js'
import type { Entry } from './timeline.js'
import { EPOCH_MS, Worker } from './worker.js'
import type { World } from './world.js'

const CORES = 81
/** More than a schedule has; production's memory takes longer to set aside than a schedule to run. */
const RECORDED_EVENTS = 4096
export const silent = pino({ level: 'silent' })

export class Host {
  readonly world: World
  readonly index: number
  readonly name: string
  readonly disk: Disk
  /** Machines whose ports are configured here. */
  readonly configured: readonly Guest[]
  daemon: Daemon | null = null
  boots = 0
  /** What a killed daemon has left in the kernel, until the next one puts the dropping filters back. */
  left: VirtualKernel | null = null
  /** Steps of its daemons since the first order. */
  steps = 0

  constructor(world: World, index: number, configured: readonly Guest[]) {
    this.world = world
    this.index = index
    this.name = `h${index}`
    this.configured = configured
    this.disk = new Disk(world)
  }

  start(): void {
    this.daemon = new Daemon(this)
    this.daemon.start().catch((thrown) => this.world.crashedWith(thrown))
  }

  kill(down: number): void {
    if (this.daemon === null) return
    this.world.note(this.name, 'KILLED')
    this.world.marks.add('daemon killed')
    this.left = this.daemon.worker?.fast?.abandon() ?? this.left
    this.daemon.end()
    this.daemon = null
    this.world.time.after(down, () => {
      this.start()
      this.world.time.promised = true
    })
  }

  /** A frame has come to a port's device. */
  arrive(port: number, copy: FrameCopy): void {
    if (this.left === null) this.daemon?.arrive(port, copy)
    else this.left.arrive(port, copy)
  }

  /** Whether the disk says that a NIC's port is here. */
  remembers(nic: Nic): boolean {
    const name = `p${nic.index}`
    const { gone, ports } = this.disk.moves
    const isConfigured = this.configured.includes(nic.guest) && !gone.includes(name)
    return isConfigured || ports.some((port) => port.name === name)
  }
}

export class Daemon {
  readonly world: World
  readonly host: Host
  readonly boot: number
  readonly datapath: VirtualDatapath
  readonly ports: VirtualPorts
  readonly machines: Machines
  readonly drive: DiskDrive
  alive = true
  /** Its API answers. */
  listening = false
  /** Null until it has put right what a killed one had loaded. */
  agent: Agent | null = null
  worker: Worker | null = null
  #epochs: Epochs | null = null
  #workers = 0
  readonly #onEnd = new Set<() => void>()

  constructor(host: Host) {
    this.host = host
    this.world = host.world
    this.boot = ++host.boots
    this.datapath = new VirtualDatapath(this)
    this.ports = new VirtualPorts(this)
    const hypervisor = new VirtualHypervisor(this)
    const specs = host.configured.map(({ name }): [string, MachineSpec] => [name, { qmp: `${host.name}/${name}` }])
    const hypervisors = hypervisorsBy(() => hypervisor)
    this.machines = new Machines(hypervisors, new Map(specs))
    this.drive = new DiskDrive(this)
  }

  async start(): Promise<void> {
    const { world, drive } = this
    const { moves } = this.host.disk
    world.planted.daemon?.(this)
    this.#epochs = await Epochs.open(drive.records)
    const nics = this.host.configured.flatMap((guest) => guest.nics)
    const configured = new Map(nics.map((nic): [string, PortRequest] => [`p${nic.index}`, requestFor(nic)]))
    const host = this.#agentHost(this.#epochs)
    const now = await endLoads(host, moves, configured)
    for (const [vm, spec] of Object.entries(now.machines)) this.machines.set(vm, spec)
    const names = world.networks.map(networkName)
    for (const network of names) {
      this.datapath.rememberEpoch(network, this.#epochs.get(network))
      this.datapath.rememberFence(network, this.#epochs.fence(network))
    }
    this.ports.open(
      [...configured.keys()].filter((name) => !now.gone.includes(name)).concat(now.ports.map(({ name }) => name)),
    )
    this.worker = this.#makeWorker()
    const wanted = { networks: () => names, moves: (present: readonly PortEntry[]) => movedPorts(configured, present) }
    this.agent = new Agent(host, wanted, this.#disks())
    world.planted.agent?.(this.agent, this)
    if (this.boot > 1) world.note(this.host.name, `started, e${names.map((network) => this.#epochs!.get(network))}`)
    await Promise.race([this.agent.recover(), sleep(this.clock, RECOVERY_MS)])
    this.listening = true
  }

  readonly clock: Clock = {
    now: (): Instant => {
      const { now } = this.world.time
      return { ms: now, wallUs: Math.round((EPOCH_MS + now) * 1000) }
    },
    after: (ms, act) => {
      const entry = this.after(ms, act)
      return () => {
        entry.act = null
      }
    },
  }

  /** Calls `act` later, if this daemon still lives. */
  after(ms: number, act: () => void): Entry {
    return this.world.time.after(ms, () => {
      if (!this.alive) return
      this.world.time.promised = true
      act()
    })
  }

  /** Something that is answered later, if this daemon still lives: its code goes on before time does. */
  answer<T>(work: (done: (result: T) => void, failed: (error: SnapswitchError) => void) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        if (!this.alive) return
        this.world.time.promised = true
        act()
      }
      work(
        (result) => settle(() => resolve(result)),
        (error) => settle(() => reject(error)),
      )
    })
  }

  /** Hears of the daemon's death: connections break. Returns how to stop. */
  whenEnded(act: () => void): () => void {
    this.#onEnd.add(act)
    return () => this.#onEnd.delete(act)
  }

  arrive(port: number, copy: FrameCopy): void {
    this.worker?.arrive(port, copy)
  }

  failWorker(): void {
    if (this.worker === null) return
    this.world.note(this.host.name, 'DATAPATH FAILED')
    this.world.marks.add('datapath failed')
    this.worker.fast?.path.close()
    this.worker.end()
    this.worker = this.#makeWorker()
    this.after(0, () => this.datapath.hasRestarted())
  }

  end(): void {
    this.alive = false
    this.worker?.end()
    for (const act of this.#onEnd) act()
  }

  /** What is under way in a network, or keeps it from beginning. */
  busy(network: number): string | null {
    return this.agent === null || !this.listening ? 'starting' : this.agent.busy(networkName(network))
  }

  #makeWorker(): Worker {
    const { world, host } = this
    const nth = this.#workers++
    const boot = (0x1000 * (host.index + 1) + this.boot).toString(16).padStart(16, '0')
    const bootId = nth === 0 ? boot : `${'f'.repeat(4)}${boot.slice(4, 12)}${nth.toString(16).padStart(4, '0')}`
    this.datapath.bootId = bootId
    this.host.left = null
    const worker = new Worker(this, bootId)
    for (const nic of this.ports.nics()) worker.addMember(nic, this.datapath.epochOf(nic.network))
    for (const network of world.networks)
      for (const peer of world.peersOf(host.index, network)) worker.addTrunk(network, peer)
    if (world.scenario.lan !== null) worker.addUplink(world.scenario.lan)
    if (world.scenario.outside.includes(host.index)) worker.addPlain()
    return worker
  }

  #agentHost(epochs: Epochs): AgentHost {
    const { world, host, drive } = this
    return {
      name: host.name,
      version: '1',
      clock: this.clock,
      processor: {
        cores: 2 + Math.floor(world.chance(CORES, host.index, 0) * 6),
        runAhead: () => () => undefined,
        collectGarbage: () => undefined,
        availableMemory: () => null,
      },
      datapath: this.datapath,
      ports: this.ports,
      machines: this.machines,
      store: drive.store,
      records: drive.records,
      journal: drive.journal,
      disks: noImages,
      unread: { of: (port) => world.nics[port].queued, emptied: () => undefined },
      portion: world.scenario.portion,
      recordedEvents: RECORDED_EVENTS,
      recordedBytes: 0,
      epochs,
      restoreTaps: () => noTaps,
      log: silent,
    }
  }

  /** What the daemon does besides with image files: there are none but memory. */
  #disks(): Disks {
    return {
      clear: async () => undefined,
      finish: async () => undefined,
      letGo: async () => undefined,
      isMerging: () => false,
      soon: () => undefined,
      close: async () => undefined,
      remove: async (network, snapshot) => {
        await this.drive.store.remove(network, snapshot)
        return { freedBytes: 0, merged: [], removed: [], kept: [] }
      },
    }
  }
}

/** Every TAP is there, and free. */
const noTaps: Taps = {
  warnings: [],
  planned: () => [],
  plannedOutside: () => [],
  makeOutside: () => undefined,
  open: () => [],
  standInOf: () => null,
  connectOutside: () => undefined,
  close: () => undefined,
  giveBack: () => undefined,
  finish: () => undefined,
}

export const ended = (what: string): SnapswitchError => new SnapswitchError('INTERNAL', what, 'None.')
