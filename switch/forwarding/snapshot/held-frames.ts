// What was held while a snapshot is open, for `snapshot show --frames`: of each frame where, when, and its first bytes.
// The frames themselves are delivered later, and are no part of the snapshot.

import { VLAN_TAG_LENGTH } from '../../../src/frame/ethernet.js'
import type { Frame } from '../../../src/frame/frame.js'
import type { PortState } from '../port-state.js'

export interface HeldFrame {
  /** Port index. */
  readonly port: number
  readonly color: number
  /** Of the port. */
  readonly epoch: number
  /** Unix time in milliseconds. */
  readonly at: number
  /** On the wire. */
  readonly length: number
  /** Its first bytes, as they are on the wire. */
  readonly head: Uint8Array
}

/** Some 2 MB at most. */
const MOST = 4096
/** Enough for two tags, IPv6 and TCP. */
const HEAD_BYTES = 96
const ADDRESSES = 12

export class HeldFrames {
  readonly #frames: HeldFrame[] = []

  /** The first ones, in order. */
  get frames(): readonly HeldFrame[] {
    return this.#frames
  }

  add(port: PortState, frame: Frame, at: number): void {
    if (this.#frames.length === MOST) return
    const length = frame.length + (frame.tagTpid === 0 ? 0 : VLAN_TAG_LENGTH)
    const { color } = frame
    this.#frames.push({ port: port.index, color, epoch: port.epoch, at, length, head: headOf(frame) })
  }
}

function headOf({ bytes, start, length, tagTpid, tagTci }: Frame): Uint8Array {
  const own = bytes.slice(start, start + Math.min(length, HEAD_BYTES))
  if (tagTpid === 0 || own.length < ADDRESSES) return own
  const head = new Uint8Array(own.length + VLAN_TAG_LENGTH)
  head.set(own.subarray(0, ADDRESSES))
  new DataView(head.buffer).setUint32(ADDRESSES, tagTpid * 0x10000 + tagTci)
  head.set(own.subarray(ADDRESSES), ADDRESSES + VLAN_TAG_LENGTH)
  return head
}
