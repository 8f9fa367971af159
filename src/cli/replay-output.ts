// What each port would have sent in a run, as a trace.

import { closeSync, fchmodSync, openSync, writeSync } from 'node:fs'
import type { Input } from '../../switch/recording/run-reader.js'
import { SnapswitchError } from '../errors/errors.js'
import type { Frame } from '../frame/frame.js'
import { PcapngWriter } from '../trace/pcapng-writer.js'

/** Bytes that are written at once. */
const PIECE = 1024 * 1024

/** Looks on while a run is replayed. Throws OUTPUT_FAILED. */
export class SentFrames {
  nameOf: (port: number) => string = (port) => `port ${port}`
  readonly #path: string
  readonly #fd: number
  readonly #writer = new PcapngWriter({ comment: 'frames that a replay has sent' })
  /** By name: a port that has left leaves its index to another one. */
  readonly #interfaces = new Map<string, number>()
  #nowNs = 0n
  #isOpen = true

  constructor(path: string) {
    this.#path = path
    try {
      this.#fd = openSync(path, 'w', 0o600)
      fchmodSync(this.#fd, 0o600)
    } catch (error) {
      throw cannotWrite(path, error)
    }
  }

  coming({ now }: Readonly<Input>): void {
    this.#nowNs = BigInt(Math.floor(now * 1000)) * 1000n
  }

  sending(port: number, frame: Frame, serviceTci: number, taken: boolean): void {
    if (!taken) return
    const name = this.nameOf(port)
    let id = this.#interfaces.get(name)
    if (id === undefined) {
      id = this.#writer.interface({ name })
      this.#interfaces.set(name, id)
    }
    this.#writer.packet(id, this.#nowNs, sentBytes(frame, serviceTci), { direction: 'outbound' })
    if (this.#writer.pending > PIECE) this.#flush()
  }

  close(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    try {
      this.#flush()
    } finally {
      closeSync(this.#fd)
    }
  }

  #flush(): void {
    const bytes = this.#writer.take()
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at)
    } catch (error) {
      throw cannotWrite(this.#path, error)
    }
  }
}

function sentBytes(frame: Frame, serviceTci: number): Buffer {
  const own = Buffer.from(frame.bytes.subarray(frame.start, frame.start + frame.length))
  const tags: Buffer[] = []
  const tag = (tpid: number, tci: number) => tags.push(Buffer.of(tpid >> 8, tpid & 255, tci >> 8, tci & 255))
  if (serviceTci >= 0) tag(0x88a8, serviceTci)
  if (frame.tagTpid !== 0) tag(frame.tagTpid, frame.tagTci)
  return tags.length === 0 ? own : Buffer.concat([own.subarray(0, 12), ...tags, own.subarray(12)])
}

function cannotWrite(path: string, error: unknown): SnapswitchError {
  const message = `${path} cannot be written: ${(error as Error).message}`
  return new SnapswitchError('OUTPUT_FAILED', message, 'Name another file, or make room.', error)
}
