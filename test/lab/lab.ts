// A lab: namespaces as hosts joined by trunks or by a LAN, a switch daemon in each, one coordinator, tiny guests on taps. Tests,
// demo and bench build theirs here. `Lab.build` makes hosts and devices; the rest is started step by step.

import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { run } from './command.js'
import { GuestConsole } from './console.js'
import { type Daemon, type DaemonSpec, daemonAnswers, program, snapswitchJson, spawnDaemon } from './daemon.js'
import { guard } from './guardian.js'
import { type Guest, type GuestJob, type GuestSpec, startGuest } from './guest.js'
import { guestImage } from './image.js'
import { addCable, addTap, createNamespace, processesIn } from './namespaces.js'
import { end, type ProcessId } from './processes.js'
import { type LabRecord, labDirectory, namespaceName, newRecord, save, takeDown } from './record.js'

export interface MachinePlan {
  readonly name: string
  readonly host: string
  readonly job: GuestJob
}

export interface LabPlan {
  readonly network: string
  readonly hosts: readonly string[]
  readonly machines: readonly MachinePlan[]
  readonly memoryMiB?: number
  readonly memberMtu?: number
  /** 4 above the members' at least: the color tag needs the room. */
  readonly trunkMtu?: number
  /** A LAN instead of trunks: a bridge in a namespace of its own, with an outside host on it (namespace `out`, device eth0). */
  readonly lan?: { readonly outsideAddress: string }
}

export interface LabMachine {
  readonly plan: MachinePlan
  readonly mac: string
  readonly tap: string
  readonly diskFile: string
  readonly qmp: string
  readonly consoleFile: string
  /** The console since the machine was last started or restored. */
  console: GuestConsole
  guest: Guest | undefined
}

export interface RunningMachine {
  readonly name: string
  readonly host: string
  readonly id: ProcessId
}

const LAN = 'lan'
const OUTSIDE = 'out'
const UPLINK = 'uplink'
const trunkDevice = (to: string) => `to-${to}`

export class Lab {
  readonly plan: LabPlan
  readonly directory: string
  readonly machines: ReadonlyMap<string, LabMachine>
  readonly daemons = new Map<string, Daemon>()
  readonly #record: LabRecord
  /** Processes that are being started, and not in the record yet. */
  readonly #spawning = new Set<Promise<unknown>>()
  readonly #letGuardianGo: () => void
  #down: Promise<void> | undefined

  private constructor(plan: LabPlan, record: LabRecord) {
    this.plan = plan
    this.#record = record
    this.directory = labDirectory(record.id)
    this.#letGuardianGo = guard(namespaceName(record.id, ''), this.directory)
    this.machines = new Map(plan.machines.map((machine, index) => [machine.name, this.#machine(machine, index)]))
  }

  /** Makes namespaces, trunks (every pair of hosts) or a LAN, taps and disks. On failure nothing is left. */
  static async build(plan: LabPlan): Promise<Lab> {
    const lab = new Lab(plan, newRecord())
    try {
      await lab.#makeHosts()
      for (const machine of lab.machines.values()) {
        await addTap(lab.namespace(machine.plan.host), machine.tap, plan.memberMtu ?? 1500)
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', machine.diskFile, '16M'])
      }
      return lab
    } catch (error) {
      await lab.destroy()
      throw error
    }
  }

  get id(): string {
    return this.#record.id
  }

  get coordinatorSocket(): string {
    return join(this.directory, 'coordinator.sock')
  }

  get store(): string {
    return join(this.directory, 'store')
  }

  namespace(host: string): string {
    return namespaceName(this.#record.id, host)
  }

  switchSocket(host: string): string {
    return join(this.directory, `${host}.sock`)
  }

  /** The log of a daemon: a host's switch, or `coordinator`. */
  log(daemon: string): string {
    return join(this.directory, `${daemon}.log`)
  }

  /** Unix socket of a shell inside the guest. */
  shell(machine: string): string {
    return join(this.directory, 'vm', `${machine}.shell`)
  }

  machine(name: string): LabMachine {
    const machine = this.machines.get(name)
    if (machine === undefined) throw new Error(`the lab has no machine ${name}`)
    return machine
  }

  #machine(plan: MachinePlan, index: number): LabMachine {
    const at = (suffix: string) => join(this.directory, 'vm', `${plan.name}.${suffix}`)
    const consoleFile = at('console')
    const files = { diskFile: at('qcow2'), qmp: at('qmp'), consoleFile, console: new GuestConsole(consoleFile) }
    const mac = `52:54:00:77:00:${(index + 1).toString(16).padStart(2, '0')}`
    return { plan, mac, tap: `${plan.name}-tap`, ...files, guest: undefined }
  }

  async #makeHosts(): Promise<void> {
    mkdirSync(join(this.directory, 'vm'))
    const { lan } = this.plan
    for (const host of lan === undefined ? this.plan.hosts : [...this.plan.hosts, LAN, OUTSIDE]) {
      this.#record.namespaces.push(this.namespace(host))
      save(this.#record)
      await createNamespace(this.namespace(host))
    }
    if (lan !== undefined) return this.#makeLan(lan.outsideAddress)
    for (const [index, one] of this.plan.hosts.entries()) {
      for (const other of this.plan.hosts.slice(index + 1)) await this.addTrunk(one, other)
    }
  }

  /** Joins two hosts by a trunk: a cable (veth pair), up, of which either end can be taken away. */
  addTrunk(one: string, other: string): Promise<void> {
    const mtu = this.plan.trunkMtu ?? (this.plan.memberMtu ?? 1500) + 4
    const end = (host: string, to: string) => ({ namespace: this.namespace(host), device: trunkDevice(to) })
    return addCable(end(one, other), end(other, one), mtu)
  }

  async #makeLan(outsideAddress: string): Promise<void> {
    const namespace = this.namespace(LAN)
    await run('ip', ['-n', namespace, 'link', 'add', 'br0', 'type', 'bridge'])
    await run('ip', ['-n', namespace, 'link', 'set', 'br0', 'up'])
    for (const host of [...this.plan.hosts, OUTSIDE]) {
      const device = host === OUTSIDE ? 'eth0' : UPLINK
      await addCable({ namespace, device: trunkDevice(host) }, { namespace: this.namespace(host), device }, 1500)
      await run('ip', ['-n', namespace, 'link', 'set', trunkDevice(host), 'master', 'br0'])
    }
    await run('ip', ['-n', this.namespace(OUTSIDE), 'address', 'add', outsideAddress, 'dev', 'eth0'])
  }

  /** A host's switch configuration, as an object: tests may bend it before `startSwitch`. */
  switchConfig(host: string): Record<string, unknown> {
    const here = [...this.machines.values()].filter((machine) => machine.plan.host === host)
    const members = here.map(({ plan, tap }) => [plan.name, { device: tap, vm: plan.name }] as const)
    const others = this.plan.hosts.filter((other) => other !== host)
    const joints =
      this.plan.lan === undefined
        ? others.map((other) => [trunkDevice(other), { device: trunkDevice(other), kind: 'trunk' }] as const)
        : [[UPLINK, { device: UPLINK, kind: 'uplink' }] as const]
    return {
      host,
      api: { socket: this.switchSocket(host) },
      state: join(this.directory, `state-${host}`),
      networks: { [this.plan.network]: { ports: Object.fromEntries([...members, ...joints]) } },
      machines: Object.fromEntries(here.map((machine) => [machine.plan.name, { qmp: machine.qmp }])),
    }
  }

  coordinatorConfig(): Record<string, unknown> {
    const hosts = Object.fromEntries(this.plan.hosts.map((host) => [host, { socket: this.switchSocket(host) }]))
    const networks = { [this.plan.network]: { hosts } }
    return { socket: this.coordinatorSocket, store: this.store, networks }
  }

  async startSwitch(
    host: string,
    config = this.switchConfig(host),
    nodeOptions: readonly string[] = [],
  ): Promise<Daemon> {
    const where = { namespace: this.namespace(host), nodeOptions }
    return this.#start('switch', host, this.switchSocket(host), config, where)
  }

  async startCoordinator(config = this.coordinatorConfig()): Promise<Daemon> {
    return this.#start('coordinator', 'coordinator', this.coordinatorSocket, config)
  }

  // A signal may take the lab down while it is being started: nothing more is started then, and what is being started
  // comes into the record first.
  #mustBeUp(): void {
    if (this.#down !== undefined) throw new Error('the lab is being taken down')
  }

  async #spawn(start: () => Promise<void>): Promise<void> {
    this.#mustBeUp()
    const started = start()
    this.#spawning.add(started)
    await started.finally(() => this.#spawning.delete(started))
  }

  async #start(
    role: Daemon['spec']['role'],
    name: string,
    socket: string,
    config: unknown,
    more: Partial<DaemonSpec> = {},
  ) {
    this.#mustBeUp()
    const file = join(this.directory, `${name}.yaml`)
    writeFileSync(file, stringify(config))
    const spec = { role, config: file, socket, log: this.log(name), ...more }
    let daemon: Daemon | undefined
    await this.#spawn(async () => {
      daemon = await spawnDaemon(spec)
      this.#record.daemons.push(daemon.id)
      save(this.#record)
      this.daemons.set(name, daemon)
    })
    await daemonAnswers(daemon!)
    return daemon!
  }

  /** A snapswitch command for the coordinator, or for a host's switch, as a person would type it. */
  commandLine(args: readonly string[], host?: string): string[] {
    return [program(), ...this.#addressed(args, host)]
  }

  /** Runs a snapswitch command and returns what it prints with -j. */
  snapswitchJson<T>(args: readonly string[], host?: string, timeoutMs?: number): Promise<T> {
    return snapswitchJson<T>(this.#addressed(args, host), timeoutMs)
  }

  #addressed(args: readonly string[], host?: string): string[] {
    return [...args, '--socket', host === undefined ? this.coordinatorSocket : this.switchSocket(host)]
  }

  /** Starts a machine on its host and waits until its job begins. */
  async startMachine(name: string, timeoutMs = 60_000): Promise<void> {
    this.#mustBeUp()
    const machine = this.machine(name)
    machine.console = new GuestConsole(machine.consoleFile, this.consoleLength(name))
    await guestImage()
    await this.#spawn(async () => {
      machine.guest = await startGuest(this.#guestSpec(machine))
      this.#record.guests.push(machine.guest.id)
      save(this.#record)
    })
    await machine.console.started(timeoutMs)
  }

  #guestSpec({ plan, mac, tap, diskFile }: LabMachine): GuestSpec {
    return {
      name: plan.name,
      directory: join(this.directory, 'vm'),
      mac,
      netdev: `tap,ifname=${tap},script=no,downscript=no`,
      disk: { file: diskFile, format: 'qcow2' },
      job: plan.job,
      namespace: this.namespace(plan.host),
      ...(this.plan.memoryMiB === undefined ? {} : { memoryMiB: this.plan.memoryMiB }),
    }
  }

  async startMachines(): Promise<void> {
    await Promise.all([...this.machines.keys()].map((name) => this.startMachine(name)))
  }

  consoleLength(name: string): number {
    return statSync(this.machine(name).consoleFile, { throwIfNoEntry: false })?.size ?? 0
  }

  /** From here on only what is written from now on counts: call it when a machine is dead and will be restored. */
  restartConsoles(): void {
    for (const machine of this.machines.values()) {
      machine.console = new GuestConsole(machine.consoleFile, this.consoleLength(machine.plan.name))
    }
  }

  /** The QEMU processes in the lab's namespaces, with the machine's name and the host that it really runs on. */
  async runningMachines(): Promise<RunningMachine[]> {
    const found: RunningMachine[] = []
    for (const host of this.plan.hosts) {
      for (const id of await processesIn(this.namespace(host))) {
        const name = machineName(id.pid)
        if (name !== undefined) found.push({ name, host, id })
      }
    }
    return found
  }

  /** Kills every machine of the lab, restored ones too, as a power cut would. Returns the names of those that ran. */
  async killMachines(): Promise<string[]> {
    const running = await this.runningMachines()
    await end(
      running.map((machine) => machine.id),
      0,
    )
    for (const machine of this.machines.values()) machine.guest = undefined
    return running.map((machine) => machine.name)
  }

  /** The last lines of every log, for a person who asks why something failed. */
  lastWords(count: number): string[] {
    const logs = [...this.daemons.keys(), ...[...this.machines.keys()].map((name) => `vm/${name}`)]
    return logs.flatMap((name) => {
      const file = this.log(name)
      const text = existsSync(file) ? readFileSync(file, 'utf8').trimEnd() : ''
      return text === '' ? [] : [`--- ${name}`, ...text.split('\n').slice(-count)]
    })
  }

  /** Leaves the lab up when this process ends; `takeDown` of its record ends it. */
  keep(): void {
    this.#record.kept = true
    this.#letGuardianGo()
    save(this.#record)
  }

  get kept(): boolean {
    return this.#record.kept
  }

  /** Removes everything; can be called at any time, also twice. */
  destroy(): Promise<void> {
    this.#down ??= Promise.allSettled(this.#spawning)
      .then(() => takeDown(this.#record))
      .then(this.#letGuardianGo)
    return this.#down
  }
}

function machineName(pid: number): string | undefined {
  try {
    const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    if (!/(^|\/)qemu-system-/.test(args[0] ?? '')) return undefined
    const at = args.indexOf('-name')
    return at < 0 ? undefined : args[at + 1]?.replace(/^guest=/, '').split(',')[0]
  } catch {
    return undefined
  }
}
