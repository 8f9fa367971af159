// Setting up a TPACKET_V2 receive ring on a packet socket. linux/if_packet.h, Documentation/networking/packet_mmap.rst.

import { check, libc } from './libc.js'

const SOL_PACKET = 263
const PACKET_RX_RING = 5
const PACKET_COPY_THRESH = 7
const PACKET_VERSION = 10
const TPACKET_V2 = 1

/** Bytes per slot: header, virtio-net header and a frame of up to some 1900 bytes. */
export const RING_SLOT = 2048
const BLOCK = 64 * 1024

export const TpStatus = { KERNEL: 0, USER: 1, COPY: 2, LOSING: 4, VLAN_VALID: 16 } as const

/** `slots`: a power of two, at least 32. After PACKET_VNET_HDR, before bind. Throws SYSCALL (ENOMEM: too many slots). */
export function enableReceiveRing(fd: number, slots: number): void {
  const set = (name: number, values: readonly number[], what: string) => {
    const bytes = new Uint8Array(Uint32Array.from(values).buffer)
    check(libc().setsockopt(fd, SOL_PACKET, name, bytes, bytes.length), what)
  }
  set(PACKET_VERSION, [TPACKET_V2], 'PACKET_VERSION')
  // Any value but 0: frames that do not fit a slot are queued whole.
  set(PACKET_COPY_THRESH, [1], 'PACKET_COPY_THRESH')
  set(PACKET_RX_RING, [BLOCK, (slots * RING_SLOT) / BLOCK, RING_SLOT, slots], `a receive ring of ${slots} slots`)
}

/** Takes the ring off a socket; nothing may be mapped. What waits in it is lost. Throws SYSCALL. */
export function disableReceiveRing(fd: number): void {
  const none = new Uint8Array(16)
  check(libc().setsockopt(fd, SOL_PACKET, PACKET_RX_RING, none, none.length), 'remove a receive ring')
}
