// The blocks of a recording that are not written while frames pass: its beginning, the checksums, its end.

import { crc32 } from 'node:zlib'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { encodeRecord } from '../../src/trace/records.js'
import { type Checkpoint, Kind, type RecordingEnd, type RecordingHead, TITLE } from './format.js'
import { encodePlain } from './plain-json.js'

/** Readers refuse blocks that are much longer. */
const PIECE = 4 * 1024 * 1024

/** The pieces of a file, in order: each is whole blocks. */
export class RecordingFile {
  /** Of all that was given out. */
  #crc = 0
  #bytes = 0

  /** Bytes given out. */
  get length(): number {
    return this.#bytes
  }

  begin(head: RecordingHead, checkpoint: Checkpoint): Uint8Array {
    const writer = new PcapngWriter({ comment: TITLE, application: `snapswitch ${head.version}` })
    writer.local(encodeRecord({ kind: Kind.HEAD, payload: encodePlain(head) }))
    const state = encodePlain(checkpoint)
    for (let at = 0; at < state.length; at += PIECE) {
      const piece = state.subarray(at, at + PIECE)
      const payload = new Uint8Array(1 + piece.length)
      payload[0] = at + PIECE >= state.length ? 1 : 0
      payload.set(piece, 1)
      writer.local(encodeRecord({ kind: Kind.CHECKPOINT, payload }))
    }
    return this.#given(writer.take())
  }

  /** Blocks that a recorder has written. */
  blocks(bytes: Uint8Array): Uint8Array {
    return this.#given(bytes)
  }

  checksum(): Uint8Array {
    const payload = new Uint8Array(4)
    new DataView(payload.buffer).setUint32(0, this.#crc, true)
    return this.#record(Kind.CHECKSUM, payload)
  }

  end(end: RecordingEnd): Uint8Array {
    return this.#record(Kind.END, encodePlain(end))
  }

  #record(kind: number, payload: Uint8Array): Uint8Array {
    const writer = new PcapngWriter()
    // Not a new section: only its block.
    writer.take()
    writer.local(encodeRecord({ kind, payload }))
    return this.#given(writer.take())
  }

  #given(bytes: Uint8Array): Uint8Array {
    this.#crc = crc32(bytes, this.#crc)
    this.#bytes += bytes.length
    return bytes
  }
}
