// A switch's forwarder, ports and fast path in the test's own thread, its devices in a namespace of the test's: so that
// the path can be changed thousands of times, at any point between two batches.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { PortRules } from '../../src/api/schemas.js'
import { quietLink } from '../../src/linux/ingress.js'
import { check, libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import { openPortSocketsNow } from '../../src/linux/port-sockets.js'
import { Backlogs } from '../../src/linux/processors.js'
import { createTap, openTap } from '../../src/linux/tap.js'
import { KernelHooks } from '../../switch/datapath/kernel/hooks.js'
import { KernelPath } from '../../switch/datapath/kernel/kernel-path.js'
import { LinuxKernel } from '../../switch/datapath/kernel/linux-kernel.js'
import { PacketPort } from '../../switch/datapath/port/packet-port.js'
import { createCounters, readPortCounters } from '../../switch/forwarding/counters.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { NetworkOptions } from '../../switch/forwarding/network.js'
import type { PortSpec } from '../../switch/forwarding/port-state.js'
import { Bypass } from '../../switch/takeover/bypass.js'
import { run, until } from '../linux/namespace.js'
import { packetSocket } from '../linux/wire.js'
import { patience } from '../patience.js'
import { type Fate, numbered, type Traffic, Word } from './traffic.js'

const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33

export function setReceiveBuffer(fd: number): void {
  const value = new Uint8Array(Int32Array.of(64 * 1024 * 1024).buffer)
  check(libc().setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, value, 4), 'SO_RCVBUFFORCE')
}

export const OPTIONS: NetworkOptions = {
  network: 'lab0',
  host: 'here',
  bootId: '0123456789abcdef',
  bootedAt: 1,
  linkLocal: 'drop',
  pause: 'drop',
  transit: false,
  fdb: { capacity: 1024, perPort: 256, ageing: 300 },
  hold: { frames: 10_000, bytes: 16 * 1024 * 1024 },
  networkHold: { frames: 20_000, bytes: 32 * 1024 * 1024 },
  record: { frames: 10_000, bytes: 16 * 1024 * 1024 },
  closureDeadline: 200,
  controlKey: null,
}

export class Rig {
  readonly counters = createCounters()
  readonly forwarder: Forwarder
  /** The control thread's part, which this thread has, too. */
  readonly hooks = new KernelHooks((state) => this.kernel.hooked(state))
  readonly kernel = new KernelPath(this.counters, new LinuxKernel(this.hooks.programs), {
    ask: ({ index, ifindex, inBridge }) => this.hooks.want({ network: 'lab0', index, ifindex, inBridge }),
    busy: ({ index }) => this.hooks.hasten(index),
  })
  readonly ports: PacketPort[] = []
  /** Descriptors of the far ends. */
  readonly ends: number[] = []
  readonly isTap: boolean
  now = Date.now()
  /** Another host's, which goes on when this one does. */
  peer: Rig | null = null
  readonly #links = new Links()
  readonly #queues = new Backlogs()
  #hasKernel = true
  /** Its devices stay in one. */
  readonly #bridge: string | null
  /** Keeps that one out of them. */
  bypass: Bypass | null = null

  /**
   * `host`: in names of devices. `bridge`: it is made, and keeps the devices, as one that was taken over. `rules`: of
   * each port.
   */
  constructor(
    count: number,
    isTap: boolean,
    kind: PortSpec['kind'] = 'plain',
    host = '',
    bridge: string | null = null,
    rules: readonly PortRules[] = [],
  ) {
    this.isTap = isTap
    this.#bridge = bridge
    if (bridge !== null) {
      run('ip', 'link', 'add', bridge, 'type', 'bridge')
      setUp(bridge)
      const { index } = this.#links.get(bridge)
      this.bypass = new Bypass(index, index)
    }
    const options = { ...OPTIONS, host: host === '' ? 'here' : host, bootId: `0123456789abcde${host.length}` }
    this.forwarder = new Forwarder(options, this.counters, { early() {}, closed() {}, peer() {} })
    this.kernel.addNetwork(this.forwarder)
    for (let i = 0; i < count; i++) this.#addEnd(i, kind, host, rules[i])
    this.forwarder.network.raiseEpoch(1)
  }

  #addEnd(index: number, kind: PortSpec['kind'], host: string, rules?: PortRules): void {
    const device = `${this.isTap ? 'tap' : 'veth'}${host}${index}`
    const far = `far${host}${index}`
    if (this.isTap) createTap(device)
    else run('ip', 'link', 'add', device, 'type', 'veth', 'peer', 'name', far)
    if (this.isTap) this.ends.push(openTap(device, { nonBlocking: true }))
    else {
      setUp(far)
      this.ends.push(packetSocket(this.#links.get(far).index))
    }
    this.add(index, kind, device, rules)
  }

  /** A port on a device that is there. */
  add(index: number, kind: PortSpec['kind'], device: string, rules?: PortRules): void {
    const link = this.#bridge === null ? this.quiet(device) : this.#links.get(device)
    if (this.#bridge !== null) run('ip', 'link', 'set', device, 'master', this.#bridge)
    this.bypass?.take([link])
    setUp(device)
    const place = { device, ifindex: link.index, kind: link.kind, inBridge: this.bypass !== null }
    const sockets = openPortSocketsNow(place, 4)
    const port = new PacketPort(index, device, place, sockets, { send: () => 90 }, this.counters)
    this.ports.push(port)
    const mac = Uint8Array.of(2, 0, 0, 1, this.forwarder.network.options.host.charCodeAt(0), index)
    const spec = { index, name: device, kind, vm: kind === 'member' ? device : null, epoch: 1, mac, rules }
    this.forwarder.addPort(spec, port)
    this.kernel.addPort(port, this.forwarder)
  }

  /** Our filter is at its ingress hook. */
  quiet(device: string): Link {
    const link = this.#links.get(device)
    quietLink(this.#links, link)
    return link
  }

  /** One round of the datapath's loop. */
  round(): number {
    let received = 0
    for (const port of this.ports) received += port.receive(this, this.now)
    if (received > 0) this.flush()
    return received + (this.peer?.round() ?? 0)
  }

  flush(): void {
    for (const port of this.ports) port.flush()
    for (const port of this.ports) port.release()
  }

  receive(port: number, frame: Parameters<Forwarder['receive']>[1], now: number): void {
    this.forwarder.receive(port, frame, now)
  }

  get isFast(): boolean {
    return this.kernel.paths(this.forwarder).every(({ why }) => why === null)
  }

  pass(milliseconds: number): void {
    // Peers that hear nothing of each other for seconds begin anew: no time passes before the kernel has brought what
    // they have said.
    if (this.peer !== null) this.#queues.drained(patience(1000))
    const before = this.now
    this.now += milliseconds
    if (this.#hasKernel && Math.floor(before / 1000) !== Math.floor(this.now / 1000)) this.hooks.look()
    this.forwarder.tick(this.now)
    this.flush()
    this.kernel.tick(this.now)
    this.peer?.pass(milliseconds)
  }

  /** Time passes until the ports are fast, or for as long as it takes to see that they will not be. */
  becomeFast(rounds = 2000): boolean {
    for (let i = 0; i < rounds; i++) {
      this.round()
      this.pass(110)
      if (this.isFast && this.peer?.isFast !== false) return true
    }
    return false
  }

  /** Each end has spoken. */
  learn(): void {
    const ends = [...this.ends, ...(this.peer?.ends ?? [])]
    const to = ends.length
    for (const [from, fd] of ends.entries()) {
      const frame = numbered(from, to)
      check(this.isTap ? libc().write(fd, frame, frame.length) : libc().send(fd, frame, frame.length, 0), 'send')
    }
    for (let i = 0; i < 100; i++) this.round()
  }

  counted(index: number) {
    this.kernel.paths(this.forwarder)
    this.ports[index]!.housekeeping()
    return readPortCounters(this.counters, index)
  }

  /**
   * Numbered frames go from each end to each other while `act` runs, in which the rig must be kept going. Returns what
   * was sent, and what became of it.
   */
  async under(
    options: Pick<Traffic, 'burst' | 'pauseMs'>,
    act: () => void,
  ): Promise<{ sent: number[][]; fates: Fate[][] }> {
    const words = new SharedArrayBuffer(16)
    const state = new Int32Array(words)
    state[Word.STOP] = -1
    const { isTap } = this
    const ends = [...this.ends, ...(this.peer?.ends ?? [])]
    const start = (role: Traffic['role']) => {
      const workerData: Traffic = { role, ends, isTap, words, ...options }
      return new Worker(new URL('./traffic.js', import.meta.url), { workerData })
    }
    const reader = start('read')
    const sender = start('send')
    await until(() => Atomics.load(state, Word.READY) === 2, 'traffic', 20_000)
    const said = [sender, reader].map((worker) => once(worker, 'message'))
    Atomics.store(state, Word.STOP, 0)
    Atomics.notify(state, Word.STOP)
    act()
    Atomics.store(state, Word.STOP, 1)
    Atomics.notify(state, Word.STOP)
    const [sent] = (await this.#untilSaid(said[0]!)) as [number[][]]
    Atomics.store(state, Word.STOP, 2)
    const [fates] = (await this.#untilSaid(said[1]!)) as [Fate[][]]
    return { sent, fates }
  }

  /** Frames are under way yet. */
  async #untilSaid<T>(said: Promise<T>): Promise<T> {
    let done = false
    const finished = said.finally(() => {
      done = true
    })
    while (!done) {
      for (let i = 0; i < 50; i++) this.round()
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    return await finished
  }

  /** Without the fast path from now on. */
  withoutKernel(): void {
    if (this.#hasKernel) {
      this.kernel.close()
      this.hooks.takeBack()
      this.hooks.close()
    }
    this.#hasKernel = false
  }

  /** As while a daemon is being killed: its sockets and rules are gone, the programs at its devices are not yet. */
  die(): void {
    this.kernel.close()
    for (const port of this.ports.splice(0)) port.close()
    this.bypass?.close()
    this.bypass = null
    this.#hasKernel = false
  }

  close(): void {
    this.withoutKernel()
    for (const port of this.ports) port.close()
    for (const fd of this.ends) libc().close(fd)
    this.bypass?.close()
    this.#links.close()
    this.#queues.close()
  }
}

function setUp(device: string): void {
  run('sysctl', '-qw', `net.ipv6.conf.${device}.disable_ipv6=1`)
  run('ip', 'link', 'set', device, 'up')
}
