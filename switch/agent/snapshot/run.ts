// The run around one snapshot on this host: all that enters the switch, from a state of before the cut until a little
// after the channels are closed, for `snapswitch replay`. It is kept in memory, since the disk is the machines' while
// they are saved, and written when they run. When the memory is full, the run ends there.

import { join } from 'node:path'
import type { FileReference } from '../../../src/api/schemas.js'
import { asSnapswitchError } from '../../../src/errors/errors.js'
import { version } from '../../../src/runtime/package.js'
import { RingReader, ringMemory } from '../../capture/record-ring.js'
import type { Commands } from '../../datapath/protocol.js'
import { RecordingFile } from '../../recording/file.js'
import type { Host } from '../host.js'
import type { SessionRequest } from './member.js'

/** Of memory, which is not touched before it is needed, and of disk. */
export const RECORDED_BYTES = 128 * 1024 * 1024
/** What the state that it begins with takes on disk besides. */
export const RUN_STATE_BYTES = 16 * 1024 * 1024
/** Bytes between two turns of the event loop while the file is written. */
const PIECE = 1024 * 1024

export interface WrittenRun {
  readonly run?: FileReference
  /** Why there is none, or not all of it. */
  readonly runProblem?: string
}

type Begun = Commands['startRecording']['result']

/** What keeping a run asks of its host. */
export type RunHost = Pick<Host, 'name' | 'datapath' | 'store' | 'recordedBytes'>

export class SnapshotRun {
  readonly #host: RunHost
  readonly #request: SessionRequest
  readonly #memory: SharedArrayBuffer
  readonly #begun: Begun | null
  readonly #problem: string | null
  #stopped: Promise<Commands['endRecording']['result']> | null = null

  private constructor(
    host: RunHost,
    request: SessionRequest,
    memory: SharedArrayBuffer,
    begun: Begun | null,
    problem: string | null,
  ) {
    this.#host = host
    this.#request = request
    this.#memory = memory
    this.#begun = begun
    this.#problem = problem
  }

  /** Before anything of the cut is prepared: no state is saved later. A snapshot without its run is a good one. */
  static async start(host: RunHost, request: SessionRequest): Promise<SnapshotRun> {
    const memory = ringMemory(host.recordedBytes)
    if (host.recordedBytes === 0) return new SnapshotRun(host, request, memory, null, 'this host records no runs')
    try {
      const begun = await host.datapath.call('startRecording', { network: request.network, memory, withKey: false })
      return new SnapshotRun(host, request, memory, begun, null)
    } catch (thrown) {
      return new SnapshotRun(host, request, memory, null, asSnapswitchError(thrown).message)
    }
  }

  async stop(): Promise<void> {
    if (this.#begun === null) return
    this.#stopped ??= this.#host.datapath.call('endRecording', { network: this.#request.network })
    await this.#stopped
  }

  /** Ends it and makes its file durable. Throws STORE_FULL or STORE_IO. */
  async write(): Promise<WrittenRun> {
    await this.stop()
    if (this.#begun === null || this.#stopped === null) return { runProblem: this.#problem ?? 'it was not begun' }
    const { frames, isFull } = await this.#stopped
    const { network, snapshot } = this.#request
    const name = join('hosts', this.#host.name, 'run.pcapng')
    const run = await this.#host.store.writePieces(network, snapshot, name, this.#pieces(this.#begun, frames, isFull))
    return isFull ? { run, runProblem: 'it found no room for more, and ends early' } : { run }
  }

  *#pieces({ options, checkpoint }: Begun, frames: number, isFull: boolean): Generator<Uint8Array, void, undefined> {
    const file = new RecordingFile()
    yield file.begin({ version, options }, checkpoint)
    const ring = new RingReader(this.#memory)
    let piece: Uint8Array[] = []
    let length = 0
    for (let at = ring.next(); at >= 0; at = ring.next()) {
      piece.push(ring.bytes.slice(at, at + ring.length))
      length += ring.length
      if (length < PIECE) continue
      yield file.blocks(Buffer.concat(piece))
      yield file.checksum()
      piece = []
      length = 0
    }
    yield file.blocks(Buffer.concat(piece))
    yield file.checksum()
    yield file.end({ reason: isFull ? 'no-room' : 'asked', frames, gaps: 0 })
  }
}
