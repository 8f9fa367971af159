// What the control thread asks of the datapath (protocol.ts), performed between two batches of its loop.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { libc } from '../../src/linux/libc.js'
import { nowMs } from '../../src/runtime/clock.js'
import { Counter, type CounterTable } from '../forwarding/counters.js'
import { eventsTo, Forwarder, type ForwarderEvent } from '../forwarding/forwarder.js'
import { Core } from './core.js'
import { needsEveryFrame } from './kernel/commands.js'
import type { FastPort } from './kernel/kernel.js'
import { KernelPath } from './kernel/kernel-path.js'
import type { Programs } from './kernel/layout.js'
import { LinuxKernel } from './kernel/linux-kernel.js'
import { DatapathLoop } from './loop.js'
import { type Handlers, networkCommands } from './network-commands.js'
import { PlayInput } from './play-input.js'
import { OversizeSender } from './port/oversize-sender.js'
import { PacketPort } from './port/packet-port.js'
import type { Port, PortTrouble } from './port/port.js'
import type { CommandName, Commands, FromWorker, Request, WorkerInput } from './protocol.js'

export class CommandHandlers {
  readonly #loop: DatapathLoop
  readonly #counters: CounterTable
  readonly #oversize: OversizeSender
  readonly #networks = new Map<string, Core>()
  readonly #plays = new Map<number, PlayInput>()
  #fast: KernelPath | null = null

  constructor(input: WorkerInput) {
    this.#counters = new Float64Array(input.counters)
    this.#loop = new DatapathLoop(
      input,
      () => this.#performAll(),
      ({ index, ifindex }) => {
        for (const [network, { ports }] of this.#networks)
          if (ports.has(index)) post({ kind: 'unbound', network, port: index, ifindex })
      },
      ({ index }) => {
        // What is redirected to it is lost from now on.
        for (const { forwarder, ports } of this.#networks.values()) if (ports.has(index)) this.#fast?.slow(forwarder)
      },
      () => post({ kind: 'news' }),
      (now) => this.#fast?.tick(now) ?? Number.POSITIVE_INFINITY,
    )
    this.#oversize = new OversizeSender(input.oversize)
  }

  /** Until `stop`, or until something fails that must not. */
  run(): void {
    try {
      this.#loop.run(() => this.#fast?.close())
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
        this.#makeSlow(request)
        if (request.name === 'network') this.#count(request.args)
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

  /** Whatever changes a network's state, but for its addresses, finds all its frames here. */
  #makeSlow({ name, args }: Request): void {
    if (this.#fast === null || !needsEveryFrame(name)) return
    const network = args !== null && 'network' in args ? this.#networks.get(args.network) : undefined
    if (network !== undefined) this.#fast.slow(network.forwarder)
  }

  /** Counters are up to date when this returns. */
  #count(args: Request['args']): void {
    const network = args !== null && 'network' in args ? this.#networks.get(args.network) : undefined
    if (network !== undefined) this.#fast?.count(network.forwarder)
  }

  #openFastPath(programs: Programs): void {
    if (this.#fast !== null) return
    const say = (kind: 'hook' | 'busy', { index, ifindex, inBridge }: FastPort) => {
      for (const [network, { ports }] of this.#networks)
        if (ports.get(index)?.ifindex === ifindex) post({ kind, network, index, ifindex, inBridge })
    }
    this.#fast = new KernelPath(this.#counters, new LinuxKernel(programs), {
      ask: (port) => say('hook', port),
      busy: (port) => say('busy', port),
    })
    for (const { forwarder, ports } of this.#networks.values()) {
      this.#fast.addNetwork(forwarder)
      for (const port of ports.values()) this.#addToFastPath(forwarder, port)
    }
  }

  #addToFastPath(forwarder: Forwarder, port: Port): void {
    if (port instanceof PacketPort) this.#fast?.addPort(port, forwarder)
  }

  #perform<K extends CommandName>(name: K, args: Commands[K]['args']): Commands[K]['result'] {
    return this.#handlers[name](args)
  }

  #network(name: string): Core {
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

  /** Frames and time go to somebody else from now on. */
  #handTo<Result>(core: Core, change: () => Result): Result {
    const before = core.forwarding
    const result = change()
    this.#loop.replace(before, core.forwarding)
    return result
  }

  readonly #handlers: Handlers<CommandName> = {
    ...networkCommands({
      forwarder: (network) => this.#network(network).forwarder,
      perform: (network, name, args, events) => this.#network(network).perform(name, args, events),
      now: nowMs,
      drain: (network, port) => this.#loop.drain(this.#network(network).ports.get(port)),
      housekeeping: (network) => {
        for (const port of this.#network(network).ports.values()) port.housekeeping()
      },
      flush: () => this.#loop.flushAll(),
    }),
    addNetwork: ({ options, epoch, fence }) => {
      const name = options.network
      const say = (event: ForwarderEvent) => {
        core.said(event)
        post({ ...event, network: name })
      }
      const forwarder = new Forwarder(options, this.#counters, eventsTo(say))
      const core = new Core(forwarder, this.#loop.unsent)
      forwarder.network.raiseEpoch(epoch)
      forwarder.network.raiseFence(fence)
      this.#loop.addForwarder(forwarder)
      this.#fast?.addNetwork(forwarder)
      this.#networks.set(name, core)
      return null
    },
    removeNetwork: ({ network }) => {
      const { forwarder, forwarding, ports } = this.#network(network)
      if (ports.size > 0)
        throw new SnapswitchError('INTERNAL', `network ${network} has ports yet`, 'Please report this.')
      this.#fast?.removeNetwork(forwarder)
      this.#loop.removeForwarder(forwarding)
      this.#networks.delete(network)
      return null
    },
    addPort: ({ network, spec, device, sockets }) => {
      const core = this.#network(network)
      const say = (trouble: PortTrouble) => post({ kind: 'trouble', network, port: spec.index, trouble })
      const port = new PacketPort(spec.index, spec.name, device, sockets, this.#oversize, this.#counters, say)
      try {
        core.add(spec.index, port)
        core.perform('addPort', { spec, now: nowMs() })
        this.#loop.addPort(spec.index, port, core.forwarding)
      } catch (error) {
        core.forwarder.removePort(spec.index)
        core.remove(spec.index)
        port.close()
        if (port.asideFd >= 0) libc().close(port.asideFd)
        throw error
      }
      // While it is being handed over, others have its device's hooks.
      if (device.handover === undefined) this.#addToFastPath(core.forwarder, port)
      return port.asideFd
    },
    removePort: ({ network, index }) => {
      const core = this.#network(network)
      const port = core.ports.get(index)
      if (port === undefined) return null
      this.#fast?.removePort(index, core.forwarder)
      core.perform('removePort', { index })
      core.remove(index)
      this.#loop.removePort(port)
      return null
    },
    changePort: ({ network, spec }) => {
      const core = this.#network(network)
      const port = core.ports.get(spec.index)
      if (port === undefined) return null
      this.#fast?.removePort(spec.index, core.forwarder)
      core.perform('changePort', { spec, now: nowMs() })
      this.#addToFastPath(core.forwarder, port)
      this.#loop.flushAll()
      return null
    },
    handOver: ({ network, ports: indexes, programs, drain = false }) => {
      const { forwarder, ports } = this.#network(network)
      for (const index of indexes) {
        const port = ports.get(index)
        if (port === undefined) continue
        this.#fast?.removePort(index, forwarder)
        port.handOver(programs)
        if (drain) this.#loop.drain(port)
        if (programs === null) this.#addToFastPath(forwarder, port)
      }
      return null
    },
    portChanged: ({ network, index, device }) => {
      const core = this.#network(network)
      if (!core.ports.has(index)) return null
      core.perform('portChanged', { index, device, now: nowMs() })
      this.#fast?.deviceChanged(index)
      this.#loop.flushAll()
      return null
    },
    startRecording: ({ network, memory, withKey }) => {
      const core = this.#network(network)
      return this.#handTo(core, () => core.record(memory, withKey))
    },
    continueRecording: ({ network, memory }) => {
      const core = this.#network(network)
      return this.#handTo(core, () => core.continueRecording(memory))
    },
    endRecording: ({ network }) => {
      const core = this.#network(network)
      return this.#handTo(core, () => core.endRecording())
    },
    polling: (polling) => {
      this.#loop.setPolling(polling)
      return null
    },
    play: ({ play, fd, ports }) => {
      const targets = ports.map(({ network, index }) => this.#network(network).ports.get(index) ?? null)
      const input = new PlayInput(fd, targets, () => post({ kind: 'played', play }))
      if (!this.#loop.addPlay(input)) {
        input.close()
        throw new SnapswitchError('DEVICE_BUSY', 'too many plays are under way', 'Wait until one is over.')
      }
      this.#plays.set(play, input)
      return null
    },
    endPlay: ({ play }) => {
      const input = this.#plays.get(play)
      if (input === undefined) return { frames: 0, refused: 0 }
      this.#plays.delete(play)
      this.#loop.removePlay(input)
      return { frames: input.frames, refused: input.refused }
    },
    fastPath: ({ programs }) => {
      if (programs !== null) this.#openFastPath(programs)
      else {
        this.#fast?.close()
        this.#fast = null
      }
      return null
    },
    hooked: (state) => {
      this.#fast?.hooked(state)
      return null
    },
    paths: ({ network }) => this.#fast?.paths(this.#network(network).forwarder) ?? [],
    verdicts: ({ network }) => this.#fast?.list(this.#network(network).forwarder) ?? [],
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
