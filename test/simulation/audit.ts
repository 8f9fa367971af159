// Recordings of simulated snapshots, as switch/agent/recording.ts makes them, and the production audit of them.

import type { AuditReport, LocalPart, Manifest } from '../../src/api/schemas.js'
import { type AuditedHost, audit } from '../../src/audit/audit.js'
import { Book } from '../../src/audit/book.js'
import { type ChannelEntry, channelEntries } from '../../src/audit/channel-run.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { writeChannel } from '../../src/trace/channel.js'
import { readEvents } from '../../src/trace/event-reader.js'
import { EventTraceWriter } from '../../src/trace/event-writer.js'
import type { TracePort } from '../../src/trace/events.js'
import { eventLogMemory, loggedEvents, logOverflow } from '../../switch/forwarding/event-log.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { RecordedFrame } from '../../switch/forwarding/snapshot/channel-recorder.js'
import { networkName } from './networks.js'
import type { SessionRequest } from './snapshot-session.js'
import type { Worker } from './worker.js'
import type { World } from './world.js'

const MAX_EVENTS = 4096
const TAIL_MS = 50

export class Recording {
  private readonly worker: Worker
  private readonly network: number
  private readonly forwarder: Forwarder
  private readonly request: SessionRequest
  private readonly memory = eventLogMemory(MAX_EVENTS)
  private readonly numbers = new Map<number, number>()
  private readonly ports: TracePort[] = []
  private isOver = false

  /** Begins at once: a command of the worker's. */
  constructor(worker: Worker, network: number, request: SessionRequest) {
    this.worker = worker
    this.network = network
    this.forwarder = worker.forwarders[network]
    this.request = request
    this.forwarder.snapshots.record(this.memory, worker.now)
    this.notePorts()
  }

  /** All channels are closed here. */
  endSoon(): void {
    this.worker.daemon.after(TAIL_MS, () => this.stop())
  }

  stop(): void {
    if (this.isOver) return
    this.isOver = true
    this.notePorts()
    this.forwarder.snapshots.record(null, this.worker.now)
  }

  write(): Uint8Array {
    this.stop()
    const { snapshot, epoch } = this.request
    const host = this.worker.daemon.host.name
    const writer = new EventTraceWriter({ host, network: networkName(this.network), snapshot, epoch }, this.ports)
    for (const event of loggedEvents(this.memory, (index) => this.numbers.get(index) ?? -1)) writer.add(event)
    writer.end(logOverflow(this.memory))
    return writer.take()
  }

  private notePorts(): void {
    for (const { index, spec, isMember, channel } of this.forwarder.ports) {
      if (this.numbers.has(index) || (!isMember && channel === null)) continue
      this.numbers.set(index, this.ports.length)
      const kind = isMember ? ('member' as const) : ('trunk' as const)
      this.ports.push({ name: spec.name, kind, vm: spec.vm, peer: channel?.host ?? null, lostAtDevice: 0 })
    }
  }
}

/** What the audit says of a snapshot that was recorded on all hosts; null: it was not. */
export function auditOf(world: World, manifest: Manifest): Pick<AuditReport, 'verdict' | 'checks'> | null {
  if (manifest.parts.some((part) => part.events === undefined)) return null
  const hosts = manifest.parts.map(
    (part): AuditedHost => ({
      part,
      events: run(readEvents(world.contents.get(part.events?.digest ?? '') as Uint8Array)),
      channel: channelOf(world, part),
    }),
  )
  return run(audit(manifest, hosts, new Book()))
}

/** By way of the file, as a restore reads it. */
function channelOf(world: World, part: LocalPart): ChannelEntry[] {
  const frames = world.contents.get(part.channel.digest) as RecordedFrame[]
  return channelEntries(
    writeChannel(
      frames.map(({ port, verdict, copy, at }) => ({
        port: `p${port}`,
        vm: world.nics[port].guest.name,
        color: copy.color,
        verdict,
        timeNs: BigInt(Math.round(at * 1000)) * 1000n,
        vnetHeader: copy.bytes.subarray(0, VNET_HEADER_LENGTH),
        vlanTag: null,
        bytes: copy.bytes.subarray(VNET_HEADER_LENGTH),
      })),
    ),
  )
}

function run<T>(work: Generator<void, T, undefined>): T {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}
