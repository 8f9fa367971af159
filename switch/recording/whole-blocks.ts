// A stream of pcapng blocks that comes in pieces of any size, as pieces that end where blocks end: so a file has whole
// blocks only, whenever it ends.

import { BLOCK } from '../../src/trace/pcapng.js'
import { decodeRecord } from '../../src/trace/records.js'

const HEAD = 8

export class WholeBlocks {
  /** Told of records of ours that pass. */
  onRecord: (kind: number, payload: Uint8Array) => void = () => undefined
  #rest: Buffer = Buffer.alloc(0)

  /** What is whole with `chunk`, little endian as all that we write. */
  push(chunk: Buffer): Buffer {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    let end = 0
    while (bytes.length - end >= HEAD) {
      const length = bytes.readUInt32LE(end + 4)
      if (length < 12 || end + length > bytes.length) break
      if (bytes.readUInt32LE(end) === BLOCK.local) this.#tell(bytes.subarray(end + HEAD, end + length - 4))
      end += length
    }
    this.#rest = bytes.subarray(end)
    return bytes.subarray(0, end)
  }

  #tell(content: Buffer): void {
    const record = decodeRecord({ kind: 'other', offset: 0, type: BLOCK.local, content })
    if (record !== null) this.onRecord(record.kind, record.payload)
  }
}
