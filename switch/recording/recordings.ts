// The recordings that run: what the forwarding thread writes into a ring goes out as a file, to a client of the API. A
// client that reads too slowly finds the ring full one day: the recording ends there, whole up to that point, and the
// network goes on.

import { Readable } from 'node:stream'
import type { RecordingRequest } from '../../src/api/schemas.js'
import { version } from '../../src/api/version.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { RingReader, ringLosses, ringMemory } from '../capture/record-ring.js'
import type { Datapath } from '../datapath/datapath.js'
import { RecordingFile } from './file.js'
import type { EndReason } from './format.js'

const BUFFER_MIB = 64
/** How long a block waits at most before it is looked for. */
const LOOK_MS = 10
/** Bytes that are given out at once, about. */
const PIECE = 256 * 1024
/** Room for a block besides, most of the time. */
const SLACK = 80 * 1024
/** Damage is found within what was written between two of them. */
const CHECKSUM_INTERVAL_MS = 1000
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
      return recording
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

class Recording extends Readable {
  readonly #host: RecordingHost
  readonly #network: string
  readonly #request: RecordingRequest
  readonly #over: () => void
  readonly #memory: SharedArrayBuffer
  readonly #ring: RingReader
  readonly #file = new RecordingFile()
  #timer: NodeJS.Timeout | null = null
  /** Somebody takes what comes. */
  #wanted = false
  #wantedLast = performance.now()
  #begun = performance.now()
  #nextChecksum = 0
  #frames = 0
  /** Nothing more is written to the ring; why. */
  #ended: EndReason | null = null
  #stopping: Promise<void> | null = null

  constructor(host: RecordingHost, network: string, request: RecordingRequest, over: () => void) {
    super({ highWaterMark: PIECE })
    this.#host = host
    this.#network = network
    this.#request = request
    this.#over = over
    this.#memory = ringMemory((request.buffer ?? BUFFER_MIB) * 1024 * 1024)
    this.#ring = new RingReader(this.#memory)
  }

  async begin(): Promise<void> {
    const { withKey = false } = this.#request
    const args = { network: this.#network, memory: this.#memory, withKey }
    const { options, checkpoint } = await this.#host.datapath.call('startRecording', args)
    this.#begun = performance.now()
    this.#wanted = this.push(this.#file.begin({ version, options }, checkpoint))
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

  override _read(): void {
    this.#wanted = true
    this.#look()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    // Only after that may another one begin.
    const stopped = this.#ended === null ? this.stop('asked') : Promise.resolve()
    void stopped.finally(() => this.#over())
    done(error)
  }

  /** Passes on what is there, as long as somebody takes it; looks again in a moment. */
  #look(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    if (this.destroyed) return
    const now = performance.now()
    if (this.#wanted) this.#wantedLast = now
    else if (now - this.#wantedLast > STALLED_MS) {
      this.destroy()
      return
    }
    const reason = this.#ended === null ? this.#mustEnd(now) : null
    if (reason !== null) void this.stop(reason)
    // Before the ring is looked at: what is written until then is in it.
    const hasEnded = this.#ended
    const piece = this.#wanted ? this.#take() : null
    if (piece !== null) this.#send(this.#file.blocks(piece))
    if (this.#wanted && piece === null && hasEnded !== null) {
      this.push(this.#file.checksum())
      this.push(this.#file.end({ reason: hasEnded, frames: this.#frames }))
      this.push(null)
      return
    }
    if (this.#wanted && now >= this.#nextChecksum) {
      this.#nextChecksum = now + CHECKSUM_INTERVAL_MS
      this.#send(this.#file.checksum())
    }
    // A piece that was taken at once has had _read called: it looks by itself.
    this.#timer ??= setTimeout(() => this.#look(), piece === null || !this.#wanted ? LOOK_MS : 0)
  }

  #mustEnd(now: number): EndReason | null {
    const { seconds = Number.POSITIVE_INFINITY, bytes = Number.POSITIVE_INFINITY } = this.#request
    if (!this.#host.datapath.hasNetwork(this.#network)) return 'network-removed'
    if (ringLosses(this.#memory) > 0) return 'no-room'
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

  #send(bytes: Uint8Array): void {
    this.#wanted = this.push(bytes)
  }
}

function busy(network: string): SnapswitchError {
  return new SnapswitchError(
    'RECORDING_BUSY',
    `network ${network} cannot be recorded now: a recording of it runs already`,
    'End that one first.',
  )
}
