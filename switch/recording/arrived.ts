// A frame of a recording, as it lay before the forwarder when it came in: in memory of our own, one at a time.

import { Frame, MAX_FRAME_LENGTH, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { type Blocks, damaged } from './blocks.js'
import { FRAME_OPTION, FrameOption, TAG_BESIDE } from './format.js'

const PACKET_HEADER = 20
const ADDRESSES = 12
const TAG = 4
const ROOM = VNET_HEADER_LENGTH + MAX_FRAME_LENGTH + TAG
/** Copied faster byte by byte. */
const SHORT = 256

export class ArrivedFrame {
  readonly frame = new Frame()
  /** When it came, Unix time in milliseconds, and at which port. */
  now = 0
  port = -1
  readonly #memory = new Uint8Array(ROOM)

  /** The frame in the present block. `ports`: indexes by interface. Throws TRACE_INVALID. */
  read({ bytes, view, from, to, offset }: Blocks, ports: readonly number[]): void {
    if (to - from < PACKET_HEADER) throw damaged(offset, 'a packet block is too short')
    const length = view.getUint32(from + 12, true)
    let at = from + PACKET_HEADER + length + (-length & 3)
    if (length > MAX_FRAME_LENGTH + TAG || at > to) throw damaged(offset, 'a frame is longer than its block')
    for (; at + 4 <= to && view.getUint16(at, true) !== FRAME_OPTION; ) {
      const skipped = view.getUint16(at + 2, true)
      at += 4 + skipped + (-skipped & 3)
    }
    const option = at + 4
    if (option + FrameOption.LENGTH > to) throw damaged(offset, 'a frame without what belongs to it')
    const port = ports[view.getUint32(from, true)]
    if (port === undefined) throw damaged(offset, 'a frame of an interface that was not declared')
    const memory = this.#memory
    const { frame } = this
    const tagged = (view.getUint16(option + FrameOption.FLAGS, true) & TAG_BESIDE) !== 0
    const before = tagged ? Math.min(ADDRESSES, length - TAG) : length
    if (before < 0) throw damaged(offset, 'a tagged frame without a tag')
    const data = from + PACKET_HEADER
    for (let i = 0; i < VNET_HEADER_LENGTH; i++) memory[i] = bytes[option + FrameOption.VNET + i]
    copy(bytes, data, memory, VNET_HEADER_LENGTH, before)
    if (tagged) copy(bytes, data + before + TAG, memory, VNET_HEADER_LENGTH + before, length - TAG - before)
    frame.bytes = memory
    frame.address = 0
    frame.vnet = 0
    frame.start = VNET_HEADER_LENGTH
    frame.length = tagged ? length - TAG : length
    frame.tagTpid = tagged ? view.getUint16(data + before) : 0
    frame.tagTci = tagged ? view.getUint16(data + before + 2) : 0
    frame.color = NO_COLOR
    this.now = view.getFloat64(option + FrameOption.NOW, true)
    this.port = port
  }
}

function copy(from: Uint8Array, start: number, to: Uint8Array, at: number, length: number): void {
  if (length > SHORT) to.set(from.subarray(start, start + length), at)
  else for (let i = 0; i < length; i++) to[at + i] = from[start + i]
}
