// Sees the frames that a device sends or receives, with the kernel's time of each, beside whoever else does. For
// comparisons, not for forwarding: frames are read into memory of their own, with their VLAN tag in its place.

import { type Arena, mapArena, releaseArena } from './arena.js'
import { check, libc } from './libc.js'
import { setNow } from './packet-ring.js'
import { linkAddress, MessageLayout, MSG_DONTWAIT, promiscuous, readKernelDrops } from './packet-socket.js'

const AF_PACKET = 17
const SOCK_RAW = 3
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
/** With 64-bit times on every 64-bit machine. */
const SO_TIMESTAMPNS = 35
const SOL_PACKET = 263
const PACKET_AUXDATA = 8
const ETH_P_ALL = 3
const PACKET_OUTGOING = 4

const BUFFER_BYTES = 64 * 1024 * 1024
const BATCH = 64
const ADDRESSES = 12
const TAG = 4
/** A frame lies behind room for its tag. */
const STRIDE = 68 * 1024
const ADDRESS_SIZE = 32
const CONTROL_SIZE = 128
const IOVECS_AT = BATCH * MessageLayout.STRIDE
const ADDRESSES_AT = IOVECS_AT + BATCH * MessageLayout.IOVEC
const CONTROLS_AT = ADDRESSES_AT + BATCH * ADDRESS_SIZE
const TABLE_SIZE = CONTROLS_AT + BATCH * CONTROL_SIZE
/** struct sockaddr_ll: sll_pkttype. */
const PACKET_TYPE = 10
const VLAN_VALID = 16
const VLAN_TPID_VALID = 64

export class PacketWatch {
  /** Of frames that came and were dropped for want of room: they were not seen. */
  missed = 0
  readonly #fd: number
  readonly #outgoing: boolean
  readonly #frames: Arena = mapArena(BATCH * STRIDE)
  readonly #table: Arena = mapArena(TABLE_SIZE)

  /** `outgoing`: what the device sends, else what it receives. Throws SYSCALL, PERMISSION. */
  constructor(device: { readonly index: number; readonly name: string }, outgoing: boolean) {
    const c = libc()
    this.#outgoing = outgoing
    const fd = check(c.socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket')
    this.#fd = fd
    try {
      const on = new Uint8Array(Int32Array.of(1).buffer)
      const room = new Uint8Array(Int32Array.of(BUFFER_BYTES).buffer)
      check(c.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, room, 4), 'SO_RCVBUFFORCE')
      check(c.setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, on, 4), 'SO_TIMESTAMPNS')
      check(c.setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, on, 4), 'PACKET_AUXDATA')
      if (!outgoing) setNow(promiscuous(fd, device.index, device.name))
      const address = linkAddress(device.index, ETH_P_ALL)
      check(c.bind(fd, address, address.length), `bind to ${device.name}`)
    } catch (error) {
      this.close()
      throw error
    }
  }

  /**
   * Hands what has come to `take`, whose frame is good during the call only; at most a batch. Returns how many came.
   */
  read(take: (bytes: Uint8Array, seconds: number, nanoseconds: number) => void): number {
    this.#layOut()
    const came = libc().recvmmsg(this.#fd, this.#table.address, BATCH, MSG_DONTWAIT, 0)
    const { view } = this.#table
    for (let i = 0; i < came; i++) {
      const isOutgoing = view.getUint8(ADDRESSES_AT + i * ADDRESS_SIZE + PACKET_TYPE) === PACKET_OUTGOING
      if (isOutgoing === this.#outgoing) this.#hand(i, take)
    }
    return Math.max(0, came)
  }

  /** Counts what was missed; now and then, and at the end. */
  housekeeping(): void {
    this.missed += readKernelDrops(this.#fd)
  }

  close(): void {
    libc().close(this.#fd)
    releaseArena(this.#frames)
    releaseArena(this.#table)
  }

  /** The kernel has written lengths over what stood there. */
  #layOut(): void {
    const { words, addressLow, addressHigh } = this.#table
    for (let i = 0; i < BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      const iovec = (IOVECS_AT + i * MessageLayout.IOVEC) / 4
      words[message] = addressLow + ADDRESSES_AT + i * ADDRESS_SIZE
      words[message + 1] = addressHigh
      words[message + 2] = ADDRESS_SIZE
      words[message + MessageLayout.IOV / 4] = addressLow + iovec * 4
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      words[message + MessageLayout.IOV_COUNT / 4] = 1
      words[message + MessageLayout.CONTROL / 4] = addressLow + CONTROLS_AT + i * CONTROL_SIZE
      words[message + MessageLayout.CONTROL / 4 + 1] = addressHigh
      words[message + MessageLayout.CONTROL_LENGTH / 4] = CONTROL_SIZE
      words[iovec] = this.#frames.addressLow + i * STRIDE + TAG
      words[iovec + 1] = this.#frames.addressHigh
      words[iovec + 2] = STRIDE - TAG
    }
  }

  #hand(i: number, take: (bytes: Uint8Array, seconds: number, nanoseconds: number) => void): void {
    const { view } = this.#table
    const { bytes } = this.#frames
    const message = i * MessageLayout.STRIDE
    let length = view.getUint32(message + MessageLayout.LENGTH, true)
    let start = i * STRIDE + TAG
    let seconds = 0
    let nanoseconds = 0
    const end = CONTROLS_AT + i * CONTROL_SIZE + view.getUint32(message + MessageLayout.CONTROL_LENGTH, true)
    // struct cmsghdr: length u64, level, type; then the content, all in steps of 8.
    for (let at = CONTROLS_AT + i * CONTROL_SIZE; at + 16 <= end; ) {
      const size = view.getUint32(at, true)
      const level = view.getUint32(at + 8, true)
      if (level === SOL_SOCKET) {
        seconds = Number(view.getBigInt64(at + 16, true))
        nanoseconds = view.getUint32(at + 24, true)
      } else if (level === SOL_PACKET && (view.getUint32(at + 16, true) & VLAN_VALID) !== 0) {
        // struct tpacket_auxdata
        const tpid = (view.getUint32(at + 16, true) & VLAN_TPID_VALID) === 0 ? 0x8100 : view.getUint16(at + 34, true)
        const tci = view.getUint16(at + 32, true)
        bytes.copyWithin(start - TAG, start, start + ADDRESSES)
        start -= TAG
        length += TAG
        bytes.set([tpid >> 8, tpid & 0xff, tci >> 8, tci & 0xff], start + ADDRESSES)
      }
      if (size < 16) break
      at += (size + 7) & ~7
    }
    take(bytes.subarray(start, start + length), seconds, nanoseconds)
  }
}
