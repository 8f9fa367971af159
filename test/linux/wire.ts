// For tests that play both ends of a device: a plain packet socket on its network side, and frames to send.

import { check, libc } from '../../src/linux/libc.js'

const AF_PACKET = 17
const SOCK_RAW = 3
const SOL_PACKET = 263
const PACKET_VNET_HDR = 15
const PACKET_QDISC_BYPASS = 20
const PACKET_IGNORE_OUTGOING = 23
const ETH_P_ALL_NETWORK_ORDER = 0x0300
const MSG_DONTWAIT = 0x40
const VNET_LENGTH = 10

const buffer = new Uint8Array(70_000)

/** A packet socket with virtio-net headers, seeing only what enters the device. */
export function packetSocket(index: number, options: { bypassQdisc?: boolean } = {}): number {
  const { socket, setsockopt, bind } = libc()
  const fd = check(socket(AF_PACKET, SOCK_RAW, ETH_P_ALL_NETWORK_ORDER), 'socket')
  const on = new Uint8Array([1, 0, 0, 0])
  const wanted = [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ...(options.bypassQdisc ? [PACKET_QDISC_BYPASS] : [])]
  for (const name of wanted) check(setsockopt(fd, SOL_PACKET, name, on, 4), 'setsockopt')
  const address = new Uint8Array(20)
  const view = new DataView(address.buffer)
  view.setUint16(0, AF_PACKET, true)
  view.setUint16(2, 0x0003)
  view.setInt32(4, index, true)
  check(bind(fd, address, address.length), 'bind')
  // On a device that is down the kernel leaves ENETDOWN for the first call to find (packet_do_bind).
  libc().recv(fd, buffer, buffer.length, MSG_DONTWAIT)
  return fd
}

/** Sends without waiting; false when the kernel refuses it. */
export function send(fd: number, frame: Uint8Array): boolean {
  return libc().send(fd, frame, frame.length, MSG_DONTWAIT) === frame.length
}

/** All frames that lie ready on a packet socket, virtio-net headers off. */
export function receiveAll(fd: number): Uint8Array[] {
  return takeAll(() => libc().recv(fd, buffer, buffer.length, MSG_DONTWAIT))
}

/** Up to `limit` frames from a TAP's file side (opened non-blocking), virtio-net headers off. */
export function readAll(fd: number, limit = Number.POSITIVE_INFINITY): Uint8Array[] {
  return takeAll(() => libc().read(fd, buffer, buffer.length), limit)
}

function takeAll(take: () => number, limit = Number.POSITIVE_INFINITY): Uint8Array[] {
  const frames: Uint8Array[] = []
  while (frames.length < limit) {
    const length = take()
    if (length < 0) break
    frames.push(buffer.slice(VNET_LENGTH, length))
  }
  return frames
}

/** The file side's write: what the guest sends. */
export function write(fd: number, frame: Uint8Array): void {
  check(libc().write(fd, frame, frame.length), 'write to the TAP')
}

/** With an all-zero virtio-net header first: nothing left to do. */
export function withHeader(frame: Uint8Array): Uint8Array {
  const whole = new Uint8Array(VNET_LENGTH + frame.length)
  whole.set(frame, VNET_LENGTH)
  return whole
}

/** A frame of the experimental EtherType 0x88b6, which no stack answers. */
export function experimentalFrame(length = 60): Uint8Array {
  const frame = new Uint8Array(length)
  frame.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb6])
  return withHeader(frame)
}

/** Who has `target`? From 02:…:08, 192.0.2.8. */
export function arpRequest(target: [number, number, number, number]): Uint8Array {
  const frame = new Uint8Array(60)
  const sender = [2, 0, 0, 0, 0, 8]
  frame.set([255, 255, 255, 255, 255, 255, ...sender, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1])
  frame.set([...sender, 192, 0, 2, 8, 0, 0, 0, 0, 0, 0, ...target], 22)
  return withHeader(frame)
}

/** An empty DHCP discover as a booting guest sends it: UDP from 0.0.0.0:68 to 255.255.255.255:67, no UDP checksum. */
export function dhcpDiscover(): Uint8Array {
  const frame = new Uint8Array(14 + 20 + 8 + 240)
  const view = new DataView(frame.buffer)
  frame.set([255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 8, 8, 0])
  frame.set([0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255], 14)
  view.setUint16(16, 268)
  view.setUint16(24, ~fold(sumWords(view, 14, 20)) & 0xffff)
  frame.set([0, 68, 0, 67, 0, 248, 0, 0, 1, 1, 6, 0], 34)
  return withHeader(frame)
}

/** A TCP segment of `payload` bytes, to be cut to `segment` bytes each by whoever must, checksum left to do. */
export function gsoFrame(payload: number, segment: number): Uint8Array {
  const bytes = withHeader(new Uint8Array(54 + payload))
  const view = new DataView(bytes.buffer)
  bytes.set([1, 1, 54, 0, segment & 0xff, segment >> 8, 34, 0, 16, 0])
  bytes.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0], 10)
  const ip = 24
  bytes.set([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 8, 192, 0, 2, 9], ip)
  view.setUint16(ip + 2, 40 + payload)
  view.setUint16(ip + 10, ~fold(sumWords(view, ip, 20)) & 0xffff)
  const tcp = 44
  bytes.set([0x03, 0xe8, 0x07, 0xd0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0], tcp)
  // The pseudo header's sum, which the one who finishes the checksum starts from.
  view.setUint16(tcp + 16, fold(sumWords(view, ip + 12, 8) + 6 + 20 + payload))
  return bytes
}

function sumWords(view: DataView, start: number, length: number): number {
  let sum = 0
  for (let at = start; at < start + length; at += 2) sum += view.getUint16(at)
  return sum
}

function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16)
  return (once & 0xffff) + (once >>> 16)
}
