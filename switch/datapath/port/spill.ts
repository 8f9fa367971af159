// Frames too long for a ring slot, read with recvmmsg into memory beside the ring. Their order and their VLAN tags are
// those of the ring slots that stand for them. A batch may be 4 MiB, so a port has such memory only while it has frames
// in it.

import { MAX_FRAME_LENGTH, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { type Arena, mapArena, releaseArena } from '../../../src/linux/arena.js'
import { libc } from '../../../src/linux/libc.js'
import { MessageLayout, MSG_DONTWAIT } from '../../../src/linux/packet-socket.js'

export const SPILL_BATCH = 64
/** Staggered by three cache lines: at a power-of-two stride all headers would share a few cache sets. */
const STRIDE = Math.ceil((VNET_HEADER_LENGTH + MAX_FRAME_LENGTH) / 4096) * 4096 + 192

/** Errors come one at a time, each in place of a frame; more than a few in a row do not. */
const READ_TRIES = 4

const IOVECS_AT = SPILL_BATCH * MessageLayout.STRIDE
const CONTROL_SIZE = IOVECS_AT + SPILL_BATCH * MessageLayout.IOVEC

export class Spill {
  readonly arena: Arena = mapArena(SPILL_BATCH * STRIDE)
  readonly #control: Arena = mapArena(CONTROL_SIZE)

  constructor() {
    const { words, addressLow, addressHigh } = this.#control
    for (let i = 0; i < SPILL_BATCH; i++) {
      const message = (i * MessageLayout.STRIDE) / 4
      const iovec = (IOVECS_AT + i * MessageLayout.IOVEC) / 4
      words[message + MessageLayout.IOV / 4] = addressLow + iovec * 4
      words[message + MessageLayout.IOV / 4 + 1] = addressHigh
      words[message + MessageLayout.IOV_COUNT / 4] = 1
      words[iovec] = this.arena.addressLow + i * STRIDE
      words[iovec + 1] = this.arena.addressHigh
      words[iovec + 2] = STRIDE
    }
  }

  /**
   * Reads `count` frames (at most SPILL_BATCH) of a socket; they stay valid until the next call. Returns how many came.
   * A socket that has an error to tell (its device went down) tells it once, instead of a frame; the frames are there
   * all the same, and one left behind would be taken for the next slot's.
   */
  read(fd: number, count: number): number {
    let came = 0
    for (let tries = 0; came < count && tries < READ_TRIES; tries++) {
      const at = this.#control.address + came * MessageLayout.STRIDE
      came += Math.max(0, libc().recvmmsg(fd, at, count - came, MSG_DONTWAIT, 0))
    }
    return came
  }

  /** Offset of the i-th frame's virtio-net header in `arena`. */
  offset(i: number): number {
    return i * STRIDE
  }

  /** Length of the i-th frame without its virtio-net header. */
  length(i: number): number {
    return this.#control.words[(i * MessageLayout.STRIDE + MessageLayout.LENGTH) / 4] - VNET_HEADER_LENGTH
  }

  close(): void {
    releaseArena(this.arena)
    releaseArena(this.#control)
  }
}

/** So many stay when nobody has frames in them: the last one used comes first, and is in the processor's cache. */
const MOST_FREE = 4
const free: Spill[] = []
let used = 0

/** How many ports of this thread have frames in one. */
export const spillsInUse = () => used

export function takeSpill(): Spill {
  used++
  return free.pop() ?? new Spill()
}

export function giveSpill(spill: Spill): void {
  used--
  if (free.length < MOST_FREE) free.push(spill)
  else spill.close()
}

/** When the thread ends, and no port has one. */
export function closeSpills(): void {
  for (const spill of free.splice(0)) spill.close()
}
