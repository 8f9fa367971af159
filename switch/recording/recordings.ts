// The recordings that run: what the forwarding thread writes into a ring goes out as a file, to a client of the API. A
// client that reads too slowly finds the ring full one day: what was recorded is whole up to that point, and when there
// is room again, the recording goes on after a gap, from the state on that the switch has then. The network goes on.

import type { Readable } from 'node:stream'
import type { RecordingRequest } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { version } from '../../src/runtime/package.js'
import { PIECE, type PolledSource, PolledStream } from '../capture/polled-stream.js'
import { RingReader, ringLosses, ringMemory } from '../capture/record-ring.js'
import type { Datapath } from '../datapath/datapath.js'
import { RecordingFile } from './file.js'
import type { EndReason } from './format.js'

const BUFFER_MIB = 64
/** Room for a block besides, most of the time. */
const SLACK = 80 * 1024
/** A recording that cannot go on after a gap, since a snapshot is open, is tried again after this. */
const ASK_AGAIN_MS = 200
/** A client that takes nothing for so long has gone without a word. */
const STALLED_MS = 60_000

export interface RecordingHost {
  readonly datapath: Pick<Datapath, 'call' | 'hasNetwork' | 'on'>
  readonly log: { warn(what: object, message: string): void }
}

export class Recordings {
  readonly #host: RecordingHost
  /** By network: there is one at most. */
  readonly #running = new Map<string, Recording>()

  constructor(host: RecordingHost) {
    this.#host = host
    host.datapath.on('restarted', () => {
      for (const recording of this.#running.values()) recording.ended('datapath-restarted')
    })
  }

  /** Throws RECORDING_BUSY, RECORDING_KEY, NETWORK_UNKNOWN. */
  async start(network: string, request: RecordingRequest): Promise<Readable> {
    if (this.#running.has(network)) throw busy(network)
    const recording = new Recording(this.#host, network, request, () => this.#running.delete(network))
    this.#running.set(network, recording)
    try {
      await recording.begin()
      return recording.stream
    } catch (error) {
      this.#running.delete(network)
      throw error
    }
  }

  /** What has come so far goes out yet. Throws REQUEST_INVALID when none runs. */
  async end(network: string): Promise<void> {
    const recording = this.#running.get(network)
    if (recording === undefined)
      throw new SnapswitchError('REQUEST_INVALID', `no recording of network ${network} runs`, 'It may have ended.')
    await recording.stop('asked')
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running.values()].map((recording) => recording.stop('asked')))
  }
}

class Recording implements PolledSource {
  readonly stream: PolledStream
  readonly #host: RecordingHost
  readonly #network: string
  readonly #request: RecordingRequest
  readonly #over: () => void
  readonly #memory: SharedArrayBuffer
  readonly #ring: RingReader
  readonly #file = new RecordingFile()
  #begun = performance.now()
  /** Null: whoever has counted them has not said. */
  #frames: number | null = null
  /** Of what found no room so far: a gap was made for it. */
  #losses = 0
  #gaps = 0
  /** The forwarding thread is asked to go on after a gap: what it writes then comes after its state. */
  #isAsking = false
  #askAgain = 0
  /** The state at which the recording goes on. */
  #beginning: Uint8Array | null = null
  /** Nothing more is written to the ring; why. */
  #ended: EndReason | null = null
  #stopping: Promise<void> | null = null

  constructor(host: RecordingHost, network: string, request: RecordingRequest, over: () => void) {
    this.#host = host
    this.#network = network
    this.#request = request
    this.#over = over
    this.#memory = ringMemory((request.buffer ?? BUFFER_MIB) * 1024 * 1024)
    this.#ring = new RingReader(this.#memory)
    this.stream = new PolledStream(this, STALLED_MS)
  }

  async begin(): Promise<void> {
    const { withKey = false } = this.#request
    const args = { network: this.#network, memory: this.#memory, withKey }
    const { options, checkpoint } = await this.#host.datapath.call('startRecording', args)
    this.#begun = performance.now()
    this.stream.begin(this.#file.begin({ version, options }, checkpoint))
  }

  /** Without the forwarding thread's help: it is not the one that recorded. */
  ended(reason: EndReason): void {
    this.#ended ??= reason
  }

  stop(reason: EndReason): Promise<void> {
    this.#stopping ??= this.#stop(reason)
    return this.#stopping
  }

  async #stop(reason: EndReason): Promise<void> {
    try {
      const { frames, isFull } = await this.#host.datapath.call('endRecording', { network: this.#network })
      this.#frames = frames
      this.ended(isFull ? 'no-room' : reason)
    } catch (error) {
      this.#host.log.warn({ err: error }, 'the forwarding thread was not told that a recording has ended')
      this.ended(reason)
    }
  }

  isOver(now: number): boolean {
    const reason = this.#ended === null ? this.#mustEnd(now) : null
    if (reason !== null) void this.stop(reason)
    return this.#ended !== null && !this.#isAsking
  }

  next(): Uint8Array | null {
    if (this.#isAsking) return null
    if (this.#beginning !== null) {
      const beginning = this.#beginning
      this.#beginning = null
      return beginning
    }
    const piece = this.#take()
    if (piece !== null) return this.#file.blocks(piece)
    const now = performance.now()
    if (this.#stopping === null && this.#ended === null && ringLosses(this.#memory) > this.#losses) {
      if (now >= this.#askAgain) void this.#goOn(now)
    }
    return null
  }

  regular(): Uint8Array {
    return this.#file.checksum()
  }

  last(): Uint8Array {
    const frames = this.#frames === null ? {} : { frames: this.#frames }
    const end = { reason: this.#ended ?? 'asked', ...frames, gaps: this.#gaps }
    return Buffer.concat([this.#file.checksum(), this.#file.end(end)])
  }

  closed(): void {
    // Only after that may another one begin.
    const stopped = this.#ended === null ? this.stop('asked') : Promise.resolve()
    void stopped.finally(() => this.#over())
  }

  /** Something found no room, and all that came before has gone out: there is room again. */
  async #goOn(now: number): Promise<void> {
    this.#isAsking = true
    this.#askAgain = now + ASK_AGAIN_MS
    // Until the recording goes on, nothing is written, and nothing is lost of it.
    const losses = ringLosses(this.#memory)
    try {
      const args = { network: this.#network, memory: this.#memory }
      const found = await this.#host.datapath.call('continueRecording', args)
      if (found === null) return
      const { options, checkpoint, missed } = found
      this.#losses = losses
      this.#gaps++
      this.#beginning = this.#file.begin({ version, options, missed }, checkpoint)
    } catch (error) {
      this.#host.log.warn({ err: error }, 'a recording does not go on')
    } finally {
      this.#isAsking = false
    }
  }

  #mustEnd(now: number): EndReason | null {
    const { seconds = Number.POSITIVE_INFINITY, bytes = Number.POSITIVE_INFINITY } = this.#request
    if (!this.#host.datapath.hasNetwork(this.#network)) return 'network-removed'
    if (this.#file.length >= bytes) return 'size'
    return now - this.#begun >= seconds * 1000 ? 'time' : null
  }

  /** The next blocks, one behind the other; null: there are none yet. */
  #take(): Buffer | null {
    const ring = this.#ring
    let at = ring.next()
    if (at < 0) return null
    let piece = Buffer.allocUnsafeSlow(Math.max(PIECE, ring.length) + SLACK)
    let length = 0
    for (; at >= 0; at = ring.next()) {
      if (length + ring.length > piece.length) piece = Buffer.concat([piece], length + ring.length + SLACK)
      piece.set(ring.bytes.subarray(at, at + ring.length), length)
      length += ring.length
      if (length >= PIECE) break
    }
    ring.release()
    return piece.subarray(0, length)
  }
}

function busy(network: string): SnapswitchError {
  return new SnapswitchError(
    'RECORDING_BUSY',
    `network ${network} cannot be recorded now: a recording of it runs already`,
    'End that one first.',
  )
}
