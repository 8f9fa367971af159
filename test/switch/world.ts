// Hosts and endpoints in network namespaces (not VMs: plain stacks behind veths), and `snapswitch switch` daemons
// between them, started as a user does. Everything has the test process's number in its name and goes when the test
// ends.

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import type { PortInfo } from '../../src/api/schemas.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { attempt, type CommandResult, run, until } from '../lab/command.js'
import { guard } from '../lab/guardian.js'
import { Host } from '../lab/host.js'
import { end, type ProcessId } from '../lab/processes.js'
import { repositoryRoot } from '../lab/repository.js'
import { patience } from '../patience.js'

const DEADLINE = { deadlineMs: patience(5000) }
let worlds = 0

export interface Cable {
  readonly mtu?: number
  /** Offloads of both of its ends (ethtool -K), as with hardware that cannot; on unless said. */
  readonly offload?: 'on' | 'off'
  /** The endpoint's address, /24. */
  readonly address?: string
  /** False: left as made, with IPv6 as the kernel likes it. */
  readonly ipv6?: boolean
}

export type SwitchFile = Record<string, unknown>

export interface IperfEnd {
  readonly sum_sent: { readonly bytes: number; readonly retransmits: number }
  readonly sum_received: { readonly bytes: number; readonly bits_per_second: number }
}

export class World {
  readonly directory = mkdtempSync(join(tmpdir(), 'ssw-world-'))
  readonly #prefix = `ssw${process.pid}${String.fromCharCode(97 + worlds++)}`
  readonly #letGuardianGo = guard(`${this.#prefix}-`, this.directory)
  readonly #namespaces: string[] = []
  readonly #switches: Switch[] = []
  readonly #children: ChildProcess[] = []
  readonly #hosts = new Map<string, Host>()
  readonly #holders: ProcessId[] = []

  /** A world that is taken down when the test ends, whatever way. */
  static for(t: { teardown(end: () => Promise<void>): void }): World {
    const world = new World()
    t.teardown(() => world.destroy())
    return world
  }

  name(namespace: string): string {
    return `${this.#prefix}-${namespace}`
  }

  async namespace(label: string, options: { readonly ipv6?: boolean } = {}): Promise<void> {
    const name = this.name(label)
    await run('ip', ['netns', 'add', name])
    this.#namespaces.push(name)
    if (options.ipv6 !== true) {
      for (const scope of ['all', 'default'])
        await this.in(label, 'sh', '-c', `echo 1 >/proc/sys/net/ipv6/conf/${scope}/disable_ipv6`)
    }
    await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
  }

  /** A namespace whose switch has files of its own, too: one of several hosts. */
  async host(label: string): Promise<void> {
    await this.namespace(label)
    const host = new Host(this.directory, label, this.name(label))
    this.#holders.push(await host.start())
    this.#hosts.set(label, host)
  }

  /** What comes before a command on a host, or in a namespace. */
  enter(label: string): readonly string[] {
    return this.#hosts.get(label)?.enter ?? ['ip', 'netns', 'exec', this.name(label)]
  }

  /**
   * An endpoint in a namespace of its own, device `eth0`, and its cable into `host`, where the other end is named as
   * it.
   */
  async endpoint(label: string, host: string, cable: Cable = {}): Promise<void> {
    await this.namespace(label, cable)
    await this.cable([label, 'eth0'], [host, label], cable)
    if (cable.address !== undefined) await this.ip(label, 'address', 'add', `${cable.address}/24`, 'dev', 'eth0')
  }

  /** A veth pair; the first end is up, the second one is left to whoever takes it. */
  async cable(
    one: [string, string],
    other: [string, string],
    { mtu = 1500, offload = 'on' }: Cable = {},
  ): Promise<void> {
    const side = ([label, device]: [string, string]) => ['name', device, 'mtu', String(mtu), 'netns', this.name(label)]
    await run('ip', ['link', 'add', ...side(one), 'type', 'veth', 'peer', ...side(other)])
    if (offload === 'off') {
      const features = ['tx', 'tso', 'gso', 'gro'].flatMap((feature) => [feature, 'off'])
      for (const [label, device] of [one, other]) await this.in(label, 'ethtool', '-K', device, ...features)
    }
    await this.ip(one[0], 'link', 'set', one[1], 'up')
  }

  ip(label: string, ...args: string[]): Promise<string> {
    return run('ip', ['-n', this.name(label), ...args])
  }

  /** Runs a program in a namespace; it must succeed. */
  in(label: string, program: string, ...args: string[]): Promise<string> {
    return run('ip', ['netns', 'exec', this.name(label), program, ...args], 30_000)
  }

  /** Runs a program in a namespace; it may fail. */
  try(label: string, program: string, ...args: string[]): Promise<CommandResult> {
    return attempt('ip', ['netns', 'exec', this.name(label), program, ...args], 30_000)
  }

  /** Starts a program in a namespace; what it prints is collected. Ended with the world. */
  async start(label: string, program: string, ...args: string[]): Promise<Running> {
    const child = spawn('ip', ['netns', 'exec', this.name(label), program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#children.push(child)
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    return new Running(child)
  }

  /**
   * Packets that pass a device, a line each as tcpdump -nn -e -vv says it. It says them when it gets a processor: what
   * must have been seen is waited for (`Running.says`).
   */
  async capture(label: string, device: string, ...filter: string[]): Promise<Running> {
    const options = ['--immediate-mode', '-l', '-nn', '-e', '-vv', '-i', device]
    const running = await this.start(label, 'tcpdump', ...options, ...filter)
    await until('tcpdump', 10_000, () => (running.stderr.includes('listening on') ? true : undefined), 10)
    return running
  }

  /** TCP, or what `options` say, from one place to another, to its end: what iperf3 counts at its sender's side. */
  async iperf(from: string, to: string, address: string, ...options: string[]): Promise<IperfEnd> {
    const server = await this.start(to, 'iperf3', '-s', '-1', '--forceflush')
    await until('iperf3', 5000, () => (server.stdout.includes('listening') ? true : undefined), 10)
    const { end } = JSON.parse(await this.in(from, 'iperf3', '-c', address, '-J', ...options))
    await server.stop()
    return end
  }

  pings(from: string, address: string, ...more: string[]): Promise<CommandResult> {
    const wait = String(Math.ceil(patience(2000) / 1000))
    return this.try(from, 'ping', '-n', '-q', '-c', '3', '-i', '0.05', '-W', wait, ...more, address)
  }

  /** Packet sockets that are open in a namespace. */
  async packetSockets(label: string): Promise<number> {
    return (await this.in(label, 'cat', '/proc/net/packet')).trim().split('\n').length - 1
  }

  /** Returns when so many are: a port's sockets close on threads of their own, when a grace period is over. */
  async packetSocketsAre(label: string, count: number): Promise<void> {
    let found = -1
    await until('packet sockets', 10_000, async () => {
      found = await this.packetSockets(label)
      return found === count ? true : undefined
    }).catch(() => {
      throw new Error(`${found} packet sockets in ${label}, and not ${count}`)
    })
  }

  /**
   * Waits until the kernel has noticed what became of a device's carrier: it tells RUNNING and `state` from a queue of
   * work, a moment later than LOWER_UP (net/core/link_watch.c).
   */
  async linkSays(label: string, device: string, pattern: RegExp): Promise<void> {
    await until(`${device} to be ${pattern}`, 5000, async () =>
      pattern.test(await this.ip(label, '-o', 'link', 'show', device)) ? true : undefined,
    )
  }

  /** A configuration file for a daemon in `host`, its socket and state directory in this world. */
  configFile(host: string, content: SwitchFile, name = host): string {
    const at = (kind: string) => this.inside(host, `${name}.${kind}`)
    const text = stringify({ host, api: { socket: at('sock') }, state: at('state'), coordinator: 'none', ...content })
    writeFileSync(this.outside(host, at('yaml')), text)
    return at('yaml')
  }

  /** The path of a host's file, as the host has it. */
  inside(host: string, name: string): string {
    return join(this.#hosts.get(host)?.common ?? this.directory, name)
  }

  /** A path as we have it, of one that a host has. */
  outside(host: string, path: string): string {
    return this.#hosts.get(host)?.outside(path) ?? path
  }

  socket(name: string): string {
    return join(this.#hosts.get(name)?.root ?? this.directory, `${name}.sock`)
  }

  state(name: string): string {
    return join(this.#hosts.get(name)?.root ?? this.directory, `${name}.state`)
  }

  /** Starts a daemon in `host` and waits until its socket answers. */
  async switch(host: string, content: SwitchFile, nodeOptions: readonly string[] = []): Promise<Switch> {
    const daemon = new Switch(this, host, this.configFile(host, content), nodeOptions)
    this.#switches.push(daemon)
    await daemon.start()
    return daemon
  }

  /** Runs a daemon that is expected to refuse to start, to its end; `through` is a program that runs it. */
  refused(host: string, file: string, through: readonly string[] = []): Promise<CommandResult> {
    const daemon = [process.execPath, join(repositoryRoot(), 'bin', 'snapswitch'), 'switch', '--config', file]
    const [program, ...args] = [...through, ...daemon]
    return this.try(host, program, ...args)
  }

  /** Hosts whose device `up` leads to a bridge `br0` in a namespace `lan`. */
  async hostsOnLan(...hosts: readonly string[]): Promise<void> {
    await this.namespace('lan')
    await this.ip('lan', 'link', 'add', 'br0', 'type', 'bridge')
    await this.ip('lan', 'link', 'set', 'br0', 'up')
    for (const host of hosts) {
      await this.host(host)
      await this.cable(['lan', `to-${host}`], [host, 'up'])
      await this.ip('lan', 'link', 'set', `to-${host}`, 'master', 'br0')
    }
  }

  async destroy(): Promise<void> {
    for (const daemon of this.#switches) await daemon.kill()
    for (const child of this.#children) await endChild(child, 'SIGKILL')
    await end(this.#holders, 0)
    for (const name of this.#namespaces.reverse()) await attempt('ip', ['netns', 'del', name])
    rmSync(this.directory, { recursive: true, force: true })
    this.#letGuardianGo()
  }
}

/** A program under way. */
export class Running {
  readonly child: ChildProcess
  /** It has ended, and all that it has printed is here. */
  readonly closed: Promise<void>
  stdout = ''
  stderr = ''

  constructor(child: ChildProcess) {
    this.child = child
    this.closed = new Promise((resolve) => child.once('close', () => resolve()))
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
    })
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
  }

  /** Returns when it has printed `count` times what fits, or has not for long: whoever asks says what is missing. */
  async says(pattern: RegExp, count = 1): Promise<void> {
    const all = new RegExp(pattern.source, `g${pattern.flags.replace('g', '')}`)
    const enough = () => ((this.stdout.match(all)?.length ?? 0) >= count ? true : undefined)
    await until(String(pattern), 5000, enough, 10).catch(() => undefined)
  }

  /** Ends it as Ctrl-C does and returns what it printed. */
  async stop(): Promise<string> {
    if (isRunning(this.child)) this.child.kill('SIGINT')
    await this.closed
    return this.stdout
  }
}

const isRunning = (child: ChildProcess) => child.exitCode === null && child.signalCode === null

async function endChild(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (!isRunning(child)) return
  const closed = new Promise((resolve) => child.once('close', resolve))
  child.kill(signal)
  await closed
}

/** A daemon, as `bin/snapswitch switch --config FILE` runs it. */
export class Switch {
  readonly client: SwitchClient
  readonly log: string
  readonly #world: World
  readonly #host: string
  readonly #file: string
  readonly #nodeOptions: readonly string[]
  #child: ChildProcess | null = null

  constructor(world: World, host: string, file: string, nodeOptions: readonly string[]) {
    this.#world = world
    this.#host = host
    this.#file = file
    this.#nodeOptions = nodeOptions
    this.log = join(world.directory, `${host}.log`)
    this.client = new SwitchClient(world.socket(host))
  }

  get pid(): number {
    return this.#child!.pid!
  }

  get running(): boolean {
    return this.#child !== null && isRunning(this.#child)
  }

  async start(): Promise<void> {
    const program = [join(repositoryRoot(), 'bin', 'snapswitch'), 'switch', '--config', this.#file]
    const node = this.#nodeOptions.length === 0 ? [] : [process.execPath, ...this.#nodeOptions]
    // ip netns exec, nsenter and bin/snapswitch become the program they run: the child's number is the daemon's.
    const [enter, ...entry] = this.#world.enter(this.#host)
    const child = spawn(enter!, [...entry, ...node, ...program], { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data: Buffer) => writeFileSync(this.log, data, { flag: 'a' }))
    }
    await until(`the switch of ${this.#host}`, 20_000, async () => {
      if (!this.running) throw new Error(`the switch of ${this.#host} ended: ${this.said().slice(-2000)}`)
      return this.client.status(DEADLINE).then(
        () => true,
        () => undefined,
      )
    })
  }

  said(): string {
    try {
      return readFileSync(this.log, 'utf8')
    } catch {
      return ''
    }
  }

  async port(name: string): Promise<PortInfo> {
    const ports = await this.client.ports(DEADLINE)
    return ports.find((port) => port.name === name)!
  }

  /** SIGTERM and the exit code. */
  async stop(): Promise<number | null> {
    if (this.running) await endChild(this.#child!, 'SIGTERM')
    return this.#child?.exitCode ?? null
  }

  /** Ends it for good. */
  async kill(): Promise<void> {
    await this.client.close()
    await this.crash()
  }

  /** SIGKILL; it can be started again. */
  async crash(): Promise<void> {
    if (this.#child !== null) await endChild(this.#child, 'SIGKILL')
  }

  /** Nothing happens when it has ended. */
  signal(name: NodeJS.Signals | number): void {
    try {
      process.kill(this.pid, name)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }

  /** Its exit code, null when a signal has ended it. */
  async ended(): Promise<number | null> {
    if (this.running) await new Promise((resolve) => this.#child!.once('close', resolve))
    return this.#child!.exitCode
  }

  /** Seconds of CPU that the daemon has used: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  }

  openFiles(): number {
    return Number(readFileSync(`/proc/${this.pid}/status`, 'utf8').match(/FDSize:\s+(\d+)/)![1])
  }
}

export const root = { skip: process.getuid?.() === 0 ? false : 'needs root' }
