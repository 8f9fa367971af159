// Sends frames that are longer than a packet socket's messages may be, though a bridge would forward them
// (frame-room.ts): by transmit rings, where the kernel does not look at the MTU when there are virtio-net headers
// (tpacket_snd in net/packet/af_packet.c, from 4.x to 6.18). One for all ports of a datapath: the device is named with
// each send. A frame is sent at once, so that it keeps its place among its port's frames; what waits in the port must
// have been flushed.

import { type Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { type Arena, mapShared, releaseArena } from '../../../src/linux/arena.js'
import { Errno, errno, libc } from '../../../src/linux/libc.js'
import { SEND_DATA_AT, type SendShape, TpSendStatus } from '../../../src/linux/packet-ring.js'
import { linkAddress, MSG_DONTWAIT } from '../../../src/linux/packet-socket.js'
import { copyWithTags } from './tagged-copy.js'

/** For devices with the usual MTU; and for any, up to 64 KiB. Slots stay taken while a frame is in a device's queue. */
const USUAL: SendShape = { slots: 512, slot: 2048, block: 64 * 1024 }
const ANY: SendShape = { slots: 60, slot: 68 * 1024, block: 15 * 68 * 1024 }
/** The rings of the sockets that a sender needs. */
export const OVERSIZE_SHAPES: readonly SendShape[] = [USUAL, ANY]
const TAGS = 8

/** struct tpacket2_hdr, as indexes of 32-bit words in a slot. */
const STATUS = 0
const LENGTH = 1
/**
 * The kernel copies so much of a frame, and refers to the rest in the slot: a longer piece of memory may be hard to
 * find.
 */
const MOST_COPIED = 9216
/** struct sockaddr_ll: the interface. */
const ADDRESS_IFINDEX = 4

export class OversizeSender {
  readonly #usual: Ring
  readonly #any: Ring

  /** The sockets, of OVERSIZE_SHAPES, are the caller's to close, after `close`. Throws SYSCALL. */
  constructor([usual, any]: readonly number[]) {
    this.#usual = new Ring(usual!, USUAL)
    this.#any = new Ring(any!, ANY)
  }

  /** Returns 0, or the errno why the frame was not sent; EAGAIN: there was no room. */
  send(frame: Frame, serviceTci: number, ifindex: number): number {
    if (frame.length > MAX_FRAME_LENGTH) return Errno.EMSGSIZE
    const ring = SEND_DATA_AT + VNET_HEADER_LENGTH + frame.length + TAGS <= USUAL.slot ? this.#usual : this.#any
    return ring.send(frame, serviceTci, ifindex)
  }

  close(): void {
    this.#usual.close()
    this.#any.close()
  }
}

class Ring {
  readonly #fd: number
  readonly #arena: Arena
  readonly #status: Int32Array
  readonly #shape: SendShape
  #next = 0
  readonly #address = linkAddress(0, 0)
  readonly #addressView = new DataView(this.#address.buffer)

  constructor(fd: number, shape: SendShape) {
    this.#fd = fd
    this.#shape = shape
    this.#arena = mapShared(fd, shape.slots * shape.slot)
    this.#status = new Int32Array(this.#arena.bytes.buffer)
  }

  send(frame: Frame, serviceTci: number, ifindex: number): number {
    const slot = this.#next * this.#shape.slot
    const word = slot / 4
    if (Atomics.load(this.#status, word + STATUS) !== TpSendStatus.AVAILABLE) return Errno.EAGAIN
    const at = slot + SEND_DATA_AT
    const length = copyWithTags(frame, serviceTci, this.#arena, at)
    this.#arena.view.setUint16(at + 2, Math.min(length - VNET_HEADER_LENGTH, MOST_COPIED), true)
    this.#status[word + LENGTH] = length
    Atomics.store(this.#status, word + STATUS, TpSendStatus.SEND_REQUEST)
    this.#addressView.setInt32(ADDRESS_IFINDEX, ifindex, true)
    const sent = libc().sendto(this.#fd, null, 0, MSG_DONTWAIT, this.#address, this.#address.length)
    const error = sent < 0 ? errno() : 0
    const status = Atomics.load(this.#status, word + STATUS)
    if (status === TpSendStatus.SEND_REQUEST || status === TpSendStatus.WRONG_FORMAT) {
      // Not taken; the kernel looks at this slot again next time.
      Atomics.store(this.#status, word + STATUS, TpSendStatus.AVAILABLE)
      return error === 0 ? Errno.EAGAIN : error
    }
    this.#next = this.#next + 1 === this.#shape.slots ? 0 : this.#next + 1
    return 0
  }

  close(): void {
    releaseArena(this.#arena)
  }
}
