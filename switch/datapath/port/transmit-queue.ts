// The sending half of a packet port. Short frames wait in a ring (transmit-ring.ts), the others as iovecs that point to
// where they lie and leave with one sendmmsg; never both at once, so that frames leave in the order they came. A tag is
// pushed by scatter-gather (the addresses and the tag from a small scratch area, the rest from its place), so the
// payload is never copied in user space. Only frames without a fixed address (held copies, control frames) are staged.
// Frames that a bridge would forward and sendmmsg would refuse for their length go by oversize-sender.ts, at once. GSO
// frames in tunnels leave whole where the device's egress hook can tell the kernel what they are; else they are cut
// here.

import { EtherType } from '../../../src/frame/ethernet.js'
import { Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { isPlainGso } from '../../../src/frame/plain-gso.js'
import { Vnet } from '../../../src/frame/vnet-header.js'
import { type Arena, mapArena, releaseArena } from '../../../src/linux/arena.js'
import { kernelCanBeToldOfTunnels } from '../../../src/linux/egress-program.js'
import { Errno, errno, libc } from '../../../src/linux/libc.js'
import { MessageLayout, MSG_DONTWAIT, readMtu } from '../../../src/linux/packet-socket.js'
import type { PortDevice, PortSockets } from '../../../src/linux/port-sockets.js'
import { Counter, type CounterTable, Drop, type DropReason } from '../../forwarding/counters.js'
import { roomForAny, Way, wayOut } from './frame-room.js'
import type { OversizeSender } from './oversize-sender.js'
import { CONTROL_LENGTH, Segments } from './segments.js'
import { TransmitRing } from './transmit-ring.js'

const BATCH = 128
const MAC_PAIR = 12
/** virtio-net header, addresses, two tags. */
const SCRATCH = 32
const STAGED = 16
const STAGE_STRIDE = Math.ceil((VNET_HEADER_LENGTH + MAX_FRAME_LENGTH) / 4096) * 4096
const { NEEDS_CSUM } = Vnet

const IOVECS_AT = BATCH * MessageLayout.STRIDE
const SCRATCH_AT = IOVECS_AT + BATCH * 2 * MessageLayout.IOVEC
const CONTROL_SIZE = SCRATCH_AT + BATCH * SCRATCH

/** Devices that leave an outer checksum as it is when they cut a tunnel’s frame, or have the kernel cut it. */
const TUNNEL_KINDS: readonly string[] = ['veth', 'tun']

export class TransmitQueue {
  readonly #fd: number
  readonly #counters: CounterTable
  readonly #row: number
  readonly #control: Arena
  #stage: Arena | null = null
  #staged = 0
  #count = 0
  /** Frame length and GSO flag per queued message, for the counters. */
  readonly #lengths = new Int32Array(BATCH)
  readonly #gso = new Uint8Array(BATCH)
  readonly #ring: TransmitRing
  readonly #ifindex: number
  readonly #oversize: Pick<OversizeSender, 'send'>
  /** Of GSO frames in tunnels: what they are cut into, or heads of those that leave whole. */
  readonly #segments = new Segments()
  readonly #piece = new Frame()
  readonly #copy = new Frame()
  readonly #takesTunnels: boolean
  /** Queued messages with a mark. */
  #marked = 0
  /** Frames up to this length fit the device. 0: look at its MTU first. */
  #room = 0
  #mtu = 0

  /** Throws SYSCALL. */
  constructor(
    sockets: PortSockets,
    { ifindex, kind, hooked = false }: Pick<PortDevice, 'ifindex' | 'kind' | 'hooked'>,
    oversize: Pick<OversizeSender, 'send'>,
    counters: CounterTable,
    row: number,
  ) {
    this.#fd = sockets.receive
    this.#ifindex = ifindex
    this.#oversize = oversize
    this.#counters = counters
    this.#row = row
    this.#takesTunnels = hooked && kernelCanBeToldOfTunnels() && TUNNEL_KINDS.includes(kind ?? '')
    this.#ring = new TransmitRing(sockets.transmit, sockets.transmitSlots)
    this.#control = mapArena(CONTROL_SIZE)
    const { words, addressLow, addressHigh } = this.#control
    for (let i = 0; i < BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      words[message + MessageLayout.IOV / 4] = addressLow + IOVECS_AT + i * 2 * MessageLayout.IOVEC
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      const second = (IOVECS_AT + (i * 2 + 1) * MessageLayout.IOVEC) / 4
      words[second] = 0
    }
  }

  /** Why `send` was false last. */
  refusal: DropReason = 'tx-error'

  send(frame: Frame, serviceTci: number): boolean {
    const gso = frame.bytes[frame.vnet + Vnet.GSO_TYPE]
    if (gso !== 0) {
      const begun = isPlainGso(frame) ? null : this.#begin(frame)
      if (begun !== null) return this.#sendTunnel(begun, serviceTci)
    } else if (frame.length > this.#room) {
      const way = this.#wayOf(frame, serviceTci)
      if (way === Way.OVERSIZE) return this.#sendOversize(frame, serviceTci)
      if (way === Way.NONE) {
        return this.#refuse('too-long')
      }
    }
    if (this.#count === 0) {
      if (this.#ring.pending < BATCH && this.#ring.add(frame, serviceTci)) return true
      this.#flushRing()
    } else if (this.#count === BATCH) this.#flushMessages()
    let base = frame.address
    let shift = 0
    if (base === 0) {
      base = this.#stageCopy(frame)
      shift = frame.vnet
    }
    const i = this.#count++
    this.#lengths[i] = frame.length
    this.#gso[i] = gso === 0 ? 0 : 1
    const { words } = this.#control
    const iovec = (IOVECS_AT + i * 2 * MessageLayout.IOVEC) / 4
    const iovecCount = (i * MessageLayout.STRIDE + MessageLayout.IOV_COUNT) / 4
    if (frame.tagTpid === 0 && serviceTci < 0) {
      this.#point(iovec, base + frame.vnet - shift, VNET_HEADER_LENGTH + frame.length)
      words[iovecCount] = 1
      return true
    }
    const head = this.#writeHead(i, frame, serviceTci)
    this.#point(iovec, this.#control.address + SCRATCH_AT + i * SCRATCH, head)
    this.#point(iovec + MessageLayout.IOVEC / 4, base + frame.start - shift + MAC_PAIR, frame.length - MAC_PAIR)
    words[iovecCount] = 2
    return true
  }

  flush(): void {
    if (this.#ring.pending > 0) this.#flushRing()
    if (this.#count > 0) this.#flushMessages()
    this.#segments.release()
  }

  /** Once a second: a device's MTU may have changed. */
  housekeeping(): void {
    this.#room = 0
  }

  /** A frame is never given up by an MTU that was read a while ago. */
  #wayOf(frame: Frame, serviceTci: number): Way {
    if (this.#room > 0) {
      const way = wayOut(frame, serviceTci, this.#mtu)
      if (way !== Way.NONE) return way
    }
    // Without an MTU, its device is going: the kernel will say so.
    this.#mtu = readMtu(this.#fd, this.#ifindex) ?? Number.MAX_SAFE_INTEGER
    this.#room = roomForAny(this.#mtu)
    return wayOut(frame, serviceTci, this.#mtu)
  }

  #refuse(reason: DropReason): false {
    this.#counters[this.#row + Drop[reason]]++
    this.refusal = reason
    return false
  }

  #sendOversize(frame: Frame, serviceTci: number): boolean {
    this.flush()
    const error = this.#oversize.send(frame, serviceTci, this.#ifindex)
    if (error !== 0) {
      return this.#refuse(dropFor(error))
    }
    this.#counters[this.#row + Counter.txFrames]++
    this.#counters[this.#row + Counter.txBytes] += frame.length
    return true
  }

  /**
   * A GSO frame that its virtio-net header does not describe, and which therefore is taken apart: itself, or its copy
   * where it can be read. Null: it is none.
   */
  #begin(frame: Frame): Frame | null {
    const segments = this.#segments
    // Nothing may be flushed between a copy, or a head, and its message: they would be taken for free.
    if (this.#count === BATCH || !segments.hasRoomForHead) this.flush()
    else this.#flushRing()
    if (frame.address !== 0) return segments.begin(frame) ? frame : null
    const copy = this.#copy
    const address = this.#stageCopy(frame)
    const stage = this.#stage!
    copy.bytes = stage.bytes
    copy.view = stage.view
    copy.address = stage.address
    copy.vnet = address - stage.address
    copy.start = copy.vnet + VNET_HEADER_LENGTH
    copy.length = frame.length
    copy.tagTpid = frame.tagTpid
    copy.tagTci = frame.tagTci
    return segments.begin(copy) ? copy : null
  }

  #sendTunnel(frame: Frame, serviceTci: number): boolean {
    const segments = this.#segments
    const piece = this.#piece
    let sent = false
    if (serviceTci < 0 && this.#takesTunnels && segments.canStayWhole) {
      this.#queueWhole(frame)
      sent = true
    }
    while (segments.more) {
      if (!segments.next(piece)) this.flush()
      else if (this.send(piece, serviceTci)) sent = true
    }
    return sent
  }

  /** The frame that was begun: its head, and its payload from where it lies. */
  #queueWhole(frame: Frame): void {
    const segments = this.#segments
    const { words } = this.#control
    const i = this.#count++
    segments.head(frame)
    this.#lengths[i] = segments.payloadAt + segments.headPayload
    this.#gso[i] = 1
    const iovec = (IOVECS_AT + i * 2 * MessageLayout.IOVEC) / 4
    this.#point(iovec, segments.headAddress, segments.headLength)
    const payload = frame.address + frame.start + segments.payloadAt
    this.#point(iovec + MessageLayout.IOVEC / 4, payload, segments.headPayload)
    const message = (i * MessageLayout.STRIDE) / 4
    words[message + MessageLayout.IOV_COUNT / 4] = 2
    this.#pointAt(message + MessageLayout.CONTROL / 4, segments.controlAddress)
    words[message + MessageLayout.CONTROL_LENGTH / 4] = CONTROL_LENGTH
    this.#marked++
  }

  #flushRing(): void {
    const counters = this.#counters
    const row = this.#row
    const ring = this.#ring
    if (ring.pending === 0) return
    counters[row + Counter.txFrames] += ring.flush()
    counters[row + Counter.txBytes] += ring.takenBytes
    if (ring.pending === 0) return
    this.#count = ring.pending
    for (let i = 0; i < this.#count; i++) {
      this.#lengths[i] = ring.frameLength(i)
      this.#gso[i] = 0
      this.#point((IOVECS_AT + i * 2 * MessageLayout.IOVEC) / 4, ring.addressOf(i), ring.lengthOf(i))
      this.#control.words[(i * MessageLayout.STRIDE + MessageLayout.IOV_COUNT) / 4] = 1
    }
    this.#flushMessages()
    ring.clear()
  }

  #flushMessages(): void {
    const c = libc()
    const counters = this.#counters
    const row = this.#row
    let done = 0
    while (done < this.#count) {
      const sent = c.sendmmsg(
        this.#fd,
        this.#control.address + done * MessageLayout.STRIDE,
        this.#count - done,
        MSG_DONTWAIT,
      )
      if (sent > 0) {
        for (let i = done; i < done + sent; i++) {
          counters[row + Counter.txBytes] += this.#lengths[i]
          counters[row + Counter.txGso] += this.#gso[i]
        }
        counters[row + Counter.txFrames] += sent
        done += sent
        continue
      }
      // The first message of the rest could not be sent: it is dropped, the ones behind it get their try.
      const error = errno()
      if (error === Errno.EMSGSIZE) this.#room = 0
      counters[row + Drop[dropFor(error)]]++
      done++
    }
    if (this.#marked > 0) this.#forgetMarks()
    this.#count = 0
    this.#staged = 0
  }

  #forgetMarks(): void {
    for (let i = 0; i < this.#count; i++) {
      this.#control.words[(i * MessageLayout.STRIDE + MessageLayout.CONTROL_LENGTH) / 4] = 0
    }
    this.#marked = 0
  }

  close(): void {
    this.#ring.close()
    this.#segments.close()
    releaseArena(this.#control)
    if (this.#stage !== null) releaseArena(this.#stage)
  }

  #point(iovec: number, address: number, length: number): void {
    this.#pointAt(iovec, address)
    this.#control.words[iovec + 2] = length
  }

  #pointAt(word: number, address: number): void {
    const { words } = this.#control
    words[word] = address >>> 0
    words[word + 1] = Math.floor(address / 4294967296)
  }

  /**
   * Header, addresses and tags of message `i`; returns their length. Offsets that count from the frame's start move by
   * 4 per tag.
   */
  #writeHead(i: number, frame: Frame, serviceTci: number): number {
    const { bytes, view } = this.#control
    const at = SCRATCH_AT + i * SCRATCH
    const from = frame.bytes
    for (let k = 0; k < VNET_HEADER_LENGTH; k++) bytes[at + k] = from[frame.vnet + k]
    for (let k = 0; k < MAC_PAIR; k++) bytes[at + VNET_HEADER_LENGTH + k] = from[frame.start + k]
    let end = at + VNET_HEADER_LENGTH + MAC_PAIR
    if (serviceTci >= 0) {
      view.setUint16(end, EtherType.SERVICE_VLAN)
      view.setUint16(end + 2, serviceTci)
      end += 4
    }
    if (frame.tagTpid !== 0) {
      view.setUint16(end, frame.tagTpid)
      view.setUint16(end + 2, frame.tagTci)
      end += 4
    }
    const pushed = end - (at + VNET_HEADER_LENGTH + MAC_PAIR)
    // struct virtio_net_hdr: flags 0, gso_type 1, hdr_len 2, gso_size 4, csum_start 6, csum_offset 8
    if ((bytes[at] & NEEDS_CSUM) !== 0) view.setUint16(at + 6, view.getUint16(at + 6, true) + pushed, true)
    if (bytes[at + 1] !== 0) view.setUint16(at + 2, view.getUint16(at + 2, true) + pushed, true)
    return end - at
  }

  /** Copies header and frame, which lie together in a kept copy, to where the kernel can read them. */
  #stageCopy(frame: Frame): number {
    this.#stage ??= mapArena(STAGED * STAGE_STRIDE)
    if (this.#staged === STAGED) this.#flushMessages()
    const at = this.#staged++ * STAGE_STRIDE
    this.#stage.bytes.set(frame.bytes.subarray(frame.vnet, frame.start + frame.length), at)
    return this.#stage.address + at
  }
}

function dropFor(error: number): DropReason {
  switch (error) {
    case Errno.EAGAIN:
    case Errno.ENOBUFS:
      return 'tx-full'
    case Errno.EMSGSIZE:
      return 'too-long'
    case Errno.ENETDOWN:
    case Errno.ENXIO:
      return 'device-down'
    default:
      return 'tx-error'
  }
}
