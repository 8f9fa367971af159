// The captures that run: what the forwarding thread writes into their rings goes out as it lies there (see
// src/capture/stream.ts), to clients of the API, who make pcapng of it. A client that reads too slowly finds its ring
// full: the frames that have no room are counted, and nobody waits.

import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import type { CaptureInfo, CaptureRequest } from '../../src/api/schemas.js'
import { type Filter, parseFilter, reasonsIn } from '../../src/capture/filter.js'
import {
  type CaptureEnd,
  type CaptureHead,
  type CaptureStatistics,
  encodeJson,
  RecordKind,
  STREAM_VERSION,
} from '../../src/capture/stream.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { version } from '../../src/runtime/package.js'
import type { Datapath } from '../datapath/datapath.js'
import { dropReasons } from '../forwarding/counters.js'
import { PIECE, type PolledSource, PolledStream } from './polled-stream.js'
import { RingReader, ringMemory } from './record-ring.js'
import { lossMemory } from './tap.js'

/** Each costs the forwarding thread time with every frame. */
export const MOST_CAPTURES = 8
const BUFFER_MIB = 16
/** A client that takes nothing for so long, although there is something, has gone without a word. */
const STALLED_MS = 600_000
const CLOSE_MS = 1000

export interface CaptureHost {
  readonly name: string
  readonly datapath: Pick<Datapath, 'call' | 'hasNetwork' | 'on'>
  readonly log: { warn(what: object, message: string): void }
}

export class Captures {
  readonly #host: CaptureHost
  readonly #running = new Map<number, Capture>()
  #nextId = 1

  constructor(host: CaptureHost) {
    this.#host = host
    host.datapath.on('restarted', () => {
      for (const capture of this.#running.values()) void capture.again().catch(() => undefined)
    })
  }

  /** Throws REQUEST_INVALID, CAPTURE_BUSY, NETWORK_UNKNOWN. */
  async start(network: string, request: CaptureRequest): Promise<Readable> {
    const filter = parseFilter(request.filter ?? '')
    for (const reason of reasonsIn(filter)) {
      if (dropReasons.some((one) => one === reason)) continue
      throw new SnapswitchError(
        'REQUEST_INVALID',
        `no frame is dropped for the reason ${reason}`,
        `The reasons: ${dropReasons.join(', ')}.`,
      )
    }
    if (this.#running.size >= MOST_CAPTURES) {
      throw new SnapswitchError(
        'CAPTURE_BUSY',
        `${MOST_CAPTURES} captures run already, and more are not allowed`,
        'End one of them: `snapswitch capture --list` shows them.',
      )
    }
    const id = this.#nextId++
    const capture = new Capture(this.#host, id, network, filter, request, () => this.#running.delete(id))
    this.#running.set(id, capture)
    try {
      await capture.begin()
      return capture.stream
    } catch (error) {
      this.#running.delete(id)
      throw error
    }
  }

  list(): CaptureInfo[] {
    return [...this.#running.values()].map((capture) => capture.info())
  }

  /** What it has seen so far goes out yet. Throws REQUEST_INVALID when there is none of that number. */
  async end(id: number): Promise<void> {
    const capture = this.#running.get(id)
    if (capture === undefined) {
      throw new SnapswitchError(
        'REQUEST_INVALID',
        `no capture ${id} runs`,
        '`snapswitch capture --list` shows those that do.',
      )
    }
    await capture.end(null)
  }

  /** All of them; who reads gets what is there yet, if it is quick. */
  async close(): Promise<void> {
    const all = [...this.#running.values()]
    const closed = all.map(async (capture) => {
      const over = once(capture.stream, 'close').catch(() => undefined)
      await capture.end('the switch is stopping')
      await over
    })
    await Promise.race([Promise.all(closed), pause(CLOSE_MS, null, { ref: false })])
    for (const { stream } of all) stream.destroy()
  }
}

class Capture implements PolledSource {
  readonly stream: PolledStream
  readonly #host: CaptureHost
  readonly #id: number
  readonly #network: string
  readonly #filter: Filter | null
  readonly #request: CaptureRequest
  readonly #over: () => void
  readonly #memory: SharedArrayBuffer
  readonly #losses = lossMemory()
  readonly #ring: RingReader
  readonly #lost = new Float64Array(this.#losses)
  readonly #since = new Date().toISOString()
  /** Nothing more is written to the ring; why. */
  #ended: { readonly reason: string | null } | null = null

  constructor(
    host: CaptureHost,
    id: number,
    network: string,
    filter: Filter | null,
    request: CaptureRequest,
    over: () => void,
  ) {
    this.#host = host
    this.#id = id
    this.#network = network
    this.#filter = filter
    this.#request = request
    this.#over = over
    this.#memory = ringMemory((request.buffer ?? BUFFER_MIB) * 1024 * 1024)
    this.#ring = new RingReader(this.#memory)
    this.stream = new PolledStream(this, STALLED_MS)
  }

  async begin(): Promise<void> {
    const { filter = '', snaplen = 262_144 } = this.#request
    await this.again()
    const head: CaptureHead = {
      version: STREAM_VERSION,
      id: this.#id,
      host: this.#host.name,
      network: this.#network,
      software: `snapswitch ${version}`,
      filter,
      snaplen,
      reasons: dropReasons,
    }
    this.stream.begin(encodeJson(RecordKind.HEAD, head))
  }

  /** Has the forwarding thread show it frames; one that was started anew has to be asked again. */
  async again(): Promise<void> {
    const { snaplen = 262_144 } = this.#request
    const tap = { filter: this.#filter, snaplen, memory: this.#memory, losses: this.#losses }
    await this.#host.datapath.call('capture', { network: this.#network, id: this.#id, tap })
  }

  info(): CaptureInfo {
    const { filter = '' } = this.#request
    const { lost } = this.#statistics()
    return { id: this.#id, network: this.#network, filter, since: this.#since, bytes: this.stream.sent, lost }
  }

  /** `reason`: why, when nobody has asked for it. */
  async end(reason: string | null): Promise<void> {
    if (this.#ended !== null) return
    await this.#stop()
    this.#ended ??= { reason }
    this.stream.look()
  }

  async #stop(): Promise<void> {
    const args = { network: this.#network, id: this.#id, tap: null }
    await this.#host.datapath.call('capture', args).catch((error: unknown) => {
      this.#host.log.warn({ err: error }, 'the forwarding thread was not told that a capture has ended')
    })
  }

  isOver(): boolean {
    if (this.#ended === null && !this.#host.datapath.hasNetwork(this.#network)) {
      void this.end('the network is not on this host any more')
    }
    return this.#ended !== null
  }

  next(): Buffer | null {
    const piece = this.#ring.copy(PIECE)
    if (piece !== null) this.#ring.release()
    return piece
  }

  regular(): Buffer {
    return encodeJson(RecordKind.STATISTICS, this.#statistics())
  }

  last(): Buffer {
    const reason = this.#ended?.reason ?? null
    return encodeJson(RecordKind.END, { ...this.#statistics(), reason } satisfies CaptureEnd)
  }

  closed(): void {
    this.#over()
    if (this.#ended === null) void this.#stop()
  }

  #statistics(): CaptureStatistics {
    let lost = 0
    const lostAt: Record<string, number> = {}
    for (const [index, count] of this.#lost.entries()) {
      if (count === 0) continue
      lost += count
      lostAt[index] = count
    }
    return { lost, lostAt }
  }
}
