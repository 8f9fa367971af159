// What the control thread asks of the datapath (protocol.ts), performed between two batches of its loop.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { formatMacWords } from '../../src/frame/mac.js'
import { nowMs } from '../../src/runtime/clock.js'
import { Counter, type CounterTable } from '../forwarding/counters.js'
import { Forwarder } from '../forwarding/forwarder.js'
import type { Snapshots } from '../forwarding/snapshot/snapshots.js'
import { OversizeSender } from '../port/oversize-sender.js'
import { PacketPort } from '../port/packet-port.js'
import type { Port } from '../port/port.js'
import { DatapathLoop } from './loop.js'
import type { CommandName, Commands, FdbRow, FromWorker, Opening, Request, WorkerInput } from './protocol.js'

interface Network {
  readonly forwarder: Forwarder
  readonly ports: Map<number, Port>
}

export class CommandHandlers {
  private readonly loop: DatapathLoop
  private readonly counters: CounterTable
  private readonly oversize = new OversizeSender()
  private readonly networks = new Map<string, Network>()

  constructor(input: WorkerInput) {
    this.counters = new Float64Array(input.counters)
    this.loop = new DatapathLoop(
      input,
      () => this.performAll(),
      ({ index, ifindex }) => {
        for (const [network, { ports }] of this.networks)
          if (ports.has(index)) post({ kind: 'unbound', network, port: index, ifindex })
      },
    )
  }

  /** Until `stop`, or until something fails that must not. */
  run(): void {
    try {
      this.loop.run()
    } finally {
      this.oversize.close()
    }
  }

  private performAll(): void {
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
      forwarder.network.raiseEpoch(epoch)
      forwarder.network.raiseFence(fence)
      this.loop.addForwarder(forwarder)
      this.networks.set(name, { forwarder, ports: new Map() })
      return null
    },
    addPort: ({ network, spec, device }) => {
      const { forwarder, ports } = this.network(network)
      const port = new PacketPort(spec.index, spec.name, device.device, device.ifindex, this.oversize, this.counters)
      const added = forwarder.addPort(spec, port)
      // Before any frame: the peer must know that this end is new to read what comes from it.
      if (added.isTrunk) forwarder.trunks.greet(added, nowMs())
      ports.set(spec.index, port)
      this.loop.addPort(spec.index, port, forwarder)
      return null
    },
    removePort: ({ network, index }) => {
      const { forwarder, ports } = this.network(network)
      const port = ports.get(index)
      if (port === undefined) return null
      forwarder.removePort(index)
      ports.delete(index)
      this.loop.removePort(port)
      return null
    },
    portChanged: ({ network, index, device }) => {
      const { forwarder, ports } = this.network(network)
      const port = ports.get(index)
      if (port === undefined) return null
      forwarder.portChanged(index, device, port, nowMs())
      this.loop.flushAll()
      return null
    },
    begin: ({ network, epoch, policy, until }) => {
      this.network(network).forwarder.snapshots.begin(epoch, policy, until, nowMs())
      this.loop.flushAll()
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
      forwarder.snapshots.record(memory, nowMs())
      const ways = forwarder.ports.filter((port) => port.channel !== null)
      return ways.map((way) => ({ index: way.index, port: way.spec.index, host: way.channel!.host }))
    },
    gate: ({ network, ports, forOther }) => {
      const { forwarder } = this.network(network)
      forwarder.snapshots.gate(ports, nowMs(), forOther)
      this.loop.flushAll()
      return { held: ports.map((index) => forwarder.byIndex[index]?.hold.length ?? 0) }
    },
    flip: ({ network, ports: indexes, epoch, residue }) => {
      const { forwarder, ports } = this.network(network)
      for (const index of indexes) this.loop.drain(ports.get(index))
      const now = nowMs()
      const results = forwarder.snapshots.flip(indexes, epoch, residue, now)
      this.loop.flushAll()
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
      for (const index of indexes) this.loop.drain(ports.get(index))
      forwarder.snapshots.fence(indexes, epoch, nowMs())
      this.loop.flushAll()
      return null
    },
    preload: ({ network, port, frames }) => {
      this.network(network).forwarder.snapshots.preload(port, frames)
      return null
    },
    announce: ({ network, port, mac }) => {
      this.network(network).forwarder.announce(port, mac, nowMs())
      this.loop.flushAll()
      return null
    },
    fdb: ({ network }) => {
      const rows: FdbRow[] = []
      const { fdb, byIndex } = this.network(network).forwarder
      fdb.visit(
        (high, low, vlan, index, ageSeconds) => {
          // What was learned from a peer on a LAN is behind the uplink.
          const port = byIndex[index]?.spec.index ?? index
          rows.push({ mac: formatMacWords(high, low), vlan, port, ageSeconds })
        },
        Math.floor(nowMs() / 1000),
      )
      return rows
    },
    network: ({ network }) => {
      const { forwarder } = this.network(network)
      const now = nowMs()
      const trunks = forwarder.ports.filter((port) => port.isTrunk)
      return {
        epoch: forwarder.network.epoch,
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
      this.loop.stop()
      return null
    },
  }

  /** A command that opens gates. */
  private opening(network: string, open: (snapshots: Snapshots, now: number) => void): Opening {
    const { snapshots } = this.network(network).forwarder
    const now = nowMs()
    open(snapshots, now)
    this.loop.flushAll()
    return { opening: snapshots.opening(), atUs: Math.round(now * 1000) }
  }
}

export function post(message: FromWorker): void {
  parentPort!.postMessage(message)
}
