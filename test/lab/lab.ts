// A lab: hosts (namespaces with devices and files of their own) joined by trunks or by a LAN, a switch daemon on each,
// one coordinator, tiny guests on taps. Tests, demo and bench build theirs here. `Lab.build` makes hosts and devices;
// the rest is started step by step. The coordinator is outside of the hosts and reaches their daemons as through
// forwarded sockets.

import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { run } from './command.js'
import { type Daemon, type DaemonSpec, daemonAnswers, program, snapswitchJson, spawnDaemon } from './daemon.js'
import { guard } from './guardian.js'
import { type GuestSpec, startGuest } from './guest.js'
import { Host } from './host.js'
import { type GuestImage, guestImage } from './image.js'
import { addCable, addTap, createNamespace, processesIn, removeTaps, setAllDevices } from './namespaces.js'
import { LabMachine, type LabPlan } from './plan.js'
import { end, type ProcessId } from './processes.js'
import { type LabRecord, labDirectory, namespaceName, newRecord, save, takeDown } from './record.js'

export type { LabMachine, LabPlan, MachinePlan } from './plan.js'

export interface RunningMachine {
  readonly name: string
  readonly host: string
  readonly id: ProcessId
}

/** What a machine starts from that was saved by QEMU alone. */
export interface SavedState {
  /** As `-incoming` takes it. */
  readonly incoming: string
  /** Instead of its own: QEMU makes one that leads nowhere. Its disk is left as it is, too. */
  readonly tap?: string
}

const LAN = 'lan'
const OUTSIDE = 'out'
const UPLINK = 'uplink'
const trunkDevice = (to: string) => `to-${to}`
/** What lies on a host where another host has a machine's disk. */
const strangersDisk = (host: Host) => `a file of host ${host.name}'s own\n`

export class Lab {
  readonly plan: LabPlan
  readonly directory: string
  readonly machines: ReadonlyMap<string, LabMachine>
  readonly daemons = new Map<string, Daemon>()
  readonly #hosts: ReadonlyMap<string, Host>
  /** Copies of kernel and initramfs on each host: no file is on two hosts unless it was copied there. */
  #images: Promise<GuestImage> | undefined
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
    const names = plan.lan === undefined ? plan.hosts : [...plan.hosts, LAN, OUTSIDE]
    this.#hosts = new Map(names.map((name) => [name, new Host(this.directory, name, this.namespace(name))]))
    this.machines = new Map(
      plan.machines.map((machine, index) => [machine.name, new LabMachine(machine, index, this.host(machine.host))]),
    )
  }

  /** Makes namespaces, trunks (every pair of hosts) or a LAN, taps and disks. On failure nothing is left. */
  static async build(plan: LabPlan): Promise<Lab> {
    const lab = new Lab(plan, newRecord())
    try {
      await lab.#makeHosts()
      for (const machine of lab.machines.values()) {
        await addTap(machine.host.namespace, machine.tap, plan.memberMtu ?? 1500)
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', machine.outside.qcow2, '16M'])
        for (const host of lab.#others(machine)) writeFileSync(host.outside(machine.files.qcow2), strangersDisk(host))
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

  host(name: string): Host {
    const host = this.#hosts.get(name)
    if (host === undefined) throw new Error(`the lab has no host ${name}`)
    return host
  }

  switchSocket(host: string): string {
    return join(this.host(host).root, 'switch.sock')
  }

  /** A host's state directory, or a file in it, seen from outside. */
  state(host: string, ...names: string[]): string {
    return join(this.host(host).root, 'state', ...names)
  }

  /** The log of a daemon: a host's switch, or `coordinator`. */
  log(daemon: string): string {
    return join(this.directory, `${daemon}.log`)
  }

  machine(name: string): LabMachine {
    const machine = this.machines.get(name)
    if (machine === undefined) throw new Error(`the lab has no machine ${name}`)
    return machine
  }

  #others(machine: LabMachine): Host[] {
    return this.plan.hosts.map((name) => this.host(name)).filter((host) => host !== machine.host)
  }

  /**
   * Where a machine's disk is on its host, each other host has another file: these, by the paths from outside, if
   * somebody has changed or removed theirs.
   */
  touchedStrangers(): string[] {
    return [...this.machines.values()].flatMap((machine) => {
      const home = this.host(machine.plan.host)
      const others = this.plan.hosts
        .map((name) => this.host(name))
        .filter((host) => host !== home && existsSync(host.root))
      return others.flatMap((host) => {
        const file = host.outside(machine.files.qcow2)
        return existsSync(file) && readFileSync(file, 'utf8') === strangersDisk(host) ? [] : [file]
      })
    })
  }

  async #makeHosts(): Promise<void> {
    const { lan } = this.plan
    for (const host of this.#hosts.values()) {
      this.#record.namespaces.push(host.namespace)
      save(this.#record)
      await createNamespace(host.namespace)
      await host.start()
      mkdirSync(join(host.root, 'vm'))
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
      api: { socket: this.host(host).inside('switch.sock') },
      state: this.host(host).inside('state'),
      coordinator: 'none',
      networks: { [this.plan.network]: { ports: Object.fromEntries([...members, ...joints]) } },
      machines: Object.fromEntries(here.map((machine) => [machine.plan.name, { qmp: machine.files.qmp }])),
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
    const where = this.host(host)
    const file = where.inside('switch.yaml')
    writeFileSync(where.outside(file), stringify(config))
    return this.#start('switch', host, file, { socket: this.switchSocket(host), through: where.enter, nodeOptions })
  }

  async startCoordinator(config = this.coordinatorConfig()): Promise<Daemon> {
    const file = join(this.directory, 'coordinator.yaml')
    writeFileSync(file, stringify(config))
    return this.#start('coordinator', 'coordinator', file, { socket: String(config.socket) })
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
    config: string,
    more: Pick<DaemonSpec, 'socket' | 'through' | 'nodeOptions'>,
  ): Promise<Daemon> {
    this.#mustBeUp()
    const spec = { role, config, log: this.log(name), ...more }
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

  /**
   * Starts a machine on its host and waits until its job begins. With `saved` it starts from that state, stands still,
   * and nothing is waited for.
   */
  async startMachine(name: string, timeoutMs = 60_000, saved?: SavedState): Promise<void> {
    this.#mustBeUp()
    const machine = this.machine(name)
    machine.startsOn(this.host(machine.plan.host))
    const image = await this.images()
    await this.#spawn(async () => {
      machine.guest = await startGuest(this.#guestSpec(machine, image, saved))
      this.#record.guests.push(machine.guest.id)
      save(this.#record)
    })
    if (saved === undefined) await machine.console.started(timeoutMs)
  }

  #guestSpec({ plan, mac, tap, files, host }: LabMachine, image: GuestImage, saved?: SavedState): GuestSpec {
    const alone = saved?.tap === undefined ? [] : ['-snapshot']
    const state = saved === undefined ? [] : ['-S', '-incoming', saved.incoming, ...alone]
    const named = `tap,ifname=${saved?.tap ?? tap},script=no,downscript=no`
    return {
      name: plan.name,
      directory: host.inside('vm'),
      outside: join(host.root, 'vm'),
      mac,
      netdev: plan.netdev?.((...names) => host.inside(...names)) ?? named,
      disk: { file: files.qcow2, format: 'qcow2' },
      job: plan.job,
      through: host.enter,
      image,
      more: [...(plan.more?.((...names) => host.inside(...names)) ?? []), ...state],
      ...(this.plan.memoryMiB === undefined ? {} : { memoryMiB: this.plan.memoryMiB }),
    }
  }

  /** The guests' kernel and initramfs as every host has them, each its own copy. */
  images(): Promise<GuestImage> {
    this.#images ??= (this.plan.image === undefined ? guestImage() : Promise.resolve(this.plan.image)).then((image) => {
      const hosts = this.plan.hosts.map((name) => this.host(name))
      const copy = (file: string, name: string) => {
        for (const host of hosts) {
          mkdirSync(join(host.root, 'boot'), { recursive: true })
          copyFileSync(file, join(host.root, 'boot', name))
        }
        return hosts[0]!.inside('boot', name)
      }
      return { ...image, kernel: copy(image.kernel, 'vmlinuz'), initramfs: copy(image.initramfs, 'initramfs.cpio') }
    })
    return this.#images
  }

  async startMachines(): Promise<void> {
    await Promise.all([...this.machines.keys()].map((name) => this.startMachine(name)))
  }

  /**
   * From here on only what is written from now on counts: call it when machines are dead and will be restored.
   * `places`: where they will be, if not where they were.
   */
  restartConsoles(places: Readonly<Record<string, string>> = {}): void {
    for (const machine of this.machines.values()) {
      const place = places[machine.plan.name]
      machine.startsOn(place === undefined ? machine.host : this.host(place))
    }
  }

  /** A power cut: whatever runs on a host ends at once. Its files and its cables stay, and its TAPs do not. */
  async powerOff(name: string): Promise<void> {
    const host = this.host(name)
    await end(await processesIn(host.namespace), 0)
    await removeTaps(host.namespace)
    await setAllDevices(host.namespace, 'down')
    this.daemons.delete(name)
    for (const machine of this.machines.values()) if (machine.host === host) machine.guest = undefined
  }

  /** The host after a power cut: its files as they were, none of its TAPs; nothing runs yet. */
  async powerOn(name: string): Promise<void> {
    const host = this.host(name)
    await host.start()
    await setAllDevices(host.namespace, 'up')
  }

  /** The host is gone for good, with everything on it. */
  async loseHost(name: string): Promise<void> {
    await this.powerOff(name)
    rmSync(this.host(name).root, { recursive: true, force: true })
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
    const ofMachines = [...this.machines].map(([name, { outside }]) => [name, outside.log] as const)
    const logs = [...[...this.daemons.keys()].map((name) => [name, this.log(name)] as const), ...ofMachines]
    return logs.flatMap(([name, file]) => {
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
