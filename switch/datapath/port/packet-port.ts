// A port on a TAP, veth or any other Ethernet device: a packet socket on the device. Frames are read where the kernel
// has put them (ring slots, or the spill arena when they are long), and stay there until every port has sent its share.

import { Frame, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { finishSctpChecksum, lacksSctpChecksum } from '../../../src/frame/sctp.js'
import { Vnet } from '../../../src/frame/vnet-header.js'
import type { SocketPrograms } from '../../../src/linux/handover.js'
import { libc } from '../../../src/linux/libc.js'
import { bindPacketSocket, isBoundTo, readKernelDrops, takeSocketError } from '../../../src/linux/packet-socket.js'
import type { PortDevice, PortSockets } from '../../../src/linux/port-sockets.js'
import { type FrontFilter, RingFilter } from '../../../src/linux/ring-filters.js'
import { Counter, type CounterTable, Drop, type DropReason, ROW } from '../../forwarding/counters.js'
import { Aside, AsideSocket } from './aside.js'
import type { OversizeSender } from './oversize-sender.js'
import type { FrameSink, Port, PortTrouble } from './port.js'
import { ReceiveRing } from './receive-ring.js'
import { Segments } from './segments.js'
import { giveSpill, SPILL_BATCH, type Spill, takeSpill } from './spill.js'
import { TransmitQueue } from './transmit-queue.js'

/** Counts the frames that a port takes from its socket, for whoever keeps others from it. */
export interface Taking {
  /** `tag`: what lay beside it, 0: nothing. */
  take(bytes: Uint8Array, at: number, tag: number): void
  /** Those that were taken have been sent on. */
  sent(): void
}

const BATCH = 64
/** How long a jammed ring may stay so. */
const JAM_LOOK_MS = 100
/** Of a silent port's looks one in so many is made, where such frames are kept from the ring. */
const QUIET_LOOKS = 4

export class PacketPort implements Port {
  readonly index: number
  readonly name: string
  readonly ifindex: number
  /** See PortDevice. */
  readonly inBridge: boolean
  readonly fd: number
  readonly #counters: CounterTable
  readonly #row: number
  readonly #filter: RingFilter
  #taking: Taking | null = null
  readonly #ring: ReceiveRing
  /** While long frames are in it. */
  #spill: Spill | null = null
  readonly #frame = new Frame()
  readonly #segments = new Segments()
  /** Null where the kernel has no filters: then such a frame jams the ring. */
  readonly #aside: AsideSocket | null = null
  readonly #transmit: TransmitQueue
  /** Of the batch in hand: frames not yet taken, and of the long ones how many were read and how many are done. */
  #left = 0
  #spilled = 0
  #nextSpilled = 0
  /** Frames since the last look at what the kernel has dropped. */
  #received = 0
  #nextLook = 0
  /** Looks that were left out since the last one. */
  #quietLooks = 0
  /** What is sent goes nowhere: the bridge that the device belongs to gives it the same. */
  #mute: boolean
  readonly #told = new Set<PortTrouble>()
  readonly #say: (trouble: PortTrouble) => void

  /**
   * From here on it receives, into its ring. The sockets are the caller's to close, after `close`, and so they are when
   * this throws: SYSCALL, DEVICE_MISSING.
   */
  constructor(
    index: number,
    name: string,
    place: PortDevice,
    sockets: PortSockets,
    oversize: Pick<OversizeSender, 'send'>,
    counters: CounterTable,
    say: (trouble: PortTrouble) => void = () => undefined,
  ) {
    const { device, ifindex, inBridge = false, handover } = place
    this.index = index
    this.name = name
    this.ifindex = ifindex
    this.inBridge = inBridge
    this.#counters = counters
    this.#say = say
    this.#row = index * ROW
    this.fd = sockets.receive
    this.#filter = new RingFilter(this.fd)
    this.#mute = handover?.mute ?? false
    let ring: ReceiveRing | null = null
    let transmit: TransmitQueue | null = null
    try {
      ring = new ReceiveRing(this.fd, sockets.receiveShape)
      transmit = new TransmitQueue(sockets, place, oversize, counters, this.#row)
      this.#aside = AsideSocket.open(this.#filter, index, place, handover)
      bindPacketSocket(this.fd, ifindex, device)
    } catch (error) {
      this.#aside?.close()
      if (this.#aside !== null) libc().close(this.#aside.fd)
      transmit?.close()
      // A mapped ring keeps its socket open without a descriptor.
      ring?.close()
      throw error
    }
    this.#ring = ring
    this.#transmit = transmit
  }

  receive(sink: FrameSink, now: number): number {
    const frame = this.#frame
    const segments = this.#segments
    if (this.#left === 0 && !segments.more) this.#beginBatch()
    let handled = 0
    for (;;) {
      while (segments.more) {
        // No room until what was cut has been sent: the rest of the batch is for the next call.
        if (!segments.next(frame)) return handled
        handled++
        sink.receive(this.index, frame, now)
      }
      if (this.#left === 0) {
        if (this.#aside === null || !this.#aside.waits || handled >= BATCH) return handled
        const came = this.#readAside(this.#aside)
        if (came === Aside.NONE) return handled
        handled++
        if (came !== Aside.FRAME) continue
        // It is sent from where it lies, before the next one is read there.
        sink.receive(this.index, this.#aside.frame, now)
        return handled
      }
      this.#left--
      if (!this.#take()) handled++
      else if (frame.bytes[frame.vnet + Vnet.GSO_TYPE] === 0) {
        if (lacksSctpChecksum(frame)) finishSctpChecksum(frame)
        handled++
        sink.receive(this.index, frame, now)
      } else if (!segments.beginIfMust(frame)) {
        handled++
        sink.receive(this.index, frame, now)
        if (segments.hasLeftMuch) return handled
      }
    }
  }

  /**
   * Reads a frame that the ring was not given; FRAME: it is to be passed on as it is, else there is nothing more to do.
   */
  #readAside(aside: AsideSocket): Aside {
    const came = aside.read()
    if (came === Aside.FRAME || came === Aside.DATAGRAM)
      this.#taking?.take(aside.frame.bytes, aside.frame.start, aside.frame.tagTpid)
    if (came === Aside.LOST) this.#counters[this.#row + Drop.truncated]++
    if (came === Aside.FRAME && this.#segments.beginIfMust(aside.frame)) return Aside.DATAGRAM
    if (came !== Aside.DATAGRAM) return came
    if (!this.#segments.beginUndescribed(aside.frame, aside)) {
      this.#counters[this.#row + Drop['gso-unsupported']]++
      this.#tell('gso-unsupported')
    }
    return came
  }

  #beginBatch(): void {
    const ready = this.#ring.ready(Math.min(BATCH, SPILL_BATCH))
    this.#left = ready & 0xffff
    this.#received += this.#left
    const spilled = ready >>> 16
    this.#nextSpilled = 0
    this.#spilled = 0
    if (spilled === 0) return
    this.#spill ??= takeSpill()
    this.#spilled = this.#spill.read(this.fd, spilled)
  }

  /** Points the cursor at the next frame of the ring; false when it is lost. */
  #take(): boolean {
    const ring = this.#ring
    const spill = this.#spill
    const frame = this.#frame
    const slot = ring.take()
    const tag = ring.tag(slot)
    // A frame that lies elsewhere, or is lost, begins here all the same.
    if (this.#taking !== null) this.#taking.take(ring.arena.bytes, slot + ring.frameOffset(slot), tag)
    frame.tagTci = tag & 0xffff
    frame.tagTpid = tag >>> 16
    if (ring.isSpilled(slot) ? this.#nextSpilled >= this.#spilled : ring.isCut(slot)) {
      this.#counters[this.#row + Drop.truncated]++
      return false
    }
    const isSpilled = spill !== null && ring.isSpilled(slot)
    const arena = isSpilled ? spill.arena : ring.arena
    frame.bytes = arena.bytes
    frame.address = arena.address
    frame.view = arena.view
    if (isSpilled) {
      frame.vnet = spill.offset(this.#nextSpilled)
      frame.start = frame.vnet + VNET_HEADER_LENGTH
      frame.length = spill.length(this.#nextSpilled++)
    } else {
      frame.start = slot + ring.frameOffset(slot)
      frame.vnet = frame.start - VNET_HEADER_LENGTH
      frame.length = ring.length(slot)
    }
    return true
  }

  send(frame: Frame, serviceTci: number): boolean {
    return this.#mute || this.#transmit.send(frame, serviceTci)
  }

  get refusal(): DropReason {
    return this.#transmit.refusal
  }

  flush(): void {
    this.#transmit.flush()
  }

  release(): void {
    // A frame that is being cut may lie in a slot.
    if (!this.#segments.more) {
      this.#ring.release()
      this.#taking?.sent()
      if (this.#spill !== null && this.#left === 0) this.#giveSpill()
    }
    this.#segments.release()
  }

  #giveSpill(): void {
    giveSpill(this.#spill!)
    this.#spill = null
  }

  /** Nothing that its sockets have been given waits to be sent on. */
  get isEmpty(): boolean {
    return this.#left === 0 && !this.#segments.more && this.#ring.ready(1) === 0 && this.#aside?.waits !== true
  }

  /**
   * From now on a filter stands before the socket's own, and what it lets through is counted. False: the socket has no
   * filter of its own, which a kernel without bpf(2) does not give it. Throws SYSCALL.
   */
  putFilterBefore(front: FrontFilter, taking: Taking): boolean {
    if (!this.#filter.putBefore(front)) return false
    this.#taking = taking
    return true
  }

  /** Throws SYSCALL. */
  takeFilterAway(): void {
    this.#filter.takeAway()
    this.#taking = null
  }

  /** Else its ring may be jammed. */
  get isCalm(): boolean {
    return this.#aside !== null
  }

  tick(now: number): void {
    if (this.#aside !== null) this.#countRefused(this.#aside)
    // Where nothing keeps the frames away that jam a ring, they are lost, but not much more than they.
    if (this.#aside !== null || now < this.#nextLook) return
    this.#nextLook = now + JAM_LOOK_MS
    this.#lookAtRing()
  }

  housekeeping(): void {
    this.#transmit.housekeeping()
    this.#lookAtRing()
    if (this.#aside === null) return
    this.#counters[this.#row + Counter.kernelDrops] += this.#aside.housekeeping()
    this.#countRefused(this.#aside)
  }

  #countRefused(aside: AsideSocket): void {
    const refused = aside.refused()
    if (refused === 0) return
    this.#counters[this.#row + Drop['gso-unsupported']] += refused
    this.#tell('gso-unsupported')
  }

  #lookAtRing(): void {
    // Nothing is dropped at a port that is asked all the time and has brought nothing, unless its ring is jammed.
    if (this.#received === 0 && this.#aside !== null && ++this.#quietLooks < QUIET_LOOKS) return
    this.#quietLooks = 0
    const drops = readKernelDrops(this.fd)
    this.#counters[this.#row + Counter.kernelDrops] += drops
    // Frames came, and the empty ring took none of them: it is jammed.
    if (drops > 0 && this.#received === 0 && this.#left === 0 && !this.#segments.more && this.#ring.ready(1) === 0) {
      this.#ring.renew()
      this.#counters[this.#row + Counter.ringRenewals]++
      this.#tell('ring-jammed')
    }
    this.#received = 0
  }

  #tell(trouble: PortTrouble): void {
    if (this.#told.has(trouble)) return
    this.#told.add(trouble)
    this.#say(trouble)
  }

  failed(): void {
    takeSocketError(this.fd)
  }

  isBound(): boolean {
    return isBoundTo(this.fd, this.ifindex)
  }

  /** A socket that the port has opened itself, the caller's to close as the others; -1: none. */
  get asideFd(): number {
    return this.#aside?.fd ?? -1
  }

  handOver(programs: SocketPrograms | null): void {
    this.#mute = false
    this.#aside?.handOver(programs)
  }

  woken(): void {
    this.#aside?.woken()
  }

  close(): void {
    this.#aside?.close()
    this.#transmit.close()
    if (this.#spill !== null) this.#giveSpill()
    this.#segments.close()
    this.#ring.close()
  }
}
