// Our own records inside a trace: what pcapng has no block for (the end mark of a channel state; commands and ticks of
// a recorded run). Each is a block of our local type whose content is [8-byte magic][u16 kind][u16 0][u32
// length][payload], little endian whatever the section uses, so that padding cannot be mistaken for payload.

import { BLOCK, type OtherBlock } from './pcapng.js'

export const RECORD_MAGIC = new Uint8Array([0x73, 0x6e, 0x61, 0x70, 0x73, 0x77, 0x00, 0x01]) // "snapsw", 0, version 1
const HEADER = 16

export interface TraceRecord {
  /** What it is; unique within the file type that uses it. */
  readonly kind: number
  readonly payload: Uint8Array
}

export function encodeRecord(record: TraceRecord): Uint8Array {
  const content = new Uint8Array(HEADER + record.payload.length)
  const view = new DataView(content.buffer)
  content.set(RECORD_MAGIC)
  view.setUint16(8, record.kind, true)
  view.setUint32(12, record.payload.length, true)
  content.set(record.payload, HEADER)
  return content
}

/** The record in a block, or null when the block is not ours (or not whole). The payload is a view. */
export function decodeRecord(block: OtherBlock): TraceRecord | null {
  const { content } = block
  if (block.type !== BLOCK.local || content.length < HEADER) return null
  if (RECORD_MAGIC.some((byte, index) => content[index] !== byte)) return null
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength)
  const length = view.getUint32(12, true)
  if (view.getUint16(10, true) !== 0 || length > content.length - HEADER) return null
  return { kind: view.getUint16(8, true), payload: content.subarray(HEADER, HEADER + length) }
}
