// The receiving half of a packet port for frames that fit a slot (up to about 1900 bytes; less where there are many
// ports): a TPACKET_V2 ring that the kernel fills and we read without a system call or a copy. Longer (GSO) frames do
// not fit: the kernel marks the slot and queues the whole frame to be read with recvmmsg (PACKET_COPY_THRESH), in the
// same order; see spill.ts.
//
// Why V2 and small slots: V3 packs frames into blocks and delays them until a block is full or times out; slots for 64
// KiB would cost a page walk and 32 times the memory per small frame. net/packet/af_packet.c: tpacket_rcv.

import { type Arena, mapShared, releaseArena } from '../../../src/linux/arena.js'
import { disableReceiveRing, enableReceiveRing, type ReceiveShape, TpStatus } from '../../../src/linux/packet-ring.js'

/** struct tpacket2_hdr, as indexes of 32-bit words in a slot. */
const STATUS = 0
const LENGTH = 1
const SNAP_LENGTH = 2
/** tp_mac u16, tp_net u16. */
const OFFSETS = 3
/** tp_vlan_tci u16, tp_vlan_tpid u16. */
const VLAN = 6

export class ReceiveRing {
  arena: Arena
  #status: Int32Array
  readonly #fd: number
  readonly #shape: ReceiveShape
  readonly #mask: number
  /** Bytes of a slot, as a shift; words of one. */
  readonly #slotShift: number
  readonly #wordShift: number
  /** The next slot to read, and the oldest one not given back yet. */
  #next = 0
  #oldest = 0

  /** Of a socket that has such a ring. */
  constructor(fd: number, shape: ReceiveShape) {
    this.#fd = fd
    this.#shape = shape
    this.arena = mapShared(fd, shape.slots * shape.slot)
    this.#status = new Int32Array(this.arena.bytes.buffer)
    this.#mask = shape.slots - 1
    this.#slotShift = Math.log2(shape.slot)
    this.#wordShift = this.#slotShift - 2
  }

  /**
   * How many slots are ready, up to `most`, and how many of those have their frame in the spill queue (upper 16 bits).
   */
  ready(most: number): number {
    const room = Math.min(most, this.#mask + 1 - ((this.#next - this.#oldest) & 0x3fffffff))
    let count = 0
    let spilled = 0
    while (count < room) {
      // An acquiring load: what the kernel wrote to the slot before it set the status is seen after this.
      const status = Atomics.load(this.#status, (((this.#next + count) & this.#mask) << this.#wordShift) + STATUS)
      if ((status & TpStatus.USER) === 0) break
      if ((status & TpStatus.COPY) !== 0) spilled++
      count++
    }
    return (spilled << 16) | count
  }

  /** Takes the next slot; returns its offset in `arena`. */
  take(): number {
    const slot = (this.#next & this.#mask) << this.#slotShift
    this.#next = (this.#next + 1) & 0x3fffffff
    return slot
  }

  isSpilled(slot: number): boolean {
    return (this.arena.words[slot / 4 + STATUS] & TpStatus.COPY) !== 0
  }

  /** The frame did not fit, and its copy not the socket's buffer: it is lost. */
  isCut(slot: number): boolean {
    return this.arena.words[slot / 4 + SNAP_LENGTH] < this.arena.words[slot / 4 + LENGTH]
  }

  /** Offset of the destination address in the slot; the virtio-net header lies before it. */
  frameOffset(slot: number): number {
    return this.arena.words[slot / 4 + OFFSETS] & 0xffff
  }

  length(slot: number): number {
    return this.arena.words[slot / 4 + LENGTH]
  }

  /** TCI in the lower half, TPID in the upper; 0 when the frame came without a tag. */
  tag(slot: number): number {
    return (this.arena.words[slot / 4 + STATUS] & TpStatus.VLAN_VALID) === 0 ? 0 : this.arena.words[slot / 4 + VLAN]
  }

  /** Gives all taken slots back to the kernel: their frames have been sent or copied. */
  release(): void {
    while (this.#oldest !== this.#next) {
      Atomics.store(this.#status, ((this.#oldest & this.#mask) << this.#wordShift) + STATUS, TpStatus.KERNEL)
      this.#oldest = (this.#oldest + 1) & 0x3fffffff
    }
  }

  /**
   * Starts over with an empty ring; what is in the old one is lost. A frame whose virtio-net header the kernel cannot
   * write (one that a guest wants fragmented as UDP) is dropped by tpacket_rcv after it has marked the slot as being
   * filled, and nothing takes the mark off: from then on every frame is dropped. Call it with all slots released.
   */
  renew(): void {
    releaseArena(this.arena)
    disableReceiveRing(this.#fd)
    enableReceiveRing(this.#fd, this.#shape)
    this.arena = mapShared(this.#fd, this.#shape.slots * this.#shape.slot)
    this.#status = new Int32Array(this.arena.bytes.buffer)
    this.#next = 0
    this.#oldest = 0
  }

  close(): void {
    releaseArena(this.arena)
  }
}
