// Where the pieces of a frame that is cut are written.

import { type Frame, VNET_HEADER_LENGTH } from './frame.js'

/** Memory that segments are written to; `address` is where bytes[0] is. */
export interface SegmentMemory {
  readonly bytes: Uint8Array
  readonly address: number
  readonly view: DataView
  readonly length: number
}

/** `frame` is what has been written to `memory`: a virtio-net header at `vnet`, and `length` bytes behind it. */
export function pointInto(frame: Frame, memory: SegmentMemory, vnet: number, length: number): void {
  frame.bytes = memory.bytes
  frame.address = memory.address
  frame.view = memory.view
  frame.vnet = vnet
  frame.start = vnet + VNET_HEADER_LENGTH
  frame.length = length
}
