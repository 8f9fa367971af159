// Sends a batch of short frames by a transmit ring, where the kernel spends about a fifth less on a frame than on a
// message of sendmmsg (bench/README.md). A fast path and no more: what it does not take goes by sendmmsg, which tells
// of each frame why it was refused. net/packet/af_packet.c: tpacket_snd.

import { VNET_HEADER_LENGTH } from '../frame/frame.js'
import { type Arena, mapShared } from '../linux/arena.js'
import { libc } from '../linux/libc.js'
import { SEND_DATA_AT, SEND_SLOT, TpSendStatus } from '../linux/packet-ring.js'
import { MSG_DONTWAIT } from '../linux/packet-socket.js'

/** Slots of a ring: a power of two. */
export const RING_SLOTS = 256
/** Longer frames cost more to copy than is gained. */
export const LONGEST_IN_RING = 512
/** Of fewer frames the call costs more than is gained. */
export const FEWEST_IN_RING = 4

/** struct tpacket2_hdr, as indexes of 32-bit words in a slot. */
const STATUS = 0
const LENGTH = 1
const SLOT_WORDS = SEND_SLOT / 4

export class SendRing {
  readonly #fd: number
  readonly #arena: Arena
  readonly #status: Int32Array
  /** The kernel's own position, while nothing waits. */
  #first = 0
  #pending = 0

  /** `fd`: a socket bound to the device, with a ring of RING_SLOTS. Throws SYSCALL. */
  constructor(fd: number) {
    this.#fd = fd
    this.#arena = mapShared(fd, RING_SLOTS * SEND_SLOT)
    this.#status = new Int32Array(this.#arena.bytes.buffer)
  }

  /** Copies a frame, its virtio-net header before it, into the next slot; false: there is none. */
  add(view: DataView, start: number, length: number): boolean {
    const slot = (this.#first + this.#pending) & (RING_SLOTS - 1)
    const word = slot * SLOT_WORDS
    if (Atomics.load(this.#status, word + STATUS) !== TpSendStatus.AVAILABLE) return false
    const to = this.#arena.view
    const from = start - VNET_HEADER_LENGTH
    const at = slot * SEND_SLOT + SEND_DATA_AT
    const whole = VNET_HEADER_LENGTH + length
    let i = 0
    for (; i + 4 <= whole; i += 4) to.setUint32(at + i, view.getUint32(from + i, true), true)
    for (; i < whole; i++) to.setUint8(at + i, view.getUint8(from + i))
    // hdr_len is how much the kernel copies; the rest of a frame it would refer to in the slot.
    to.setUint16(at + 2, length, true)
    this.#status[word + LENGTH] = whole
    Atomics.store(this.#status, word + STATUS, TpSendStatus.SEND_REQUEST)
    this.#pending++
    return true
  }

  /** Has the kernel send what was added. Returns how many frames it took, the first ones; the others are forgotten. */
  flush(): number {
    libc().send(this.#fd, null, 0, MSG_DONTWAIT)
    let taken = this.#pending
    // In order, and none behind one that it does not take: the last one says whether there is any.
    while (taken > 0 && this.#waits(this.#first + taken - 1)) taken--
    for (let i = taken; i < this.#pending; i++) this.#clear(this.#first + i)
    this.#first = (this.#first + taken) & (RING_SLOTS - 1)
    this.#pending = 0
    return taken
  }

  #waits(slot: number): boolean {
    const status = Atomics.load(this.#status, (slot & (RING_SLOTS - 1)) * SLOT_WORDS + STATUS)
    return status === TpSendStatus.SEND_REQUEST || status === TpSendStatus.WRONG_FORMAT
  }

  #clear(slot: number): void {
    Atomics.store(this.#status, (slot & (RING_SLOTS - 1)) * SLOT_WORDS + STATUS, TpSendStatus.AVAILABLE)
  }
}
