// A port on a TAP, veth or any other Ethernet device: a packet socket on the device, frames received in batches with
// recvmmsg into an arena, where they stay until every port has sent its share.

import { Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { type Arena, mapArena, releaseArena } from '../../src/linux/arena.js'
import { libc } from '../../src/linux/libc.js'
import {
  AuxdataLayout,
  MessageLayout,
  MSG_DONTWAIT,
  MSG_TRUNC,
  openPacketSocket,
  readKernelDrops,
  TP_STATUS_VLAN_VALID,
  takeSocketError,
} from '../../src/linux/packet-socket.js'
import { Counter, type CounterTable, Drop, ROW } from '../forwarding/counters.js'
import type { FrameSink, Port } from './port.js'
import { TransmitQueue } from './transmit-queue.js'

const BATCH = 64
/** Slots are staggered by three cache lines: at a power-of-two stride all headers would share a few cache sets. */
const SLOT_STRIDE = Math.ceil((VNET_HEADER_LENGTH + MAX_FRAME_LENGTH) / 4096) * 4096 + 192

const IOVECS_AT = BATCH * MessageLayout.STRIDE
const AUXDATA_AT = IOVECS_AT + BATCH * MessageLayout.IOVEC
const CONTROL_SIZE = AUXDATA_AT + BATCH * AuxdataLayout.SPACE

export class PacketPort implements Port {
  readonly index: number
  readonly name: string
  readonly fd: number
  private readonly counters: CounterTable
  private readonly row: number
  private readonly slots: Arena
  private readonly control: Arena
  private readonly frame: Frame
  private readonly transmit: TransmitQueue

  /** Throws SYSCALL, PERMISSION or DEVICE_MISSING. */
  constructor(index: number, name: string, device: string, ifindex: number, counters: CounterTable) {
    this.index = index
    this.name = name
    this.counters = counters
    this.row = index * ROW
    this.fd = openPacketSocket(ifindex, device)
    this.slots = mapArena(BATCH * SLOT_STRIDE)
    this.control = mapArena(CONTROL_SIZE)
    this.frame = new Frame(this.slots.bytes)
    this.frame.address = this.slots.address
    this.transmit = new TransmitQueue(this.fd, counters, this.row)
    this.layOut()
  }

  receive(sink: FrameSink, now: number): number {
    const count = libc().recvmmsg(this.fd, this.control.address, BATCH, MSG_DONTWAIT, 0)
    if (count <= 0) return 0
    const { words, view } = this.control
    const frame = this.frame
    for (let i = 0; i < count; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      const length = words[message + MessageLayout.LENGTH / 4] - VNET_HEADER_LENGTH
      const auxdata = AUXDATA_AT + i * AuxdataLayout.SPACE
      if ((words[(auxdata + AuxdataLayout.STATUS) / 4] & TP_STATUS_VLAN_VALID) === 0) frame.tagTpid = 0
      else {
        frame.tagTci = view.getUint16(auxdata + AuxdataLayout.VLAN_TCI, true)
        frame.tagTpid = view.getUint16(auxdata + AuxdataLayout.VLAN_TPID, true)
      }
      const truncated = (words[message + MessageLayout.FLAGS / 4] & MSG_TRUNC) !== 0
      // The kernel has overwritten these with what it used.
      words[message + MessageLayout.CONTROL_LENGTH / 4] = AuxdataLayout.SPACE
      words[message + MessageLayout.FLAGS / 4] = 0
      if (truncated) {
        this.counters[this.row + Drop.truncated]++
        continue
      }
      frame.vnet = i * SLOT_STRIDE
      frame.start = frame.vnet + VNET_HEADER_LENGTH
      frame.length = length
      sink.receive(this.index, frame, now)
    }
    return count
  }

  send(frame: Frame, serviceTci: number): boolean {
    return this.transmit.send(frame, serviceTci)
  }

  flush(): void {
    if (this.transmit.pending > 0) this.transmit.flush()
  }

  housekeeping(): void {
    this.counters[this.row + Counter.kernelDrops] += readKernelDrops(this.fd)
  }

  failed(): void {
    takeSocketError(this.fd)
  }

  close(): void {
    libc().close(this.fd)
    this.transmit.close()
    releaseArena(this.slots)
    releaseArena(this.control)
  }

  private layOut(): void {
    const { words, addressLow, addressHigh } = this.control
    for (let i = 0; i < BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      const iovec = (IOVECS_AT + i * MessageLayout.IOVEC) / 4
      words[message + MessageLayout.IOV / 4] = addressLow + iovec * 4
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      words[message + MessageLayout.IOV_COUNT / 4] = 1
      words[message + MessageLayout.CONTROL / 4] = addressLow + AUXDATA_AT + i * AuxdataLayout.SPACE
      words[message + MessageLayout.CONTROL / 4 + 1] = addressHigh
      words[message + MessageLayout.CONTROL_LENGTH / 4] = AuxdataLayout.SPACE
      words[iovec] = this.slots.addressLow + i * SLOT_STRIDE
      words[iovec + 1] = this.slots.addressHigh
      words[iovec + 2] = SLOT_STRIDE
    }
  }
}
