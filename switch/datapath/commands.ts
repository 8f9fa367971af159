// What the control thread asks of the datapath (protocol.ts), performed between two batches of its loop.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { nowMs } from '../../src/runtime/clock.js'
import { Counter, type CounterTable } from '../forwarding/counters.js'
import { Forwarder } from '../forwarding/forwarder.js'
import { DatapathLoop } from './loop.js'
import { type Handlers, networkCommands } from './network-commands.js'
import { OversizeSender } from './port/oversize-sender.js'
import { PacketPort } from './port/packet-port.js'
import type { Port, PortTrouble } from './port/port.js'
import type { CommandName, Commands, FromWorker, Request, WorkerInput } from './protocol.js'

interface Network {
  readonly forwarder: Forwarder
  readonly ports: Map<number, Port>
}

export class CommandHandlers {
  readonly #loop: DatapathLoop
  readonly #counters: CounterTable
  readonly #oversize: OversizeSender
  readonly #networks = new Map<string, Network>()

  constructor(input: WorkerInput) {
    this.#counters = new Float64Array(input.counters)
    this.#loop = new DatapathLoop(
      input,
      () => this.#performAll(),
      ({ index, ifindex }) => {
        for (const [network, { ports }] of this.#networks)
          if (ports.has(index)) post({ kind: 'unbound', network, port: index, ifindex })
      },
    )
    this.#oversize = new OversizeSender(input.oversize)
  }

  /** Until `stop`, or until something fails that must not. */
  run(): void {
    try {
      this.#loop.run()
    } finally {
      this.#oversize.close()
    }
  }

  #performAll(): void {
    for (;;) {
      const message = receiveMessageOnPort(parentPort!)
      if (message === undefined) return
      const request = message.message as Request
      try {
        const result = this.#perform(request.name, request.args)
        this.#publishStates()
        post({ kind: 'reply', id: request.id, result })
      } catch (error) {
        post({ kind: 'refusal', id: request.id, error: asSnapswitchError(error).report() })
      }
    }
  }

  /** Epochs and gates only change by commands; others read them where they read the counters. */
  #publishStates(): void {
    for (const { forwarder } of this.#networks.values()) {
      for (const port of forwarder.ports) {
        this.#counters[port.row + Counter.epoch] = port.epoch
        this.#counters[port.row + Counter.gateClosed] = port.closed ? 1 : 0
      }
    }
  }

  #perform<K extends CommandName>(name: K, args: Commands[K]['args']): Commands[K]['result'] {
    return this.#handlers[name](args)
  }

  #network(name: string): Network {
    const network = this.#networks.get(name)
    if (network === undefined) {
      throw new SnapswitchError(
        'NETWORK_UNKNOWN',
        `no network ${name} here`,
        '`snapswitch status` lists the networks of this host.',
      )
    }
    return network
  }

  readonly #handlers: Handlers<CommandName> = {
    ...networkCommands({
      forwarder: (network) => this.#network(network).forwarder,
      now: nowMs,
      drain: (network, port) => this.#loop.drain(this.#network(network).ports.get(port)),
      housekeeping: (network) => {
        for (const port of this.#network(network).ports.values()) port.housekeeping()
      },
      flush: () => this.#loop.flushAll(),
    }),
    addNetwork: ({ options, epoch, fence }) => {
      const name = options.network
      const forwarder = new Forwarder(options, this.#counters, {
        early: (port, epoch) => post({ kind: 'early', network: name, port, epoch }),
        peer: (port, host, bootId, epoch) => post({ kind: 'peer', network: name, port, host, bootId, epoch }),
        closed: (epoch, closures) => post({ kind: 'closed', network: name, epoch, closures }),
        broken: (epoch, port, host) => post({ kind: 'broken', network: name, epoch, port, host }),
        refused: (port, reason) => post({ kind: 'refused', network: name, port, reason }),
      })
      forwarder.network.raiseEpoch(epoch)
      forwarder.network.raiseFence(fence)
      this.#loop.addForwarder(forwarder)
      this.#networks.set(name, { forwarder, ports: new Map() })
      return null
    },
    removeNetwork: ({ network }) => {
      const { forwarder, ports } = this.#network(network)
      if (ports.size > 0)
        throw new SnapswitchError('INTERNAL', `network ${network} has ports yet`, 'Please report this.')
      this.#loop.removeForwarder(forwarder)
      this.#networks.delete(network)
      return null
    },
    addPort: ({ network, spec, device, sockets }) => {
      const { forwarder, ports } = this.#network(network)
      const say = (trouble: PortTrouble) => post({ kind: 'trouble', network, port: spec.index, trouble })
      const port = new PacketPort(spec.index, spec.name, device, sockets, this.#oversize, this.#counters, say)
      const added = forwarder.addPort(spec, port)
      // Before any frame: the peer must know that this end is new to read what comes from it.
      if (added.isTrunk) forwarder.trunks.greet(added, nowMs())
      ports.set(spec.index, port)
      this.#loop.addPort(spec.index, port, forwarder)
      return port.asideFd
    },
    removePort: ({ network, index }) => {
      const { forwarder, ports } = this.#network(network)
      const port = ports.get(index)
      if (port === undefined) return null
      forwarder.removePort(index)
      ports.delete(index)
      this.#loop.removePort(port)
      return null
    },
    changePort: ({ network, spec }) => {
      const { forwarder, ports } = this.#network(network)
      const port = ports.get(spec.index)
      if (port === undefined) return null
      const changed = forwarder.portReplaced(spec, port, nowMs())
      if (changed.isTrunk) forwarder.trunks.greet(changed, nowMs())
      this.#loop.flushAll()
      return null
    },
    handOver: ({ network, ports: indexes, programs, drain = false }) => {
      const { ports } = this.#network(network)
      for (const index of indexes) {
        ports.get(index)?.handOver(programs)
        if (drain) this.#loop.drain(ports.get(index))
      }
      return null
    },
    portChanged: ({ network, index, device }) => {
      const { forwarder, ports } = this.#network(network)
      const port = ports.get(index)
      if (port === undefined) return null
      forwarder.portChanged(index, device, port, nowMs())
      this.#loop.flushAll()
      return null
    },
    polling: (polling) => {
      this.#loop.setPolling(polling)
      return null
    },
    ping: () => null,
    stop: () => {
      this.#loop.stop()
      return null
    },
  }
}

export function post(message: FromWorker): void {
  parentPort!.postMessage(message)
}
