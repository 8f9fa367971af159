// The recording of one snapshot on this host: memory that the datapath writes events to, from before the cut until a
// little after the channels are closed, and the file that becomes of it. The run itself is recorded beside it (run.ts).

import { join } from 'node:path'
import type { FileReference } from '../../../src/api/schemas.js'
import { EventTraceWriter, MAX_EVENT_BYTES } from '../../../src/trace/event-writer.js'
import type { TracePort } from '../../../src/trace/events.js'
import type { PeerPort } from '../../datapath/protocol.js'
import { Counter, Drop, ROW } from '../../forwarding/counters.js'
import { eventLogMemory, loggedEvents, logOverflow } from '../../forwarding/event-log.js'
import type { PortEntry } from '../../ports/table.js'
import type { Host } from '../host.js'
import type { SessionRequest } from './member.js'
import { RUN_STATE_BYTES, type RunHost, SnapshotRun, type WrittenRun } from './run.js'

/**
 * Bound of a recording: 28 MiB of memory, some 70 MiB of file, 104 at most. Bulk traffic fills it in a second or more.
 */
export const RECORDED_EVENTS = 1 << 19
/** The most that a recording takes on disk. */
export const recordingBytes = (events: number, run: number): number => events * MAX_EVENT_BYTES + run + RUN_STATE_BYTES
/** The recording goes on for so long after the closure, that frames sent just before it are seen to arrive. */
const TAIL_MS = 50
/** Events between two turns of the event loop while the file is written. */
const BATCH = 4096
/** What a port's device or the kernel takes without the datapath seeing it go. */
const LOST_AT_DEVICE = [
  Counter.kernelDrops,
  Drop['tx-full'],
  Drop['tx-error'],
  Drop['too-long'],
  Drop.truncated,
  Drop['device-down'],
  Drop['device-dropped'],
]

type RecordingHost = RunHost & Pick<Host, 'clock' | 'ports' | 'recordedEvents'>

export class Recording {
  readonly #host: RecordingHost
  readonly #request: SessionRequest
  readonly #memory: SharedArrayBuffer
  readonly #membersBefore: readonly PortEntry[]
  /** By port: what its device had lost when the recording began. */
  readonly #lostBefore: ReadonlyMap<number, number>
  #peersBefore: readonly PeerPort[] = []
  #stopped: Promise<readonly PeerPort[]> | null = null
  readonly #run: SnapshotRun
  #stopTimer: (() => void) | null = null

  private constructor(host: RecordingHost, request: SessionRequest, run: SnapshotRun) {
    this.#run = run
    this.#host = host
    this.#request = request
    this.#memory = eventLogMemory(host.recordedEvents)
    const { ports } = host
    this.#membersBefore = ports.membersOf(request.network)
    this.#lostBefore = new Map(ports.all().map(({ index }) => [index, this.#lostAtDevice(index)]))
  }

  static async start(host: RecordingHost, request: SessionRequest): Promise<Recording> {
    const run = await SnapshotRun.start(host, request)
    const recording = new Recording(host, request, run)
    try {
      const { network } = request
      recording.#peersBefore = await host.datapath.call('record', { network, memory: recording.#memory })
    } catch (thrown) {
      await run.stop().catch(() => undefined)
      throw thrown
    }
    return recording
  }

  /** All channels are closed here. */
  endSoon(): void {
    this.#stopTimer ??= this.#host.clock.after(TAIL_MS, () => this.stop().catch(() => undefined))
  }

  stop(): Promise<readonly PeerPort[]> {
    this.#stopTimer?.()
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #stop(): Promise<readonly PeerPort[]> {
    try {
      return await this.#host.datapath.call('record', { network: this.#request.network, memory: null })
    } finally {
      await this.#run.stop()
    }
  }

  /** Ends the recording and makes its files durable. Throws STORE_FULL or STORE_IO. */
  async write(): Promise<{ readonly events: FileReference } & WrittenRun> {
    const { numbers, ports } = this.#tracePorts(await this.stop())
    const host = this.#host
    const request = this.#request
    const memory = this.#memory
    const { network, snapshot, epoch } = request
    const writer = new EventTraceWriter({ host: host.name, network, snapshot, epoch }, ports)
    const name = join('hosts', host.name, 'events.pcapng')
    const events = await host.store.writePieces(network, snapshot, name, pieces(writer, memory, numbers))
    return { events, ...(await this.#run.write()) }
  }

  /** The trace's ports, and their numbers by the index that events have. Devices come and go, and ports with them. */
  #tracePorts(peersNow: readonly PeerPort[]): { numbers: Map<number, number>; ports: TracePort[] } {
    const host = this.#host
    const request = this.#request
    const numbers = new Map<number, number>()
    const ports: TracePort[] = []
    const add = (index: number, port: Omit<TracePort, 'lostAtDevice'>, device: number) => {
      if (numbers.has(index)) return
      numbers.set(index, ports.length)
      ports.push({
        ...port,
        lostAtDevice: Math.max(0, this.#lostAtDevice(device) - (this.#lostBefore.get(device) ?? 0)),
      })
    }
    for (const { index, name, vm } of [...this.#membersBefore, ...host.ports.membersOf(request.network)]) {
      add(index, { name, kind: 'member', vm, peer: null }, index)
    }
    for (const { index, port, host: peer } of [...peersNow, ...this.#peersBefore]) {
      const name = host.ports.byIndex(port)?.name ?? `port-${port}`
      add(index, { name, kind: 'trunk', vm: null, peer }, port)
    }
    return { numbers, ports }
  }

  #lostAtDevice(index: number): number {
    return LOST_AT_DEVICE.reduce((sum, slot) => sum + this.#host.datapath.counters[index * ROW + slot], 0)
  }
}

/** The content of the file, a batch of events at a time. */
function* pieces(writer: EventTraceWriter, memory: SharedArrayBuffer, numbers: ReadonlyMap<number, number>) {
  let batched = 0
  for (const event of loggedEvents(memory, (index) => numbers.get(index) ?? -1)) {
    writer.add(event)
    if (++batched % BATCH === 0) yield writer.take()
  }
  writer.end(logOverflow(memory))
  yield writer.take()
}
