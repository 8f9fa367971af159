// A port on a TAP, veth or any other Ethernet device: a packet socket on the device. Frames are read where the kernel has
// put them (ring slots, or the spill arena when they are long), and stay there until every port has sent its share.

import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { libc } from '../../src/linux/libc.js'
import { bindPacketSocket, openPacketSocket, readKernelDrops, takeSocketError } from '../../src/linux/packet-socket.js'
import { Counter, type CounterTable, Drop, ROW } from '../forwarding/counters.js'
import type { FrameSink, Port } from './port.js'
import { ReceiveRing } from './receive-ring.js'
import { SPILL_BATCH, Spill } from './spill.js'
import { TransmitQueue } from './transmit-queue.js'

const BATCH = 64
/** 4 MiB of ring per port: some 2000 small frames while the datapath is elsewhere. */
const RING_SLOTS = 2048

export class PacketPort implements Port {
  readonly index: number
  readonly name: string
  readonly fd: number
  private readonly counters: CounterTable
  private readonly row: number
  private readonly ring: ReceiveRing
  private readonly spill: Spill
  private readonly frame = new Frame()
  private readonly transmit: TransmitQueue
  /** Frames since the last housekeeping. */
  private received = 0

  /** Throws SYSCALL, PERMISSION or DEVICE_MISSING. */
  constructor(index: number, name: string, device: string, ifindex: number, counters: CounterTable) {
    this.index = index
    this.name = name
    this.counters = counters
    this.row = index * ROW
    this.fd = openPacketSocket(ifindex, device)
    let ring: ReceiveRing | null = null
    let transmit: TransmitQueue | null = null
    try {
      ring = new ReceiveRing(this.fd, RING_SLOTS)
      transmit = new TransmitQueue(this.fd, ifindex, device, counters, this.row)
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
    const { ring, spill, frame } = this
    const ready = ring.ready(Math.min(BATCH, SPILL_BATCH))
    const count = ready & 0xffff
    this.received += count
    const spilled = ready >>> 16
    const read = spilled === 0 ? 0 : spill.read(spilled)
    let nextSpilled = 0
    for (let i = 0; i < count; i++) {
      const slot = ring.take()
      const tag = ring.tag(slot)
      frame.tagTci = tag & 0xffff
      frame.tagTpid = tag >>> 16
      if (ring.isSpilled(slot)) {
        if (nextSpilled >= read) {
          this.counters[this.row + Drop.truncated]++
          continue
        }
        frame.bytes = spill.arena.bytes
        frame.address = spill.arena.address
        frame.view = spill.arena.view
        frame.vnet = spill.offset(nextSpilled)
        frame.start = frame.vnet + VNET_HEADER_LENGTH
        frame.length = spill.length(nextSpilled++)
      } else if (ring.isCut(slot)) {
        this.counters[this.row + Drop.truncated]++
        continue
      } else {
        frame.bytes = ring.arena.bytes
        frame.address = ring.arena.address
        frame.view = ring.arena.view
        frame.start = slot + ring.frameOffset(slot)
        frame.vnet = frame.start - VNET_HEADER_LENGTH
        frame.length = ring.length(slot)
      }
      sink.receive(this.index, frame, now)
    }
    return count
  }

  send(frame: Frame, serviceTci: number): boolean {
    return this.transmit.send(frame, serviceTci)
  }

  flush(): void {
    this.transmit.flush()
  }

  release(): void {
    this.ring.release()
  }

  housekeeping(): void {
    const drops = readKernelDrops(this.fd)
    this.counters[this.row + Counter.kernelDrops] += drops
    // Frames came, and the empty ring took none of them: it is jammed.
    if (drops > 0 && this.received === 0 && this.ring.ready(1) === 0) this.ring.renew()
    this.received = 0
  }

  failed(): void {
    takeSocketError(this.fd)
  }

  close(): void {
    libc().close(this.fd)
    this.transmit.close()
    this.spill.close()
    this.ring.close()
  }
}
