// Frames that are played into ports: they come over a socket and enter the forwarder at their port, as what its device
// brings does, between two batches. A member's therefore gets the color that the port has at that moment: before or
// after its cut, never in between. At most a batch at a time; what the switch does not get to waits in the socket,
// whose bound is the other end's.

import { Frame, MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { type Arena, mapArena, releaseArena } from '../../src/linux/arena.js'
import { Errno, errno, libc } from '../../src/linux/libc.js'
import { MessageLayout, MSG_DONTWAIT } from '../../src/linux/packet-socket.js'
import { bringTagBeside } from '../forwarding/port-rules.js'
import type { FrameSink, Port } from './port/port.js'

const BATCH = 64
/** Before the virtio-net header: the port's place (u16), zeros. */
const PREFIX = 8
const HEAD = PREFIX + VNET_HEADER_LENGTH
const ROOM = HEAD + MAX_FRAME_LENGTH
/** Staggered, as in port/spill.ts. */
const STRIDE = Math.ceil(ROOM / 4096) * 4096 + 192
const IOVECS_AT = BATCH * MessageLayout.STRIDE
const CONTROL_SIZE = IOVECS_AT + BATCH * MessageLayout.IOVEC
const ETHERNET_HEADER = 14

export class PlayInput {
  readonly fd: number
  frames = 0
  refused = 0
  isOver = false
  readonly #ports: (Port | null)[]
  readonly #over: () => void
  readonly #frame = new Frame()
  readonly #arena: Arena = mapArena(BATCH * STRIDE)
  readonly #control: Arena = mapArena(CONTROL_SIZE)

  /** `over` is called when the other end has closed the connection; whoever opened `fd` closes it. */
  constructor(fd: number, ports: readonly (Port | null)[], over: () => void) {
    this.fd = fd
    this.#ports = [...ports]
    this.#over = over
    const { words, addressLow, addressHigh } = this.#control
    for (let i = 0; i < BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      const iovec = (IOVECS_AT + i * MessageLayout.IOVEC) / 4
      words[message + MessageLayout.IOV / 4] = addressLow + iovec * 4
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      words[message + MessageLayout.IOV_COUNT / 4] = 1
      words[iovec] = this.#arena.addressLow + i * STRIDE
      words[iovec + 1] = this.#arena.addressHigh
      words[iovec + 2] = ROOM
    }
  }

  /** Hands at most a batch to the sink; returns how many frames that were. Then the ports are flushed. */
  receive(sink: FrameSink, now: number): number {
    if (this.isOver) return 0
    const came = libc().recvmmsg(this.fd, this.#control.address, BATCH, MSG_DONTWAIT, 0)
    if (came < 0) {
      const error = errno()
      if (error !== Errno.EAGAIN && error !== Errno.EINTR) this.#end()
      return 0
    }
    let frames = 0
    for (let i = 0; i < came; i++) {
      const length = this.#control.words[(i * MessageLayout.STRIDE + MessageLayout.LENGTH) / 4]
      // What a closed connection gives, as often as it is asked.
      if (length === 0) {
        this.#end()
        break
      }
      if (this.#enter(i * STRIDE, length, sink, now)) frames++
      else this.refused++
    }
    this.frames += frames
    return frames
  }

  #enter(at: number, length: number, sink: FrameSink, now: number): boolean {
    const { bytes, view, address } = this.#arena
    const port = length < HEAD + ETHERNET_HEADER ? null : this.#ports[view.getUint16(at, true)]
    if (port === null || port === undefined) return false
    const frame = this.#frame
    frame.bytes = bytes
    frame.view = view
    frame.address = address
    frame.vnet = at + PREFIX
    frame.start = at + HEAD
    frame.length = length - HEAD
    frame.tagTpid = 0
    frame.tagTci = 0
    // Nothing is left to be done to a frame that is played, whatever its header says.
    bytes.fill(0, frame.vnet, frame.start)
    // A device's frame has its tag there.
    bringTagBeside(frame)
    sink.receive(port.index, frame, now)
    return true
  }

  #end(): void {
    if (this.isOver) return
    this.isOver = true
    this.#over()
  }

  /** Frames for this port are refused from now on, also when another one gets its number. */
  forget(port: Port): void {
    const at = this.#ports.indexOf(port)
    if (at >= 0) this.#ports[at] = null
  }

  close(): void {
    releaseArena(this.#arena)
    releaseArena(this.#control)
  }
}
