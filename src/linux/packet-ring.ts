// Setting up TPACKET_V2 rings on packet sockets. linux/if_packet.h, Documentation/networking/packet_mmap.rst.

import { check, libc } from './libc.js'

const SOL_PACKET = 263
const PACKET_RX_RING = 5
const PACKET_COPY_THRESH = 7
const PACKET_VERSION = 10
const PACKET_TX_RING = 13
const TPACKET_V2 = 1

const BLOCK = 64 * 1024

/** Bytes per slot of a transmit ring, and where in it the virtio-net header lies: behind the slot's own header. */
export const SEND_SLOT = 1024
export const SEND_DATA_AT = 32

export const TpStatus = { KERNEL: 0, USER: 1, COPY: 2, VLAN_VALID: 16 } as const
/** Of a slot in a transmit ring: free; filled by us; taken by the kernel, whose buffer still refers to it; refused. */
export const TpSendStatus = { AVAILABLE: 0, SEND_REQUEST: 1, SENDING: 2, WRONG_FORMAT: 4 } as const

/** A socket option whose setting waits in the kernel (background.ts). */
export interface SlowOption {
  readonly fd: number
  readonly level: number
  readonly name: number
  readonly value: Uint8Array
  readonly what: string
}

/** Of a receive ring: both are powers of two; slots fill whole blocks. */
export interface ReceiveShape {
  readonly slots: number
  /** Bytes of a slot: its header, a virtio-net header, and the frame or its beginning. */
  readonly slot: number
}

/** After PACKET_VNET_HDR, before bind. Throws SYSCALL (ENOMEM: too many slots). */
export function enableReceiveRing(fd: number, shape: ReceiveShape): void {
  setNow(receiveRing(fd, shape))
}

/** The same, but for the last step. */
export function receiveRing(fd: number, { slots, slot }: ReceiveShape): SlowOption {
  set(fd, PACKET_VERSION, [TPACKET_V2], 'PACKET_VERSION')
  // Any value but 0: frames that do not fit a slot are queued whole.
  set(fd, PACKET_COPY_THRESH, [1], 'PACKET_COPY_THRESH')
  const shape = [BLOCK, (slots * slot) / BLOCK, slot, slots]
  return option(fd, PACKET_RX_RING, shape, `a receive ring of ${slots} slots`)
}

/** Of a transmit ring. */
export interface SendShape {
  readonly slots: number
  /** Bytes of a slot. */
  readonly slot: number
  /**
   * Whole pages, and whole slots with nothing between, so that slots follow one another in the mapping; slots fill
   * whole blocks.
   */
  readonly block: number
}

export const sendShape = (slots: number): SendShape => ({ slots, slot: SEND_SLOT, block: BLOCK })

/** After PACKET_VNET_HDR. */
export function transmitRing(fd: number, { slots, slot, block }: SendShape): SlowOption {
  set(fd, PACKET_VERSION, [TPACKET_V2], 'PACKET_VERSION')
  const shape = [block, (slots * slot) / block, slot, slots]
  return option(fd, PACKET_TX_RING, shape, `a transmit ring of ${slots} slots`)
}

/** Throws SYSCALL. */
export function setNow({ fd, level, name, value, what }: SlowOption): void {
  check(libc().setsockopt(fd, level, name, value, value.length), what)
}

function option(fd: number, name: number, values: readonly number[], what: string): SlowOption {
  return { fd, level: SOL_PACKET, name, value: new Uint8Array(Uint32Array.from(values).buffer), what }
}

function set(fd: number, name: number, values: readonly number[], what: string): void {
  setNow(option(fd, name, values, what))
}

/** Takes the ring off a socket; nothing may be mapped. What waits in it is lost. Throws SYSCALL. */
export function disableReceiveRing(fd: number): void {
  const none = new Uint8Array(16)
  check(libc().setsockopt(fd, SOL_PACKET, PACKET_RX_RING, none, none.length), 'remove a receive ring')
}
