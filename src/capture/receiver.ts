// Takes a capture's records from the switch and makes files of them: as many packets and as much time as was asked for,
// in one file or in a ring of them. Time and output are handed in.

import { SnapswitchError } from '../errors/errors.js'
import type { Output } from './files.js'
import { CaptureWriter, type PacketWords, packetWords } from './pcapng.js'
import {
  type CapturedPort,
  type CaptureEnd,
  type CaptureHead,
  type CaptureStatistics,
  decodeJson,
  PacketField,
  RecordKind,
  readRecords,
} from './stream.js'

export interface ReceiverOptions {
  /** Packets to write; left out: no end. */
  readonly count?: number | undefined
  /** A file is full when it has so many bytes, or is so old. Left out: never. */
  readonly fileBytes?: number | undefined
  readonly fileMs?: number | undefined
  /** The n-th file, from 1 on; left out: there are none, and packets are shown. */
  output?: ((number: number) => Promise<Output>) | undefined
  show?: ((port: CapturedPort, words: PacketWords, content: Buffer) => void) | undefined
  now(): number
}

export interface CaptureSummary {
  readonly packets: number
  readonly lost: number
  readonly files: number
  /** Why the switch ended it; null: it was asked to, or the capture was over. */
  readonly reason: string | null
  /** The switch has said how it ended: `lost` is the last word. */
  readonly complete: boolean
}

export class CaptureReceiver {
  readonly #options: ReceiverOptions
  #head: CaptureHead | null = null
  /** Set when the head has come. */
  onHead: (head: CaptureHead) => void = () => undefined
  /** Something has come, or was written. */
  onSign: () => void = () => undefined
  /** Enough packets were written. */
  onEnough: () => void = () => undefined
  readonly #ports = new Map<number, CapturedPort>()
  #writer: CaptureWriter | null = null
  #output: Output | null = null
  #files = 0
  #fileBytes = 0
  #fileSince = 0
  #packets = 0
  #statistics: CaptureStatistics = { lost: 0, lostAt: {} }
  #end: CaptureEnd | null = null
  #isEnough = false

  constructor(options: ReceiverOptions) {
    this.#options = options
  }

  /** Until the stream ends. Whatever happens, the last file is closed, and whole. */
  async run(stream: AsyncIterable<Uint8Array>): Promise<CaptureSummary> {
    try {
      for await (const contents of untilBroken(readRecords(stream))) {
        this.onSign()
        for (const content of contents) await this.#take(content)
        await this.#flush()
      }
      this.#writer?.end(this.#statistics)
      await this.#flush()
    } finally {
      await this.#output?.close()
    }
    return this.summary()
  }

  /** A disk is being written to. */
  get isAtDisk(): boolean {
    return this.#output?.isAtDisk ?? false
  }

  /** Whoever should read does not, and is not waited for any more. */
  giveUp(): void {
    this.#output?.abandon()
  }

  summary(): CaptureSummary {
    return {
      packets: this.#packets,
      lost: this.#statistics.lost,
      files: this.#files,
      reason: this.#end?.reason ?? null,
      complete: this.#end !== null,
    }
  }

  async #take(content: Buffer): Promise<void> {
    switch (content[0]) {
      case RecordKind.HEAD:
        this.#head = decodeJson<CaptureHead>(content)
        this.onHead(this.#head)
        await this.#begin()
        return
      case RecordKind.PORT: {
        const number = content.readUInt16LE(PacketField.PORT)
        const port = decodeJson<CapturedPort>(content)
        this.#ports.set(number, port)
        this.#writer?.port(number, port, this.#statistics.lostAt[number])
        return
      }
      case RecordKind.PACKET:
        if (this.#isEnough) return
        if (this.#isFull()) await this.#begin()
        this.#packet(content)
        this.#packets++
        if (this.#packets === this.#options.count) {
          this.#isEnough = true
          this.onEnough()
        }
        return
      case RecordKind.STATISTICS:
        this.#statistics = decodeJson<CaptureStatistics>(content)
        return
      case RecordKind.END:
        this.#end = decodeJson<CaptureEnd>(content)
        this.#statistics = this.#end
    }
  }

  #packet(content: Buffer): void {
    this.#writer?.packet(content)
    const { show } = this.#options
    if (show === undefined) return
    const words = packetWords(content, this.#head!.reasons)
    const port = this.#ports.get(words.port)
    if (port !== undefined) show(port, words, content)
  }

  #isFull(): boolean {
    if (this.#writer === null) return false
    const { fileBytes = Number.POSITIVE_INFINITY, fileMs = Number.POSITIVE_INFINITY, now } = this.#options
    return this.#fileBytes + this.#writer.pending >= fileBytes || now() - this.#fileSince >= fileMs
  }

  /** The next file; all ports that are known are in it. */
  async #begin(): Promise<void> {
    const { output } = this.#options
    if (output === undefined) return
    this.#writer?.end(this.#statistics)
    await this.#flush()
    const full = this.#output
    this.#output = null
    await full?.close()
    this.#output = await output(++this.#files)
    this.#fileBytes = 0
    this.#fileSince = this.#options.now()
    this.#writer = new CaptureWriter(this.#head!)
    for (const [number, port] of this.#ports) this.#writer.port(number, port, this.#statistics.lostAt[number])
    // A reader of a pipe wants to see that there is something.
    await this.#flush()
  }

  async #flush(): Promise<void> {
    if (this.#writer === null || this.#output === null || this.#writer.pending === 0) return
    const blocks = this.#writer.take()
    this.#fileBytes += blocks.length
    await this.#output.write(blocks)
    this.onSign()
  }
}

/** A switch that is gone has said no END, and what came before counts all the same. */
async function* untilBroken<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
  try {
    yield* items
  } catch (error) {
    if (error instanceof SnapswitchError) throw error
  }
}
