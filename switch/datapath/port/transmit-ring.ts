// The sending half of a packet port for short frames: a TPACKET_V2 ring that we fill and the kernel empties, with one
// system call per batch. The kernel spends about a fifth less on such a frame than on a message of sendmmsg, which more
// than pays for the copy into the slot; and a tag costs nothing extra, for it is written while copying.
//
// It is a fast path and no more: what it does not take (long frames, GSO, frames without a fixed address, a ring that
// is full) goes by sendmmsg, and so does what the kernel did not take from it, for sendmmsg tells of each frame why.
// net/packet/af_packet.c: tpacket_snd.

import { type Frame, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { type Arena, mapShared, releaseArena } from '../../../src/linux/arena.js'
import { libc } from '../../../src/linux/libc.js'
import { SEND_DATA_AT, SEND_SLOT, TpSendStatus } from '../../../src/linux/packet-ring.js'
import { MSG_DONTWAIT } from '../../../src/linux/packet-socket.js'
import { copyWithTags } from './tagged-copy.js'

/** Longer frames are not copied by us. */
const LONGEST = 512

/** struct tpacket2_hdr, as indexes of 32-bit words in a slot. */
const STATUS = 0
const LENGTH = 1
const WORDS_PER_SLOT = SEND_SLOT / 4

export class TransmitRing {
  /** Frames that wait for `flush`. */
  pending = 0
  /** Bytes of the frames that the last `flush` got rid of, pushed tags not counted. */
  takenBytes = 0
  readonly #fd: number
  readonly #arena: Arena
  readonly #status: Int32Array
  /** The oldest slot that waits; the kernel's own position while nothing does. */
  #first = 0
  readonly #lengths: Int32Array
  readonly #slots: number

  /** `fd`: a socket bound to the device, with a transmit ring of so many slots, a power of two. Throws SYSCALL. */
  constructor(fd: number, slots: number) {
    this.#fd = fd
    this.#slots = slots
    this.#lengths = new Int32Array(slots)
    this.#arena = mapShared(fd, slots * SEND_SLOT)
    this.#status = new Int32Array(this.#arena.bytes.buffer)
  }

  /** Copies a frame into the next slot, with its tags. False: it has to go another way. */
  add(frame: Frame, serviceTci: number): boolean {
    if (frame.length > LONGEST || frame.address === 0 || frame.bytes[frame.vnet + 1] !== 0) return false
    const slot = (this.#first + this.pending) & (this.#slots - 1)
    // The kernel's buffer may outlive the call: a slot is free when the frame has left the device or its queue.
    if (Atomics.load(this.#status, slot * WORDS_PER_SLOT + STATUS) !== TpSendStatus.AVAILABLE) return false
    const at = slot * SEND_SLOT + SEND_DATA_AT
    const length = copyWithTags(frame, serviceTci, this.#arena, at)
    // hdr_len is how much the kernel copies; the rest of a frame it would refer to in the slot.
    this.#arena.view.setUint16(at + 2, length - VNET_HEADER_LENGTH, true)
    this.#status[slot * WORDS_PER_SLOT + LENGTH] = length
    this.#lengths[slot] = frame.length
    Atomics.store(this.#status, slot * WORDS_PER_SLOT + STATUS, TpSendStatus.SEND_REQUEST)
    this.pending++
    return true
  }

  /**
   * Has the kernel send what waits. Returns how many frames it took; the others wait still, first of all to be looked
   * at.
   */
  flush(): number {
    libc().send(this.#fd, null, 0, MSG_DONTWAIT)
    let taken = this.pending
    // In order, and none behind one that it does not take: the last one says whether there is any.
    while (taken > 0 && this.#waits((this.#first + taken - 1) & (this.#slots - 1))) taken--
    this.takenBytes = 0
    for (let i = 0; i < taken; i++) this.takenBytes += this.#lengths[(this.#first + i) & (this.#slots - 1)]
    this.#first = (this.#first + taken) & (this.#slots - 1)
    this.pending -= taken
    return taken
  }

  /** Address and length, virtio-net header included, of the i-th frame that waits. */
  addressOf(i: number): number {
    return this.#arena.address + ((this.#first + i) & (this.#slots - 1)) * SEND_SLOT + SEND_DATA_AT
  }

  lengthOf(i: number): number {
    return this.#status[((this.#first + i) & (this.#slots - 1)) * WORDS_PER_SLOT + LENGTH]
  }

  /** The same as it came: neither header nor pushed tags. */
  frameLength(i: number): number {
    return this.#lengths[(this.#first + i) & (this.#slots - 1)]
  }

  /** Forgets what waits. */
  clear(): void {
    for (; this.pending > 0; this.pending--) {
      const slot = (this.#first + this.pending - 1) & (this.#slots - 1)
      Atomics.store(this.#status, slot * WORDS_PER_SLOT + STATUS, TpSendStatus.AVAILABLE)
    }
  }

  close(): void {
    releaseArena(this.#arena)
  }

  #waits(slot: number): boolean {
    const status = Atomics.load(this.#status, slot * WORDS_PER_SLOT + STATUS)
    return status === TpSendStatus.SEND_REQUEST || status === TpSendStatus.WRONG_FORMAT
  }
}
