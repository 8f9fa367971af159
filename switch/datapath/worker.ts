// The datapath thread: receive a batch -> forward -> flush, to completion, for as long as the daemon lives. Blocks
// in poll, never in the event loop; commands are drained between batches.

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { formatMac } from '../../src/frame/ethernet.js'
import type { Frame } from '../../src/frame/frame.js'
import { ownThread, raisePriority } from '../../src/linux/priority.js'
import { Counter, type CounterTable } from '../forwarding/counters.js'
import { Forwarder } from '../forwarding/forwarder.js'
import type { SnapshotSide } from '../forwarding/snapshot-side.js'
import { PacketPort } from '../port/packet-port.js'
import type { FrameSink, Port } from '../port/port.js'
import { PollSet } from './poll-set.js'
import type { CommandName, Commands, FdbRow, FromWorker, Opening, Request, WorkerInput } from './protocol.js'

/** Milliseconds that a command waits at most while frames flow. */
const LOOK_INTERVAL = 0.05
/** Bound of a drain: a paused VM sends nothing, so what is queued is at most a socket buffer full. */
const DRAIN_BATCHES = 4096
const HOUSEKEEPING_INTERVAL = 1000
const TICK_INTERVAL = 100
const TICK_INTERVAL_OPEN = 5

interface Network {
  readonly forwarder: Forwarder
  readonly ports: Map<number, Port>
}

/** Unix time in milliseconds, monotonic within the thread. */
function clock(): number {
  return performance.timeOrigin + performance.now()
}

class DatapathLoop implements FrameSink {
  private readonly input: WorkerInput
  private readonly counters: CounterTable
  private readonly networks = new Map<string, Network>()
  private readonly ports: Port[] = []
  private readonly forwarderOf: Forwarder[] = []
  private readonly pollSet: PollSet
  private running = true

  constructor(input: WorkerInput) {
    this.input = input
    this.counters = new Float64Array(input.counters)
    this.pollSet = new PollSet(input.wakeFd)
  }

  receive(port: number, frame: Frame, now: number): void {
    this.forwarderOf[port].receive(port, frame, now)
  }

  /** Until `stop`, or until something fails that must not: then the ports are closed all the same, for a new worker to open. */
  run(): void {
    try {
      this.loop()
    } finally {
      for (const port of this.ports) port.close()
    }
  }

  /**
   * The ports are asked for frames directly: their rings are memory, and poll takes the very locks that the kernel needs to
   * fill them. poll is for waiting, and for what memory does not tell: commands, and devices that fail.
   */
  private loop(): void {
    const { poll, spinUs } = this.input
    let nextTick = 0
    let nextHousekeeping = 0
    let nextLook = 0
    let lastFrame = 0
    while (this.running) {
      const now = clock()
      const received = this.receiveAll(now)
      if (received > 0) lastFrame = now
      const mayWait = received === 0 && (poll === 'sleep' || (poll === 'adaptive' && (now - lastFrame) * 1000 > spinUs))
      if (mayWait || now >= nextLook) {
        this.look(mayWait ? Math.ceil(Math.max(0, Math.min(nextTick - now, TICK_INTERVAL))) : 0)
        nextLook = clock() + LOOK_INTERVAL
      }
      if (now < nextTick) continue
      nextTick = now + this.tick(now)
      if (now < nextHousekeeping) continue
      nextHousekeeping = now + HOUSEKEEPING_INTERVAL
      for (const port of this.ports) port.housekeeping()
    }
  }

  /** Waits up to `timeout` milliseconds for frames, commands or failures, and sees to the latter two. */
  private look(timeout: number): void {
    if (this.pollSet.wait(timeout) === 0) return
    for (let i = 0; i < this.ports.length; i++) if (this.pollSet.hasFailed(i)) this.ports[i].failed()
    if (this.pollSet.takeWake()) this.drainCommands()
  }

  /** Returns milliseconds until the next tick is due. */
  private tick(now: number): number {
    let interval = TICK_INTERVAL
    for (const { forwarder } of this.networks.values()) {
      forwarder.tick(now)
      if (forwarder.snapshots.openEpoch !== null) interval = TICK_INTERVAL_OPEN
    }
    this.flushAll()
    return interval
  }

  /** At most one batch of each port. */
  private receiveAll(now: number): number {
    let received = 0
    for (let i = 0; i < this.ports.length; i++) received += this.ports[i].receive(this, now)
    if (received > 0) this.flushAll()
    return received
  }

  private flushAll(): void {
    const ports = this.ports
    for (let i = 0; i < ports.length; i++) ports[i].flush()
    for (let i = 0; i < ports.length; i++) ports[i].release()
  }

  private drainCommands(): void {
    for (;;) {
      const message = receiveMessageOnPort(parentPort!)
      if (message === undefined) return
      const request = message.message as Request
      try {
        const result = this.perform(request.name, request.args)
        this.publishStates()
        post({ kind: 'reply', id: request.id, result })
      } catch (error) {
        post({ kind: 'refusal', id: request.id, error: asSnapswitchError(error).report() })
      }
    }
  }

  /** Epochs and gates only change by commands; others read them where they read the counters. */
  private publishStates(): void {
    for (const { forwarder } of this.networks.values()) {
      for (const port of forwarder.ports) {
        this.counters[port.row + Counter.epoch] = port.epoch
        this.counters[port.row + Counter.gateClosed] = port.closed ? 1 : 0
      }
    }
  }

  private perform<K extends CommandName>(name: K, args: Commands[K]['args']): Commands[K]['result'] {
    return this.handlers[name](args)
  }

  private network(name: string): Network {
    const network = this.networks.get(name)
    if (network === undefined) {
      throw new SnapswitchError(
        'NETWORK_UNKNOWN',
        `no network ${name} here`,
        '`snapswitch status` lists the networks of this host.',
      )
    }
    return network
  }

  private readonly handlers: { [K in CommandName]: (args: Commands[K]['args']) => Commands[K]['result'] } = {
    addNetwork: ({ options, epoch, fence }) => {
      const name = options.network
      const forwarder = new Forwarder(options, this.counters, {
        early: (port, epoch) => post({ kind: 'early', network: name, port, epoch }),
        peer: (port, host, bootId, epoch) => post({ kind: 'peer', network: name, port, host, bootId, epoch }),
        closed: (epoch, closures) => post({ kind: 'closed', network: name, epoch, closures }),
        broken: (epoch, port, host) => post({ kind: 'broken', network: name, epoch, port, host }),
        refused: (port, reason) => post({ kind: 'refused', network: name, port, reason }),
      })
      forwarder.epoch = epoch
      forwarder.fence = fence
      this.networks.set(name, { forwarder, ports: new Map() })
      return null
    },
    addPort: ({ network, spec, device }) => {
      const { forwarder, ports } = this.network(network)
      const port = new PacketPort(spec.index, spec.name, device.device, device.ifindex, this.counters)
      const added = forwarder.addPort(spec, port)
      // Before any frame: the peer must know that this end is new to read what comes from it.
      if (added.isTrunk) forwarder.trunks.greet(added, clock())
      ports.set(spec.index, port)
      this.forwarderOf[spec.index] = forwarder
      this.ports.push(port)
      this.pollSet.watch(this.ports)
      return null
    },
    removePort: ({ network, index }) => {
      const { forwarder, ports } = this.network(network)
      const port = ports.get(index)
      if (port === undefined) return null
      forwarder.removePort(index)
      ports.delete(index)
      this.ports.splice(this.ports.indexOf(port), 1)
      this.pollSet.watch(this.ports)
      port.close()
      return null
    },
    begin: ({ network, epoch, policy, until }) => {
      this.network(network).forwarder.snapshots.begin(epoch, policy, until, clock())
      this.flushAll()
      return null
    },
    arm: ({ network, ports }) => {
      this.network(network).forwarder.snapshots.arm(ports)
      return null
    },
    record: ({ network, memory }) => {
      const { forwarder, ports } = this.network(network)
      // Kernel drops are read now: what was lost before or after is no matter of the recording.
      for (const port of ports.values()) port.housekeeping()
      forwarder.snapshots.journal(memory, clock())
      const ways = forwarder.ports.filter((port) => port.channel !== null)
      return ways.map((way) => ({ index: way.index, port: way.spec.index, host: way.channel!.host }))
    },
    gate: ({ network, ports }) => {
      const { forwarder } = this.network(network)
      if (forwarder.journal !== null) forwarder.journal.now = clock()
      forwarder.snapshots.gate(ports)
      this.flushAll()
      return { held: ports.map((index) => forwarder.byIndex[index]?.hold.length ?? 0) }
    },
    flip: ({ network, ports: indexes, epoch, residue }) => {
      const { forwarder, ports } = this.network(network)
      for (const index of indexes) this.drain(ports.get(index))
      const now = clock()
      const results = forwarder.snapshots.flip(indexes, epoch, residue, now)
      this.flushAll()
      return { atUs: Math.round(now * 1000), ports: results }
    },
    release: ({ network, ports, most }) =>
      this.opening(network, (snapshots, now) => snapshots.release(ports, now, most)),
    drain: ({ network, ports, most }) => this.opening(network, (snapshots, now) => snapshots.drain(ports, now, most)),
    end: ({ network }) => this.network(network).forwarder.snapshots.end(),
    advance: ({ network, epoch, most }) =>
      this.opening(network, (snapshots, now) => snapshots.advance(epoch, now, most)),
    fence: ({ network, ports: indexes, epoch }) => {
      const { forwarder, ports } = this.network(network)
      // What a machine that has just ended left behind keeps its old color, and so stops at the fence.
      for (const index of indexes) this.drain(ports.get(index))
      forwarder.snapshots.fence(indexes, epoch, clock())
      this.flushAll()
      return null
    },
    preload: ({ network, port, frames }) => {
      this.network(network).forwarder.snapshots.preload(port, frames)
      return null
    },
    announce: ({ network, port, mac }) => {
      this.network(network).forwarder.snapshots.announce(port, mac, clock())
      this.flushAll()
      return null
    },
    fdb: ({ network }) => {
      const rows: FdbRow[] = []
      const { fdb, byIndex } = this.network(network).forwarder
      fdb.visit(
        (high, low, vlan, index, ageSeconds) => {
          // What was learned from a peer on a LAN is behind the uplink.
          const port = byIndex[index]?.spec.index ?? index
          rows.push({ mac: formatMac(high, low), vlan, port, ageSeconds })
        },
        Math.floor(clock() / 1000),
      )
      return rows
    },
    network: ({ network }) => {
      const { forwarder } = this.network(network)
      const now = clock()
      const trunks = forwarder.ports.filter((port) => port.isTrunk)
      return {
        epoch: forwarder.epoch,
        fdbEntries: forwarder.fdb.size,
        peers: trunks.map((port) => ({
          port: port.spec.index,
          host: port.channel!.host,
          bootId: port.channel!.bootId,
          alive: forwarder.trunks.isAlive(port, now),
          lastHeardMs: Number.isFinite(port.channel!.lastHeard) ? Math.round(now - port.channel!.lastHeard) : null,
        })),
      }
    },
    stop: () => {
      this.running = false
      return null
    },
  }

  /** A command that opens gates. */
  private opening(network: string, open: (snapshots: SnapshotSide, now: number) => void): Opening {
    const { snapshots } = this.network(network).forwarder
    const now = clock()
    open(snapshots, now)
    this.flushAll()
    return { opening: snapshots.opening(), atUs: Math.round(now * 1000) }
  }

  private drain(port: Port | undefined): void {
    if (port === undefined) return
    for (let batch = 0; batch < DRAIN_BATCHES && port.receive(this, clock()) > 0; batch++) this.flushAll()
  }
}

function post(message: FromWorker): void {
  parentPort!.postMessage(message)
}

if (parentPort !== null) {
  raisePriority()
  const loop = new DatapathLoop(workerData as WorkerInput)
  post({ kind: 'ready', thread: ownThread() })
  loop.run()
}
