// Setting up TPACKET_V2 rings on packet sockets. linux/if_packet.h, Documentation/networking/packet_mmap.rst.

import { check, libc } from './libc.js'

const SOL_PACKET = 263
const PACKET_RX_RING = 5
const PACKET_COPY_THRESH = 7
const PACKET_VERSION = 10
const PACKET_TX_RING = 13
const TPACKET_V2 = 1

/** Bytes per slot: header, virtio-net header and a frame of up to some 1900 bytes. */
export const RING_SLOT = 2048
const BLOCK = 64 * 1024

/** Bytes per slot of a transmit ring, and where in it the virtio-net header lies: behind the slot's own header. */
export const SEND_SLOT = 1024
export const SEND_DATA_AT = 32

export const TpStatus = { KERNEL: 0, USER: 1, COPY: 2, LOSING: 4, VLAN_VALID: 16 } as const
/** Of a slot in a transmit ring: free; filled by us; taken by the kernel, whose buffer still refers to it; refused. */
export const TpSendStatus = { AVAILABLE: 0, SEND_REQUEST: 1, SENDING: 2, WRONG_FORMAT: 4 } as const

/** `slots`: a power of two, at least 32. After PACKET_VNET_HDR, before bind. Throws SYSCALL (ENOMEM: too many slots). */
export function enableReceiveRing(fd: number, slots: number): void {
  set(fd, PACKET_VERSION, [TPACKET_V2], 'PACKET_VERSION')
  // Any value but 0: frames that do not fit a slot are queued whole.
  set(fd, PACKET_COPY_THRESH, [1], 'PACKET_COPY_THRESH')
  set(fd, PACKET_RX_RING, [BLOCK, (slots * RING_SLOT) / BLOCK, RING_SLOT, slots], `a receive ring of ${slots} slots`)
}

/**
 * `block`, in bytes: whole pages, and whole slots with nothing between, so that slots follow one another in the mapping;
 * `slots` fill whole blocks. After PACKET_VNET_HDR. Throws SYSCALL (ENOMEM: too many slots).
 */
export function enableTransmitRing(fd: number, slots: number, slot = SEND_SLOT, block = BLOCK): void {
  set(fd, PACKET_VERSION, [TPACKET_V2], 'PACKET_VERSION')
  set(fd, PACKET_TX_RING, [block, (slots * slot) / block, slot, slots], `a transmit ring of ${slots} slots`)
}

function set(fd: number, name: number, values: readonly number[], what: string): void {
  const bytes = new Uint8Array(Uint32Array.from(values).buffer)
  check(libc().setsockopt(fd, SOL_PACKET, name, bytes, bytes.length), what)
}

/** Takes the ring off a socket; nothing may be mapped. What waits in it is lost. Throws SYSCALL. */
export function disableReceiveRing(fd: number): void {
  const none = new Uint8Array(16)
  check(libc().setsockopt(fd, SOL_PACKET, PACKET_RX_RING, none, none.length), 'remove a receive ring')
}
