// The sending thread of a play: takes frames out of the ring when they are due and hands them to the kernel, as many at
// a time as are due. Nothing is allocated per frame, and nothing else runs in the thread.

import { VNET_HEADER_LENGTH } from '../frame/frame.js'
import { type Arena, mapArena } from '../linux/arena.js'
import { Errno, errno, libc } from '../linux/libc.js'
import { MessageLayout, MSG_DONTWAIT } from '../linux/packet-socket.js'
import { nowMs } from '../runtime/clock.js'
import { Count, Figures, type FiguresHandle } from './figures.js'
import { MESSAGE_PREFIX, type RingHandle, RingReader, Word } from './frame-ring.js'
import { FEWEST_IN_RING, LONGEST_IN_RING, SendRing } from './send-ring.js'
import { Waiting } from './waiting.js'

const BATCH = 64
const IOVECS_AT = BATCH * MessageLayout.STRIDE
const POLL_AT = IOVECS_AT + BATCH * MessageLayout.IOVEC
const CONTROL_SIZE = POLL_AT + 8
const POLLOUT = 4
/** Between two looks at a ring that has run dry: shortly at first. */
const DRY_LEAST_MS = 0.1
const DRY_MOST_MS = 5
/** A device that takes nothing for so long has lost the frame. */
const FULL_MS = 1000
const STUCK_MS = 1
/** From the word to begin until the first frame. */
const LEAD_MS = 1
/** Enough for the compiler to notice what is called often. */
const WARM_UPS = 200

export interface SenderInput {
  readonly ring: RingHandle
  readonly figures: FiguresHandle
  /** Of each target. Devices are sent frames with a virtio-net header, switches a message with a prefix as well. */
  readonly sockets: readonly { readonly fd: number; readonly ring: number | null; readonly kind: 'device' | 'switch' }[]
  /** Frames are not waited for. */
  readonly top: boolean
}

export class Sender {
  readonly #ring: RingReader
  readonly #figures: Figures
  readonly #sockets: SenderInput['sockets']
  /** By target; null: it has none. */
  readonly #rings: readonly (SendRing | null)[]
  readonly #top: boolean
  readonly #waiting: Waiting
  readonly #control: Arena = mapArena(CONTROL_SIZE)
  readonly #targets = new Int32Array(BATCH)
  readonly #lengths = new Int32Array(BATCH)
  readonly #starts = new Float64Array(BATCH)
  #count = 0
  #beganAt = 0
  #isFirst = true
  /** The last frame was lost at a device that took nothing: the others do not wait as long. */
  #isStuck = false
  #handedAt = 0

  constructor({ ring, figures, sockets, top }: SenderInput) {
    this.#ring = new RingReader(ring)
    this.#figures = new Figures(figures)
    this.#sockets = sockets
    this.#rings = sockets.map(({ ring: fd }) => (fd === null ? null : new SendRing(fd)))
    this.#top = top
    this.#waiting = new Waiting(this.#ring.control)
    const { words, addressLow, addressHigh } = this.#control
    for (let i = 0; i < BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      words[message + MessageLayout.IOV / 4] = addressLow + IOVECS_AT + i * MessageLayout.IOVEC
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      words[message + MessageLayout.IOV_COUNT / 4] = 1
    }
  }

  /** Until all is sent, or the play is stopped, or a device has gone. */
  run(): void {
    const ring = this.#ring
    const { counts } = this.#figures
    this.#warmUp()
    Atomics.wait(ring.control, Word.GO, 0)
    this.#beganAt = performance.now() + LEAD_MS
    counts[Count.BEGAN_MS] = nowMs() + LEAD_MS
    let dryMs = 0
    while (!ring.stopped) {
      if (!ring.look()) {
        // Ended first, or what came in between would be left.
        const { ended } = ring
        if (!ring.look()) {
          if (ended) return
          if (dryMs === 0 && !this.#top) counts[Count.STARVED]++
          dryMs = Math.min(DRY_MOST_MS, Math.max(DRY_LEAST_MS, dryMs * 2))
          Atomics.wait(ring.control, Word.STOP, 0, dryMs)
          continue
        }
      }
      dryMs = 0
      const due = this.#beganAt + ring.dueNs / 1e6
      if (!this.#waiting.until(due)) return
      this.#gather(this.#isFirst ? 1 : BATCH)
      if (!this.#send()) return
      ring.release()
      if (this.#isFirst) this.#anchor()
    }
  }

  /**
   * Times count from when the first frame was handed to the kernel, as it is with every other: what it was late by, the
   * others are not to wait less.
   */
  #anchor(): void {
    this.#isFirst = false
    this.#beganAt = this.#handedAt
    this.#figures.counts[Count.BEGAN_MS] = nowMs() - (performance.now() - this.#handedAt)
  }

  /** The first call of a function takes a hundred times as long as the others. */
  #warmUp(): void {
    for (let i = 0; i < WARM_UPS; i++) {
      for (const { fd } of this.#sockets.slice(0, 1)) libc().sendmmsg(fd, this.#control.address, 0, MSG_DONTWAIT)
      this.#waiting.until(performance.now() + 0.03)
    }
  }

  /** Frames that are due, for one socket. */
  #gather(most: number): void {
    const ring = this.#ring
    const first = this.#sockets[ring.target]
    const isSwitch = first.kind === 'switch'
    const before = VNET_HEADER_LENGTH + (isSwitch ? MESSAGE_PREFIX : 0)
    const { words } = this.#control
    const { address } = ring.arena
    const now = performance.now()
    const due = (now - this.#beganAt) * 1e6
    this.#count = 0
    do {
      if (this.#sockets[ring.target].fd !== first.fd) break
      const i = this.#count++
      this.#targets[i] = ring.target
      this.#lengths[i] = ring.length
      this.#starts[i] = ring.start
      const iovec = (IOVECS_AT + i * MessageLayout.IOVEC) / 4
      const at = address + ring.start - before
      words[iovec] = at >>> 0
      words[iovec + 1] = Math.floor(at / 4294967296)
      words[iovec + 2] = before + ring.length
      if (!this.#top && !this.#isFirst) this.#figures.late(due - ring.dueNs)
      ring.take()
    } while (this.#count < most && ring.look() && ring.dueNs <= due)
  }

  /** False: the play is over. */
  #send(): boolean {
    const { fd } = this.#sockets[this.#targets[0]]
    const c = libc()
    let done = 0
    let fullSince = 0
    if (this.#isFirst) this.#handedAt = performance.now()
    const ring = this.#rings[this.#targets[0]]
    if (ring !== null && this.#count >= FEWEST_IN_RING) {
      done = this.#sendByRing(ring)
      if (done > 0) this.#counted(0, done)
    }
    while (done < this.#count) {
      const sent = c.sendmmsg(fd, this.#control.address + done * MessageLayout.STRIDE, this.#count - done, MSG_DONTWAIT)
      if (sent > 0) {
        this.#counted(done, sent)
        this.#isStuck = false
        done += sent
        fullSince = 0
        continue
      }
      const error = errno()
      if (this.#ring.stopped) return false
      if (error === Errno.EAGAIN || error === Errno.ENOBUFS) {
        const now = performance.now()
        if (fullSince === 0) fullSince = now
        if (now - fullSince < (this.#isStuck ? STUCK_MS : FULL_MS)) {
          this.#wait(fd, error)
          continue
        }
      }
      if (endsPlay(error)) {
        this.#figures.counts[Count.ERRNO] = error
        return false
      }
      this.#figures.refuse(error)
      this.#isStuck ||= fullSince !== 0
      done++
      fullSince = 0
    }
    return true
  }

  /** Returns how many frames have gone: the first ones. */
  #sendByRing(ring: SendRing): number {
    const { view } = this.#ring.arena
    let added = 0
    while (added < this.#count && this.#lengths[added] <= LONGEST_IN_RING) {
      if (!ring.add(view, this.#starts[added], this.#lengths[added])) break
      added++
    }
    return added === 0 ? 0 : ring.flush()
  }

  #counted(from: number, count: number): void {
    const { counts } = this.#figures
    counts[Count.FRAMES] += count
    for (let i = from; i < from + count; i++) {
      counts[Count.BYTES] += this.#lengths[i]
      counts[Count.TARGETS + this.#targets[i]]++
    }
    counts[Count.LAST_MS] = nowMs()
  }

  /** For room: in the socket's buffer, which poll tells of, or in the device's queue, which nobody does. */
  #wait(fd: number, error: number): void {
    this.#figures.counts[Count.WAITS]++
    if (error === Errno.ENOBUFS) {
      Atomics.wait(this.#ring.control, Word.STOP, 0, 0.05)
      return
    }
    const { words, address } = this.#control
    words[POLL_AT / 4] = fd
    words[POLL_AT / 4 + 1] = POLLOUT
    libc().poll(address + POLL_AT, 1, 10)
  }
}

/** A device that is down or gone; a switch that is. */
const ENDING: readonly number[] = [Errno.ENETDOWN, Errno.ENXIO, Errno.ENODEV, Errno.EPIPE, Errno.ECONNRESET]

/** Frames that come after it would fare no better. */
function endsPlay(error: number): boolean {
  return ENDING.includes(error)
}
