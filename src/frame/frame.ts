// The frame cursor: one reusable object that points at a frame where it lies. Nothing is allocated per frame; whoever
// wants to keep a frame copies it (`FrameCopy`).

/** Bytes of a struct virtio_net_hdr (linux/virtio_net.h), which precedes every frame in memory. */
export const VNET_HEADER_LENGTH = 10

/** No epoch: the frame comes from outside the network. */
export const NO_COLOR = -1

/** Longest frame a GSO-capable device hands over: 64 KiB of IP packet, Ethernet header, two tags. */
export const MAX_FRAME_LENGTH = 65536 + 14 + 8

const NO_MEMORY = new DataView(new ArrayBuffer(0))

export class Frame {
  /** The memory that the frame lies in; `address` is where bytes[0] is, or 0 when it has no fixed address. */
  bytes: Uint8Array
  address = 0
  /** The same memory, where `address` is not 0. */
  view: DataView = NO_MEMORY
  /** Offset of the virtio-net header in `bytes`. */
  vnet = 0
  /** Offset of the destination address in `bytes`. */
  start = 0
  /** Bytes from the destination address to the end, without FCS. */
  length = 0
  /** The outermost VLAN tag when the kernel keeps it beside the frame (PACKET_AUXDATA); tpid 0: none. */
  tagTpid = 0
  tagTci = 0
  /** The sender's epoch, or NO_COLOR. */
  color = NO_COLOR

  constructor(bytes: Uint8Array = new Uint8Array(0)) {
    this.bytes = bytes
  }

  /** Points at `copy`, as it was when the copy was made. */
  pointAt(copy: FrameCopy): this {
    this.bytes = copy.bytes
    this.address = 0
    this.vnet = 0
    this.start = VNET_HEADER_LENGTH
    this.length = copy.bytes.length - VNET_HEADER_LENGTH
    this.tagTpid = copy.tagTpid
    this.tagTci = copy.tagTci
    this.color = copy.color
    return this
  }
}

/** A frame that was kept: virtio-net header and frame in one piece of heap memory. */
export interface FrameCopy {
  readonly bytes: Uint8Array
  readonly tagTpid: number
  readonly tagTci: number
  readonly color: number
}

/** Writes what a FrameCopy has as `bytes` to `memory`, from `at` on. */
export function writeCopy(frame: Frame, memory: Uint8Array, at: number): void {
  memory.set(frame.bytes.subarray(frame.vnet, frame.vnet + VNET_HEADER_LENGTH), at)
  memory.set(frame.bytes.subarray(frame.start, frame.start + frame.length), at + VNET_HEADER_LENGTH)
}

export function copyFrame(frame: Frame): FrameCopy {
  const bytes = new Uint8Array(VNET_HEADER_LENGTH + frame.length)
  writeCopy(frame, bytes, 0)
  return { bytes, tagTpid: frame.tagTpid, tagTci: frame.tagTci, color: frame.color }
}
