// Random histories of one machine with two disks on two hosts that share a file system: snapshots, restores here and
// there, deletions in any order, writes, daemons and QEMUs killed at any instant. After each step an oracle says which
// files must be there, and what each disk must hold. Real daemons, a real coordinator, QEMUs and images.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import { Coordinator } from '../../coordinator/coordinator.js'
import { ConfiguredNetworks } from '../../coordinator/networks.js'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import type { MachineDisks, Manifest } from '../../src/api/schemas.js'
import { findProcesses, killProcess } from '../../src/hypervisor/shared/process.js'
import { filesOfBacking, readQcow2Header } from '../../src/hypervisor/shared/qcow2-header.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { endWithUs, sleep, soon } from '../hypervisor/boot-guest.js'
import { until } from '../lab/command.js'
import { patience } from '../patience.js'
import type { Switch, World } from './world.js'

const LONG = { deadlineMs: patience(60_000) }
const BLOCK = 65_536
const BLOCKS = 16
const QUIET_MS = patience(20_000)

export type Step =
  | { readonly kind: 'write'; readonly disk: number; readonly block: number }
  | { readonly kind: 'create' | 'killMachine' }
  | { readonly kind: 'killDaemon'; readonly host: Host }
  /** `kill`: the daemon of that host dies so many milliseconds after it was asked for. */
  | {
      readonly kind: 'delete'
      readonly which: number
      readonly kill: null | { readonly host: Host; readonly ms: number }
    }
  | { readonly kind: 'restore'; readonly which: number; readonly host: Host }

type Host = 'a' | 'b'
const hosts: readonly Host[] = ['a', 'b']
/** What each disk holds: a byte per block. */
type Content = readonly (readonly number[])[]

/** A generator of numbers below a bound that gives the same ones for the same seed (mulberry32). */
export function chance(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 15), z | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return Math.floor((((z ^ (z >>> 14)) >>> 0) / 4_294_967_296) * below)
  }
}

export function randomStep(below: (bound: number) => number): Step {
  const host = () => (below(3) === 0 ? 'b' : 'a')
  const which = below(8)
  const n = below(100)
  if (n < 30) return { kind: 'write', disk: below(2), block: below(BLOCKS) }
  if (n < 52) return { kind: 'create' }
  if (n < 74) return { kind: 'delete', which, kill: below(5) === 0 ? { host: host(), ms: below(400) } : null }
  if (n < 90) return { kind: 'restore', which, host: host() }
  return n < 95 ? { kind: 'killDaemon', host: host() } : { kind: 'killMachine' }
}

export class History {
  readonly world: World
  readonly said: string[] = []
  readonly #daemons = new Map<Host, Switch>()
  readonly #coordinator: Coordinator
  readonly #users: readonly string[]
  readonly #golden: string
  #content: Content = [0, 1].map(() => Array.from({ length: BLOCKS }, () => 0))
  #snapshots: { readonly name: string; readonly content: Content }[] = []
  #at: Host = 'a'
  /** Whether the machine runs; one that was killed is started again on the files that the daemon names. */
  #running = true
  /** The machine's own disk files are the user's again only if it has come back to where they are. */
  #moved = false
  #count = 0
  #pattern = 1

  private constructor(world: World) {
    this.world = world
    const networks = {
      lab0: { hosts: Object.fromEntries(hosts.map((host) => [host, { socket: world.socket(host) }])) },
    }
    const config = { socket: '', store: this.#inside('catalogue'), log: 'silent' as const, networks }
    const catalogue = new Catalogue(config.store)
    this.#coordinator = new Coordinator({
      networks: new ConfiguredNetworks(config.networks),
      catalogue,
      logger: pino({ level: 'silent' }),
      version: 'test',
    })
    this.#users = ['disk.img', 'mine.qcow2', 'golden.qcow2'].map((name) => this.#inside(`vms/${name}`))
    this.#golden = this.#users[2]!
  }

  static async begin(world: World): Promise<History> {
    const history = new History(world)
    await history.#start()
    return history
  }

  #inside(name: string): string {
    return join(this.world.directory, name)
  }

  async #start(): Promise<void> {
    const { world } = this
    mkdirSync(this.#inside('vms'))
    mkdirSync(this.#inside('catalogue'))
    const [raw, mine, golden] = this.#users
    const make = (...args: string[]) => execFileSync('qemu-img', ['create', '-q', ...args])
    make('-f', 'raw', raw!, String(BLOCK * BLOCKS))
    make('-f', 'qcow2', golden!, String(BLOCK * BLOCKS))
    make('-f', 'qcow2', '-b', golden!, '-F', 'qcow2', mine!)
    for (const host of hosts) await world.namespace(host)
    await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
    await world.ip('b', 'link', 'set', 'trunk', 'up')
    await world.ip('a', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap', 'vnet_hdr')
    this.#launch([raw!, mine!], this.#inside('vm.qmp'))
    await until('QEMU', 10_000, () => (existsSync(this.#inside('vm.qmp')) ? true : undefined))
    for (const host of hosts) {
      const own = host === 'a' ? { one: { device: 'tap0', vm: 'vm0' } } : {}
      const ports = { ...own, trunk: { device: 'trunk', kind: 'trunk' } }
      const machines = host === 'a' ? { machines: { vm0: { qmp: this.#inside('vm.qmp') } } } : {}
      this.#daemons.set(host, await world.switch(host, { networks: { lab0: { ports } }, ...machines }))
    }
    await this.#peersMeet()
    this.#goldenDigest = sha256(this.#golden)
  }

  #goldenDigest = ''

  /** As a user's script does. */
  #launch(files: readonly string[], qmp: string): void {
    const drives = files.flatMap((file, i) => [
      '-drive',
      `file=${file},format=${file.endsWith('.qcow2') ? 'qcow2' : 'raw'},if=none,id=d${i}`,
      '-device',
      `virtio-blk-pci,drive=d${i}`,
    ])
    rmSync(qmp, { force: true })
    mkdirSync(dirname(qmp), { recursive: true })
    const net = [
      '-netdev',
      'tap,id=n0,ifname=tap0,script=no,downscript=no',
      '-device',
      'virtio-net-pci,netdev=n0,romfile=',
    ]
    const args = ['-machine', 'pc,accel=tcg', '-m', '16', '-nodefaults', '-display', 'none', ...drives, ...net]
    const command = ['netns', 'exec', this.world.name(this.#at), 'qemu-system-x86_64', ...args]
    const child: ChildProcess = spawn('ip', [...command, '-qmp', `unix:${qmp},server=on,wait=off`], {
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    })
    child.stderr!.on('data', (text) => this.said.push(`QEMU: ${String(text).trim()}`))
    child.unref()
    endWithUs(child.pid!)
  }

  /** All QEMUs of this world. */
  machines() {
    return findProcesses(
      (argv) => /qemu-system/.test(argv[0] ?? '') && argv.some((one) => one.includes(this.world.directory)),
    )
  }

  async end(): Promise<void> {
    for (const process of this.machines()) await killProcess(process, soon(5000))
  }

  async #peersMeet(): Promise<void> {
    await until('the peers', 20_000, async () => {
      const found = await Promise.all(hosts.map((host) => this.#daemon(host).client.preflight('lab0', LONG)))
      return found.every(({ peers }) => peers.length === 1 && peers[0]!.alive) ? true : undefined
    })
  }

  #daemon(host: Host): Switch {
    return this.#daemons.get(host)!
  }

  async perform(step: Step): Promise<void> {
    this.said.push(JSON.stringify(step))
    const chosen = 'which' in step ? this.#snapshots[step.which % Math.max(1, this.#snapshots.length)] : undefined
    switch (step.kind) {
      case 'write':
        if (this.#running) await this.#write(step.disk, step.block)
        break
      case 'create':
        if (!this.#running) await this.#startAgain()
        if (this.#snapshots.length < 5) await this.#create()
        break
      case 'delete':
        if (chosen !== undefined) await this.#delete(chosen, step.kill)
        break
      case 'restore':
        if (chosen === undefined) break
        await this.#coordinator.restore('lab0', chosen.name, { placement: { vm0: step.host }, replace: true }, () => {})
        this.#content = chosen.content
        this.#running = true
        this.#at = step.host
        this.#moved = step.host !== 'a'
        break
      case 'killDaemon':
        await this.#daemon(step.host).crash()
        await this.#daemon(step.host).start()
        await this.#peersMeet()
        break
      case 'killMachine':
        for (const process of this.machines()) await killProcess(process, soon(5000))
        this.#running = false
        break
    }
    await this.#check()
  }

  async #create(): Promise<void> {
    const name = `s${++this.#count}`
    await this.#coordinator.create({ network: 'lab0', name }, () => {})
    this.#snapshots.push({ name, content: this.#content })
  }

  async #delete(chosen: { name: string }, kill: null | { host: Host; ms: number }): Promise<void> {
    const work = this.#coordinator.delete('lab0', chosen.name).then(
      () => null,
      (error: Error) => error,
    )
    if (kill !== null) {
      await sleep(kill.ms)
      await this.#daemon(kill.host).crash()
      await work
      await this.#daemon(kill.host).start()
      await this.#peersMeet()
    }
    const failure = await work
    if (failure !== null) {
      if (kill === null) throw failure
      this.said.push(`the delete failed: ${failure.message}`)
      await this.#coordinator.delete('lab0', chosen.name)
    }
    this.#snapshots = this.#snapshots.filter(({ name }) => name !== chosen.name)
  }

  /** The user's own script: it asks which files to start on. */
  async #startAgain(): Promise<void> {
    const disks = await this.#disks()
    const { machines } = await this.#daemon(this.#at).client.status(LONG)
    const qmp = machines.find(({ name }) => name === 'vm0')!.qmp!
    this.#launch(
      disks.map(({ layers }) => layers[0]!.file),
      qmp,
    )
    await until('QEMU', 10_000, () => (existsSync(qmp) ? true : undefined))
    this.#running = true
  }

  async #disks(): Promise<MachineDisks['disks']> {
    const { disks } = await this.#daemon(this.#at).client.machineDisks('vm0', LONG)
    return [...disks].sort((one, other) => one.name.localeCompare(other.name))
  }

  async #write(disk: number, block: number): Promise<void> {
    this.#pattern = (this.#pattern % 250) + 1
    await this.#inQemu(`qemu-io d${disk} "write -P ${this.#pattern} ${block * BLOCK} ${BLOCK}"`)
    this.#content = this.#content.map((blocks, i) =>
      i === disk ? blocks.map((byte, j) => (j === block ? this.#pattern : byte)) : blocks,
    )
    await this.#flush()
  }

  async #flush(): Promise<void> {
    for (const disk of [0, 1]) await this.#inQemu(`qemu-io d${disk} "flush"`)
  }

  async #inQemu(line: string): Promise<void> {
    const { machines } = await this.#daemon(this.#at).client.status(LONG)
    const qmp = await QmpClient.connect(machines.find(({ name }) => name === 'vm0')!.qmp!, soon(20_000))
    try {
      const said = await qmp.execute('human-monitor-command', { 'command-line': line }, soon(20_000))
      if (said !== '') throw new Error(`${line}: ${String(said)}`)
    } finally {
      qmp.close()
    }
  }

  /** What must be true now. */
  async #check(): Promise<void> {
    if (this.#running) await this.#flush()
    const manifests = (await this.#coordinator.list()).filter(({ state }) => state === 'complete')
    const names = manifests.map(({ name }) => name).sort()
    const known = this.#snapshots.map(({ name }) => name).sort()
    if (names.join() !== known.join()) throw new Error(`snapshots ${names}, and not ${known}`)
    this.#areUntouched(manifests)
    const disks = await this.#disks()
    if (this.#running || disks.length > 0) this.#holds(disks)
    if (sha256(this.#golden) !== this.#goldenDigest) throw new Error('the golden image was written')
    await this.#settles(manifests)
  }

  /** Every file that a snapshot names is as it was. */
  #areUntouched(manifests: readonly Manifest[]): void {
    for (const { name, parts } of manifests) {
      const files = parts.flatMap(({ members }) =>
        members.flatMap((member) => [
          member.memory,
          ...member.disks.flatMap((disk) => disk.layers.map(({ file }) => file)),
        ]),
      )
      for (const { path, digest } of files)
        if (!existsSync(path) || sha256(path) !== digest) throw new Error(`${path} of ${name} is gone or was changed`)
    }
  }

  #holds(disks: MachineDisks['disks']): void {
    const raw = this.#inside('content')
    for (const [i, { layers }] of disks.entries()) {
      const { file, format } = layers[0]!
      execFileSync('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', file, raw])
      const bytes = readFileSync(raw)
      const found = this.#content[i]!.map((_, block) => bytes[block * BLOCK])
      if (found.join() !== this.#content[i]!.join())
        throw new Error(`disk ${i} (${file}) holds ${found}, and not ${this.#content[i]}`)
    }
    rmSync(raw, { force: true })
  }

  /** Soon there are no files but the user's, those that snapshots name, and those of the machine's chains. */
  async #settles(manifests: readonly Manifest[]): Promise<void> {
    const named = manifests.flatMap(({ parts }) =>
      parts.flatMap(({ members }) =>
        members.flatMap(({ disks }) => disks.flatMap((one) => one.layers.map(({ file }) => file.path))),
      ),
    )
    const limit = performance.now() + QUIET_MS
    for (;;) {
      const chains = (await this.#disks()).flatMap(({ layers }) => layers.map(({ file }) => file))
      const wanted = await withBases([...this.#users, ...named, ...chains])
      const surplus = this.#images().filter((file) => !wanted.has(file))
      const missing = [...wanted].filter((file) => !existsSync(file))
      if (missing.length > 0) throw new Error(`${missing} is missing`)
      if (surplus.length === 0) return
      if (performance.now() > limit) {
        const said = await Promise.all(
          hosts.map((host) => this.#daemon(host).client.pruneDisks({ dryRun: true, orphans: true }, LONG)),
        )
        throw new Error(
          `nobody needs ${surplus}, and it stays: ${JSON.stringify(said)}\n${hosts.map((host) => this.#daemon(host).said().slice(-3000)).join('\n')}`,
        )
      }
      await sleep(100)
    }
  }

  #images(): string[] {
    const found: string[] = []
    const walk = (directory: string) => {
      for (const name of readdirSync(directory)) {
        const path = join(directory, name)
        if (statSync(path).isDirectory()) walk(path)
        else if (/\.(qcow2|img)$/.test(name) && name !== 'memory.img') found.push(path)
      }
    }
    walk(this.#inside('vms'))
    for (const host of hosts) walk(join(this.world.state(host), 'machines'))
    return found
  }

  /** All snapshots go, in an order by chance: then there are the user's own files, up to date. */
  async finish(below: (bound: number) => number): Promise<void> {
    while (this.#snapshots.length > 0) await this.perform({ kind: 'delete', which: below(8), kill: null })
    // One that was killed after it had come back from another host cannot be made short before it runs.
    if (this.#moved || !this.#running) return
    const limit = performance.now() + QUIET_MS
    while (this.#images().sort().join() !== [...this.#users].sort().join()) {
      if (performance.now() > limit) throw new Error(`left in the end: ${this.#images()}`)
      await sleep(100)
    }
    for (const process of this.machines()) await killProcess(process, soon(5000))
    this.#holds([
      { name: 'd0', layers: [{ file: this.#users[0]!, format: 'raw' }] },
      { name: 'd1', layers: [{ file: this.#users[1]!, format: 'qcow2' }] },
    ])
    for (const file of this.#users)
      if ((statSync(file).mode & 0o200) === 0) throw new Error(`${file} cannot be written`)
  }
}

/**
 * With all that their headers name: a restore may have found a lower image elsewhere, by its content, and a script of
 * the user's goes by the headers.
 */
async function withBases(files: readonly string[]): Promise<Set<string>> {
  const found = new Set<string>()
  for (const waiting = [...files]; waiting.length > 0; ) {
    const file = waiting.pop()!
    if (found.has(file)) continue
    found.add(file)
    const header = existsSync(file) ? await readQcow2Header(file) : null
    if (header?.backing != null) waiting.push(...filesOfBacking(header.backing, file))
  }
  return found
}

const sha256 = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex')

/** A history of `steps` steps; throws with all that was done when something is not as it should be. */
export async function runHistory(
  world: World,
  seed: number,
  steps: number,
  until = Number.POSITIVE_INFINITY,
): Promise<number> {
  const below = chance(seed)
  const history = await History.begin(world)
  let done = 0
  try {
    for (; done < steps && performance.now() < until; done++) await history.perform(randomStep(below))
    await history.finish(below)
    return done
  } catch (thrown) {
    throw new Error(`seed ${seed}, step ${done}: ${(thrown as Error).stack}\n${history.said.join('\n')}`, {
      cause: thrown,
    })
  } finally {
    await history.end()
  }
}
