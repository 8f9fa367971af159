// Where a port keeps the frames that it has cut a GSO frame into (segmenter.ts, fragmenter.ts, sctp.ts in src/frame/),
// until they have been sent: the port that it comes in by, or a port that it leaves by.

import { VLAN_TAG_LENGTH } from '../../../src/frame/ethernet.js'
import { Fragmenter } from '../../../src/frame/fragmenter.js'
import { type Frame, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { SctpSegmenter } from '../../../src/frame/sctp.js'
import { Segmenter } from '../../../src/frame/segmenter.js'
import { NO_MARK } from '../../../src/frame/tunnel-mark.js'
import { Vnet } from '../../../src/frame/vnet-header.js'
import { type Arena, mapArena, releaseArena } from '../../../src/linux/arena.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { BY_FRAGS } from '../../../src/linux/ring-filters.js'

/** Room for some 300 segments: what other ports wait at most while this one's are sent. One frame always fits. */
const MEMORY = 512 * 1024
/**
 * Frames with smaller segments are cut where they come in, a few at a time: a port that they leave by cuts at once, and
 * others wait.
 */
const SMALLEST_LEFT = 256
/** A control message with four bytes. */
export const CONTROL_LENGTH = 24
/** What a head takes, longer than which none is (gso-headers.ts), and its control message. */
const HEAD_ROOM = 2048
/** virtio-net header and addresses. */
const BEFORE_TAG = VNET_HEADER_LENGTH + 12
const SOL_SOCKET = 1
const SO_MARK = 36

/** What is known of a frame besides its bytes. */
export interface Undescribed {
  /** How long its sender wants the pieces to be, 0: not known. */
  readonly size: number
  /** How many they are, 0: not known. */
  readonly packets: number
  /** The device's. */
  readonly mtu: number
  /** Its checksum is of the pseudo-header only. */
  readonly unfinished: boolean
}

export class Segments {
  /** Of the last `head`: where it lies, and the control message that says its mark. */
  headAddress = 0
  headLength = 0
  controlAddress = 0
  /** Where the payload begins, from the frame’s start. */
  payloadAt = 0
  readonly #segmenter = new Segmenter(kernelIsAtLeast(6, 2))
  readonly #fragmenter = new Fragmenter()
  readonly #sctp = new SctpSegmenter()
  /** Mapped when the first frame is cut: most ports never see one. */
  #arena: Arena | null = null
  #free = 0
  /** Bytes of frames that were not cut where they came in. */
  #left = 0

  /** The frame that was begun has segments left. */
  get more(): boolean {
    return this.#segmenter.more || this.#fragmenter.more || this.#sctp.more
  }

  /** True when `frame` is cut: its segments follow, and its own memory must stay as it is until there are no more. */
  begin(frame: Frame): boolean {
    return this.#segmenter.begin(frame)
  }

  /** The same where it comes in: what leaves ports whole if it can, or else is cut there, stays as it is. */
  beginIfMust(frame: Frame): boolean {
    const segmenter = this.#segmenter
    if (!segmenter.begin(frame)) return false
    if (segmenter.mark === NO_MARK || segmenter.size < SMALLEST_LEFT) return true
    segmenter.cancel()
    this.#left += frame.length
    return false
  }

  /** So much was left whole since `release`, and may have to be cut where it leaves, that the rest is for later. */
  get hasLeftMuch(): boolean {
    return this.#left >= MEMORY
  }

  /** The frame that was begun can leave whole, or at least more than one segment of it. */
  get canStayWhole(): boolean {
    const { mark, payloadLength, size } = this.#segmenter
    return mark !== NO_MARK && payloadLength >= 2 * size
  }

  /** `head` can be called. */
  get hasRoomForHead(): boolean {
    return this.#free + HEAD_ROOM <= MEMORY
  }

  /** Instead of `next`: makes the head of the frame that was begun, which leaves whole, with the tag beside it. */
  head({ tagTpid, tagTci }: Frame): void {
    this.#arena ??= mapArena(MEMORY)
    const arena = this.#arena
    const { address, bytes, view, words } = arena
    const control = this.#free
    let at = control + CONTROL_LENGTH + VLAN_TAG_LENGTH
    this.#free = this.#segmenter.head(arena, at)
    this.headLength = this.#segmenter.headLength
    this.payloadAt = this.headLength - VNET_HEADER_LENGTH
    if (tagTpid !== 0) {
      bytes.copyWithin(at - VLAN_TAG_LENGTH, at, at + BEFORE_TAG)
      view.setUint16(at - VLAN_TAG_LENGTH + BEFORE_TAG, tagTpid)
      view.setUint16(at - VLAN_TAG_LENGTH + BEFORE_TAG + 2, tagTci)
      at -= VLAN_TAG_LENGTH
      for (const field of [Vnet.HEADER_LENGTH, Vnet.CSUM_START]) {
        view.setUint16(at + field, view.getUint16(at + field, true) + VLAN_TAG_LENGTH, true)
      }
      this.headLength += VLAN_TAG_LENGTH
    }
    writeMark(words, control / 4, this.#segmenter.mark)
    this.controlAddress = address + control
    this.headAddress = address + at
  }

  /** Bytes of payload that belong to the head. */
  get headPayload(): number {
    return this.#segmenter.headPayload
  }

  /** The same for one that has no virtio-net header, since the kernel can write none. */
  beginUndescribed(frame: Frame, { size, packets, mtu, unfinished }: Undescribed): boolean {
    if (this.#sctp.begin(frame, mtu, packets, size === BY_FRAGS)) return true
    // Nothing is known of it when too many came at once.
    if (size === BY_FRAGS || size === 0) return false
    // The kernel has counted what comes of its own datagrams, each a segment (USO); a guest's are to be fragmented.
    if (packets > 0) return this.#segmenter.beginDatagrams(frame, size, unfinished)
    return this.#fragmenter.begin(frame, size, mtu, unfinished)
  }

  /** Points `frame` at the next segment; false when there is no room before `release`. */
  next(frame: Frame): boolean {
    this.#arena ??= mapArena(MEMORY)
    const cutter = this.#segmenter.more ? this.#segmenter : this.#sctp.more ? this.#sctp : this.#fragmenter
    const free = cutter.next(frame, this.#arena, this.#free)
    if (free < 0) return false
    this.#free = free
    return true
  }

  /** What was cut has been sent or copied. */
  release(): void {
    this.#free = 0
    this.#left = 0
  }

  close(): void {
    if (this.#arena !== null) releaseArena(this.#arena)
  }
}

/** struct cmsghdr with SO_MARK of SOL_SOCKET. */
function writeMark(words: Uint32Array, at: number, mark: number): void {
  words[at] = 20
  words[at + 1] = 0
  words[at + 2] = SOL_SOCKET
  words[at + 3] = SO_MARK
  words[at + 4] = mark
}
