// Frames that a receive ring must not get (src/linux/ring-filters.ts), from a socket of their own: what a guest wants
// fragmented (UFO), several packets of SCTP in one, and what of other GSO frames cannot be told from them before it is
// looked at. They are few; that there are any is seen in memory, and the one epoll descriptor of all ports wakes the
// datapath.

import { existsSync } from 'node:fs'
import { Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { type Arena, mapArena, releaseArena } from '../../../src/linux/arena.js'
import { asideEvents } from '../../../src/linux/epoll.js'
import { type SocketPrograms, waitForHandover } from '../../../src/linux/handover.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { Errno, errno, libc } from '../../../src/linux/libc.js'
import {
  bindPacketSocket,
  MSG_DONTWAIT,
  MSG_PEEK,
  openAsideSocket,
  readKernelDrops,
  readMtu,
  setVnetHeader,
} from '../../../src/linux/packet-socket.js'
import type { PortDevice } from '../../../src/linux/port-sockets.js'
import { attachFilter, type RingFilter, type RingFilters, ringFilters } from '../../../src/linux/ring-filters.js'

const ETHERNET_MTU = 1500
/** While the kernel has its module. */
const SCTP_IS_THERE = '/proc/net/sctp'

/** struct msghdr, with one iovec and room for a struct tpacket_auxdata. */
const IOVEC_AT = 56
const CONTROL_AT = 72
const CONTROL_LENGTH = 64
const FRAME_AT = 192
const ROOM = FRAME_AT + VNET_HEADER_LENGTH + MAX_FRAME_LENGTH
/** struct cmsghdr, then struct tpacket_auxdata (linux/if_packet.h). */
const AUX = CONTROL_AT + 16
const AUX_VLAN_TCI = AUX + 16
const AUX_VLAN_TPID = AUX + 18
const TP_STATUS_CSUMNOTREADY = 8
const TP_STATUS_VLAN_VALID = 16

export const Aside = { NONE: 0, FRAME: 1, DATAGRAM: 2, LOST: 3 } as const
export type Aside = (typeof Aside)[keyof typeof Aside]

export class AsideSocket {
  readonly frame = new Frame()
  /**
   * Of the last DATAGRAM: its checksum is of the pseudo-header only; how long its sender wants the pieces to be, 0: not
   * known; how many the kernel has counted, 0: none, it is a guest's; and the device's MTU.
   */
  unfinished = false
  size = 0
  packets = 0
  mtu = 0
  /** Its owner's to close, after `close`. */
  readonly fd: number
  readonly #filters: RingFilters
  readonly #ifindex: number
  readonly #device: string
  /** The port's socket with the ring. */
  readonly #ring: RingFilter
  /** It gets frames. */
  #bound = false
  /** Its descriptor was ready: one more may be there than those that were counted. */
  #woken = false
  /** Mapped when the first frame has come: most ports never get one. */
  #arena: Arena | null = null
  #seen: number

  private constructor(fd: number, ring: RingFilter, ifindex: number, device: string, filters: RingFilters) {
    this.fd = fd
    this.#ring = ring
    this.#ifindex = ifindex
    this.#device = device
    this.#filters = filters
    this.#seen = filters.countOf(ifindex)
  }

  /**
   * Keeps such frames from `ring`'s socket, which is not bound yet, from then on; null where the kernel has no such
   * filters. `port`: its index, by which the events of all such sockets name this one.
   */
  static open(
    ring: RingFilter,
    port: number,
    { ifindex, device, kind }: Pick<PortDevice, 'ifindex' | 'device' | 'kind'>,
    handover?: SocketPrograms,
  ): AsideSocket | null {
    const filters = ringFilters()
    if (filters === null) return null
    const fd = openAsideSocket((socket) =>
      handover === undefined ? filters.setAside(socket) : attachFilter(socket, handover.nothing),
    )
    try {
      asideEvents().add(fd, port)
      const aside = new AsideSocket(fd, ring, ifindex, device, filters)
      // What a veth brings was fragmented before, by the kernel that sent it, but for SCTP, which most hosts never see:
      // and a second socket that is bound costs 0.13 microseconds a frame.
      const idle = kernelIsAtLeast(6, 2) && kind === 'veth' && !existsSync(SCTP_IS_THERE)
      if (idle) filters.refuse(ring)
      else aside.#bind()
      if (handover !== undefined) waitForHandover(ring, fd, handover)
      return aside
    } catch (error) {
      libc().close(fd)
      throw error
    }
  }

  #bind(): void {
    // First: both would count the same frame.
    this.#filters.keepFromRing(this.#ring)
    this.#seen = this.#filters.countOf(this.#ifindex)
    bindPacketSocket(this.fd, this.#ifindex, this.#device)
    this.#bound = true
  }

  /** The sockets take frames when `programs` say so; null: always. */
  handOver(programs: SocketPrograms | null): void {
    if (programs !== null) waitForHandover(this.#ring, this.fd, programs)
    else {
      this.#filters.setAside(this.fd)
      if (this.#bound) this.#filters.keepFromRing(this.#ring)
      else this.#filters.refuse(this.#ring)
    }
  }

  /** Frames have come: one look at memory. */
  get waits(): boolean {
    return this.#bound && (this.#woken || this.#filters.countOf(this.#ifindex) !== this.#seen)
  }

  /**
   * The next one, in `frame`; valid until the next call. Its virtio-net header is the kernel's, of a DATAGRAM empty.
   */
  read(): Aside {
    this.#arena ??= mapAside()
    const counted = this.#filters.countOf(this.#ifindex)
    // A look at the header first: reading a frame whose header the kernel cannot write is losing it.
    if (this.#receive(MSG_PEEK | MSG_DONTWAIT, 0, VNET_HEADER_LENGTH) >= 0) {
      const length = this.#receive(MSG_DONTWAIT, 0, VNET_HEADER_LENGTH + MAX_FRAME_LENGTH)
      return this.#take(length < 0 ? -1 : length - VNET_HEADER_LENGTH, Aside.FRAME)
    }
    if (errno() !== Errno.EINVAL) {
      // There are no more, or an error was told: what was counted and is not there was dropped for want of room.
      this.#seen = counted
      this.#woken = false
      return Aside.NONE
    }
    setVnetHeader(this.fd, false)
    const length = this.#receive(MSG_DONTWAIT, VNET_HEADER_LENGTH, MAX_FRAME_LENGTH)
    setVnetHeader(this.fd, true)
    this.#arena.bytes.fill(0, FRAME_AT, FRAME_AT + VNET_HEADER_LENGTH)
    const note = this.#filters.noteOf(this.#ifindex, this.#seen, length)
    this.size = note & 0xffff
    this.packets = note >>> 16
    this.mtu = readMtu(this.fd, this.#ifindex) ?? ETHERNET_MTU
    return this.#take(length, Aside.DATAGRAM)
  }

  /** Its descriptor is ready: for a frame, or with an error (its device went down), which a read takes. */
  woken(): void {
    if (this.#bound && !this.waits) this.#woken = true
  }

  /** Once a second. Returns how many were dropped for want of room. */
  housekeeping(): number {
    return this.#bound && (this.#arena !== null || this.waits) ? readKernelDrops(this.fd) : 0
  }

  /**
   * While it gets none: how many frames the ring was not given since the last call. They are lost; it gets what comes
   * after them.
   */
  refused(): number {
    if (this.#bound) return 0
    const refused = (this.#filters.countOf(this.#ifindex) - this.#seen) | 0
    if (refused === 0) return 0
    try {
      this.#bind()
    } catch {
      // The device has gone.
      this.#filters.refuse(this.#ring)
      this.#seen = this.#filters.countOf(this.#ifindex)
    }
    return refused
  }

  close(): void {
    asideEvents().remove(this.fd)
    if (this.#arena !== null) releaseArena(this.#arena)
  }

  #take(length: number, kind: Aside): Aside {
    const { frame } = this
    const arena = this.#arena!
    this.#seen = (this.#seen + 1) | 0
    if (length < 0) return Aside.LOST
    const status = arena.view.getUint32(AUX, true)
    const tagged = (status & TP_STATUS_VLAN_VALID) !== 0
    this.unfinished = (status & TP_STATUS_CSUMNOTREADY) !== 0
    frame.bytes = arena.bytes
    frame.address = arena.address
    frame.view = arena.view
    frame.vnet = FRAME_AT
    frame.start = FRAME_AT + VNET_HEADER_LENGTH
    frame.length = length
    frame.tagTpid = tagged ? arena.view.getUint16(AUX_VLAN_TPID, true) : 0
    frame.tagTci = tagged ? arena.view.getUint16(AUX_VLAN_TCI, true) : 0
    return kind
  }

  #receive(flags: number, at: number, length: number): number {
    const arena = this.#arena!
    const { words } = arena
    words[IOVEC_AT / 4] = arena.addressLow + FRAME_AT + at
    words[IOVEC_AT / 4 + 2] = length
    words[40 / 4] = CONTROL_LENGTH
    return libc().recvmsg(this.fd, arena.address, flags)
  }
}

function mapAside(): Arena {
  const arena = mapArena(ROOM)
  const { words, addressLow, addressHigh } = arena
  words[16 / 4] = addressLow + IOVEC_AT
  words[20 / 4] = addressHigh
  words[24 / 4] = 1
  words[IOVEC_AT / 4 + 1] = addressHigh
  words[32 / 4] = addressLow + CONTROL_AT
  words[36 / 4] = addressHigh
  return arena
}
