// What Prometheus is told of a switch, in its text format. Everything is read when somebody asks: from shared memory,
// the kernel, and what the control thread knows; a frame costs nothing more for it. Labels are names of ports, networks
// and drop reasons, which are bounded.

import { readFileSync } from 'node:fs'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { LocalEvent, PortInfo } from '../../src/api/schemas.js'
import { nowMs } from '../../src/runtime/clock.js'
import type { Agent } from '../agent/agent.js'
import type { DaemonHost } from '../agent/host.js'
import type { Restores } from '../agent/restore/restores.js'
import type { WantedView } from '../wanted/wanted.js'

/** Milliseconds are what a cut is about; seconds are what Prometheus counts in. */
const STANDSTILL_BUCKETS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]

/** What is read of the switch, and of what snapshots and restores have come to. */
export interface Metered {
  readonly name: string
  readonly version: string
  readonly ports: Pick<DaemonHost['ports'], 'info'>
  readonly datapath: {
    readonly restarts: number
    call(command: 'network', args: { network: string }): Promise<NetworkRead>
  }
}
export type MeteredAgent = Pick<Agent, 'busy' | 'watchSnapshots'> & { readonly restores: Pick<Restores, 'outcomes'> }

interface NetworkRead {
  readonly epoch: number
  readonly fdbEntries: number
  readonly peers: readonly { readonly alive: boolean }[]
}

const port = ['network', 'port'] as const
const network = ['network'] as const

/** Of each port: which of its counters, and what it counts. */
const PORT_COUNTERS = {
  receive_frames: ['rxFrames', 'Frames that came in at the port'],
  receive_bytes: ['rxBytes', 'Bytes of these'],
  transmit_frames: ['txFrames', 'Frames that left through the port'],
  transmit_bytes: ['txBytes', 'Bytes of these'],
  receive_gso_frames: ['rxGso', 'Of the frames that came in, those that stand for several'],
  transmit_gso_frames: ['txGso', 'Of the frames that left, those that stand for several'],
  held_frames: ['held', 'Frames that have waited for a cut'],
  recorded_frames: ['recorded', 'Frames that are in a snapshot as in transit'],
  unlearned_addresses: ['unlearned', 'Frames whose source address the forwarding table had no room for'],
  ring_renewals: ['ringRenewals', 'Receive rings that took no frame any more and were made anew'],
} as const satisfies Record<string, readonly [keyof PortInfo['counters'], string]>

export class Metrics {
  readonly #host: Metered
  readonly #agent: MeteredAgent
  readonly #wanted: Pick<WantedView, 'networks'>
  readonly #registry = new Registry()
  readonly #counters: Record<string, Counter> = {}
  readonly #gauges: Record<string, Gauge> = {}
  readonly #standstill: Histogram
  readonly #startedAt = nowMs()
  /** When each machine was paused by the snapshot under way, microseconds. */
  readonly #paused = new Map<string, number>()

  constructor(host: Metered, agent: MeteredAgent, wanted: Pick<WantedView, 'networks'>) {
    this.#host = host
    this.#agent = agent
    this.#wanted = wanted
    for (const [name, [, help]] of Object.entries(PORT_COUNTERS)) this.#counter(`port_${name}_total`, help, port)
    this.#counter('port_drops_total', 'Frames that were not forwarded, by reason', [...port, 'reason'])
    this.#gauge('port_info', 'A port, its device, and the machine behind it', [...port, 'device', 'kind', 'vm'])
    this.#gauge('port_up', 'Whether the port’s device is up and has a carrier', port)
    this.#gauge('port_waiting', 'Whether the port waits for its device', port)
    this.#gauge('port_gate_closed', 'Whether frames to the port wait for a cut', port)
    this.#gauge('port_mtu_bytes', 'MTU of the port’s device', port)
    this.#gauge('network_epoch', 'Cuts that the network has made', network)
    this.#gauge('network_fdb_entries', 'Addresses in the forwarding table', network)
    this.#gauge('network_busy', 'Whether a snapshot, restore or change is under way', network)
    this.#gauge('network_peers', 'Peer switches, by whether they answer', [...network, 'alive'])
    this.#counter('snapshots_total', 'Snapshots of this host’s part, by what came of them', [...network, 'result'])
    this.#counter('restores_total', 'Restores of this host’s part, by what came of them', [...network, 'result'])
    this.#counter('datapath_restarts_total', 'How often the datapath has failed and was started again', [])
    this.#gauge('build_info', 'The version that runs', ['version', 'host'])
    this.#standstill = new Histogram({
      name: 'snapswitch_snapshot_standstill_seconds',
      help: 'How long a machine stood still for a snapshot',
      labelNames: [...network],
      buckets: STANDSTILL_BUCKETS,
      registers: [this.#registry],
    })
    this.#addProcess()
    agent.watchSnapshots((of, event) => this.#heard(of, event))
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  /** Names of all, whether there is anything to tell of them now or not. */
  names(): string[] {
    return this.#registry.getMetricsAsArray().map(({ name }) => name)
  }

  async text(): Promise<string> {
    // The datapath has counted what the kernel has forwarded when it has answered.
    await this.#readNetworks()
    this.#readPorts()
    const { datapath, version, name: host } = this.#host
    this.#set('datapath_restarts_total', {}, datapath.restarts)
    this.#gauges.build_info?.set({ version, host }, 1)
    this.#readProcess()
    return this.#registry.metrics()
  }

  #readPorts(): void {
    // A port that is gone is told of no more.
    for (const [name, metric] of Object.entries({ ...this.#counters, ...this.#gauges }))
      if (name.startsWith('port_')) metric.reset()
    for (const info of this.#host.ports.info()) {
      const labels = { network: info.network, port: info.name }
      for (const [name, [field]] of Object.entries(PORT_COUNTERS))
        this.#set(`port_${name}_total`, labels, Number(info.counters[field] ?? 0))
      const drops = { ...info.counters.drops, kernel: info.counters.kernelDrops }
      for (const [reason, count] of Object.entries(drops)) this.#set('port_drops_total', { ...labels, reason }, count)
      const { port_info, port_up, port_waiting, port_gate_closed, port_mtu_bytes } = this.#gauges
      port_info?.set({ ...labels, device: info.device, kind: info.kind, vm: info.vm ?? '' }, 1)
      port_up?.set(labels, info.up ? 1 : 0)
      port_waiting?.set(labels, info.waiting === true ? 1 : 0)
      port_gate_closed?.set(labels, info.gate === 'closed' ? 1 : 0)
      port_mtu_bytes?.set(labels, info.mtu)
    }
  }

  async #readNetworks(): Promise<void> {
    const { network_epoch, network_fdb_entries, network_busy, network_peers } = this.#gauges
    for (const metric of [network_epoch, network_fdb_entries, network_busy, network_peers]) metric?.reset()
    const { restores } = this.#agent
    for (const name of this.#wanted.networks()) {
      const labels = { network: name }
      // Nothing is said of one that has just gone.
      const found = await this.#host.datapath.call('network', { network: name }).catch(() => null)
      if (found === null) continue
      network_epoch?.set(labels, found.epoch)
      network_fdb_entries?.set(labels, found.fdbEntries)
      network_busy?.set(labels, this.#agent.busy(name) === null ? 0 : 1)
      for (const alive of [true, false])
        network_peers?.set(
          { ...labels, alive: String(alive) },
          found.peers.filter((peer) => peer.alive === alive).length,
        )
      const { done, undone } = restores.outcomes(name)
      this.#set('restores_total', { ...labels, result: 'done' }, done)
      this.#set('restores_total', { ...labels, result: 'undone' }, undone)
    }
  }

  #heard(of: string, event: LocalEvent): void {
    switch (event.type) {
      case 'paused':
        this.#paused.set(event.vm, event.atUs)
        return
      case 'resumed': {
        const since = this.#paused.get(event.vm)
        if (since !== undefined) this.#standstill.observe({ network: of }, (event.atUs - since) / 1e6)
        this.#paused.delete(event.vm)
        return
      }
      case 'done':
      case 'failed':
        this.#counters.snapshots_total?.inc({ network: of, result: event.type })
    }
  }

  #addProcess(): void {
    const registers = [this.#registry]
    this.#counters.cpu = new Counter({
      name: 'process_cpu_seconds_total',
      help: 'Time that the daemon has used of processors',
      registers,
    })
    const gauge = (key: string, name: string, help: string) => {
      this.#gauges[key] = new Gauge({ name, help, registers })
    }
    gauge('memory', 'process_resident_memory_bytes', 'Memory of the daemon that is not swapped out')
    gauge('heap', 'nodejs_heap_size_used_bytes', 'Memory of the JavaScript engine, of the control thread')
    gauge('start', 'process_start_time_seconds', 'When the daemon began, Unix time')
    gauge('descriptors', 'process_open_fds', 'Room in the daemon’s table of open files')
  }

  #readProcess(): void {
    const { user, system } = process.cpuUsage()
    this.#counters.cpu?.reset()
    this.#counters.cpu?.inc((user + system) / 1e6)
    const { rss, heapUsed } = process.memoryUsage()
    this.#gauges.memory?.set(rss)
    this.#gauges.heap?.set(heapUsed)
    this.#gauges.start?.set(this.#startedAt / 1000)
    this.#gauges.descriptors?.set(
      Number(/^FDSize:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? 0),
    )
  }

  /** What is counted elsewhere. */
  #set(name: string, labels: Record<string, string>, count: number): void {
    const counter = this.#counters[name]
    counter?.remove(labels)
    counter?.inc(labels, count)
  }

  #counter(name: string, help: string, labelNames: readonly string[]): void {
    this.#counters[name] = new Counter({
      name: `snapswitch_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [this.#registry],
    })
  }

  #gauge(name: string, help: string, labelNames: readonly string[]): void {
    this.#gauges[name] = new Gauge({
      name: `snapswitch_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [this.#registry],
    })
  }
}
