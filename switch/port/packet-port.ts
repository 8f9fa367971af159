// A port on a TAP, veth or any other Ethernet device: a packet socket on the device. Frames are read where the kernel has
// put them (ring slots, or the spill arena when they are long), and stay there until every port has sent its share.

import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Vnet } from '../../src/frame/gso-headers.js'
import { libc } from '../../src/linux/libc.js'
import {
  bindPacketSocket,
  isBoundTo,
  openPacketSocket,
  readKernelDrops,
  takeSocketError,
} from '../../src/linux/packet-socket.js'
import { Counter, type CounterTable, Drop, ROW } from '../forwarding/counters.js'
import type { OversizeSender } from './oversize-sender.js'
import type { FrameSink, Port } from './port.js'
import { ReceiveRing } from './receive-ring.js'
import { Segments } from './segments.js'
import { SPILL_BATCH, Spill } from './spill.js'
import { TransmitQueue } from './transmit-queue.js'

const BATCH = 64
/** 4 MiB of ring per port: some 2000 small frames while the datapath is elsewhere. */
const RING_SLOTS = 2048

export class PacketPort implements Port {
  readonly index: number
  readonly name: string
  readonly ifindex: number
  readonly fd: number
  private readonly counters: CounterTable
  private readonly row: number
  private readonly ring: ReceiveRing
  private readonly spill: Spill
  private readonly frame = new Frame()
  private readonly segments = new Segments()
  private readonly transmit: TransmitQueue
  /** Of the batch in hand: frames not yet taken, and of the long ones how many were read and how many are done. */
  private left = 0
  private spilled = 0
  private nextSpilled = 0
  /** Frames since the last housekeeping. */
  private received = 0

  /** Throws SYSCALL, PERMISSION or DEVICE_MISSING. */
  constructor(
    index: number,
    name: string,
    device: string,
    ifindex: number,
    oversize: OversizeSender,
    counters: CounterTable,
  ) {
    this.index = index
    this.name = name
    this.ifindex = ifindex
    this.counters = counters
    this.row = index * ROW
    this.fd = openPacketSocket(ifindex, device)
    let ring: ReceiveRing | null = null
    let transmit: TransmitQueue | null = null
    try {
      ring = new ReceiveRing(this.fd, RING_SLOTS)
      transmit = new TransmitQueue(this.fd, ifindex, device, oversize, counters, this.row)
      bindPacketSocket(this.fd, ifindex, device)
    } catch (error) {
      transmit?.close()
      // A mapped ring keeps its socket open without a descriptor.
      ring?.close()
      libc().close(this.fd)
      throw error
    }
    this.ring = ring
    this.transmit = transmit
    this.spill = new Spill(this.fd)
  }

  receive(sink: FrameSink, now: number): number {
    const { segments, frame } = this
    if (this.left === 0 && !segments.more) this.beginBatch()
    let handled = 0
    for (;;) {
      while (segments.more) {
        // No room until what was cut has been sent: the rest of the batch is for the next call.
        if (!segments.next(frame)) return handled
        handled++
        sink.receive(this.index, frame, now)
      }
      if (this.left === 0) return handled
      this.left--
      if (!this.take()) handled++
      else if (frame.bytes[frame.vnet + Vnet.GSO_TYPE] === 0 || !segments.begin(frame)) {
        handled++
        sink.receive(this.index, frame, now)
      }
    }
  }

  private beginBatch(): void {
    const ready = this.ring.ready(Math.min(BATCH, SPILL_BATCH))
    this.left = ready & 0xffff
    this.received += this.left
    const spilled = ready >>> 16
    this.spilled = spilled === 0 ? 0 : this.spill.read(spilled)
    this.nextSpilled = 0
  }

  /** Points the cursor at the next frame of the ring; false when it is lost. */
  private take(): boolean {
    const { ring, spill, frame } = this
    const slot = ring.take()
    const tag = ring.tag(slot)
    frame.tagTci = tag & 0xffff
    frame.tagTpid = tag >>> 16
    if (ring.isSpilled(slot) ? this.nextSpilled >= this.spilled : ring.isCut(slot)) {
      this.counters[this.row + Drop.truncated]++
      return false
    }
    const arena = ring.isSpilled(slot) ? spill.arena : ring.arena
    frame.bytes = arena.bytes
    frame.address = arena.address
    frame.view = arena.view
    if (arena === spill.arena) {
      frame.vnet = spill.offset(this.nextSpilled)
      frame.start = frame.vnet + VNET_HEADER_LENGTH
      frame.length = spill.length(this.nextSpilled++)
    } else {
      frame.start = slot + ring.frameOffset(slot)
      frame.vnet = frame.start - VNET_HEADER_LENGTH
      frame.length = ring.length(slot)
    }
    return true
  }

  send(frame: Frame, serviceTci: number): boolean {
    return this.transmit.send(frame, serviceTci)
  }

  flush(): void {
    this.transmit.flush()
  }

  release(): void {
    // A frame that is being cut may lie in a slot.
    if (!this.segments.more) this.ring.release()
    this.segments.release()
  }

  housekeeping(): void {
    this.transmit.housekeeping()
    const drops = readKernelDrops(this.fd)
    this.counters[this.row + Counter.kernelDrops] += drops
    // Frames came, and the empty ring took none of them: it is jammed.
    if (drops > 0 && this.received === 0 && this.left === 0 && this.ring.ready(1) === 0) this.ring.renew()
    this.received = 0
  }

  failed(): void {
    takeSocketError(this.fd)
  }

  isBound(): boolean {
    return isBoundTo(this.fd, this.ifindex)
  }

  close(): void {
    libc().close(this.fd)
    this.transmit.close()
    this.spill.close()
    this.segments.close()
    this.ring.close()
  }
}
