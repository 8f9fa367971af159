// AF_PACKET sockets as a switch port wants them: every frame of a device, whole (GSO), none of our own back. packet(7),
// linux/if_packet.h, net/packet/af_packet.c.

import { mapArena, releaseArena } from './arena.js'
import { ethtool } from './ethtool.js'
import { check, libc } from './libc.js'
import type { SlowOption } from './packet-ring.js'

const AF_PACKET = 17
const SOCK_RAW = 3
const SOCK_NONBLOCK = 0o4000
const SOCK_CLOEXEC = 0o2000000
const ETH_P_ALL = 0x0003
const SOL_SOCKET = 1
const SOL_PACKET = 263

const PacketOption = {
  ADD_MEMBERSHIP: 1,
  STATISTICS: 6,
  AUXDATA: 8,
  VNET_HDR: 15,
  IGNORE_OUTGOING: 23,
} as const

const PACKET_MR_PROMISC = 1
const SO_ERROR = 4
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33

/** Socket buffers: room for some 300 GSO frames, or some 10,000 small ones, while the datapath is busy elsewhere. */
const SOCKET_BUFFER_BYTES = 32 * 1024 * 1024

function int32(value: number): Uint8Array {
  return new Uint8Array(Int32Array.of(value).buffer)
}

function setOption(fd: number, level: number, name: number, value: Uint8Array, what: string): void {
  check(libc().setsockopt(fd, level, name, value, value.length), what)
}

/** struct sockaddr_ll for binding and sending: family, protocol (network order), interface. */
export function linkAddress(ifindex: number, protocol: number): Uint8Array {
  const address = new Uint8Array(20)
  const view = new DataView(address.buffer)
  view.setUint16(0, AF_PACKET, true)
  view.setUint16(2, protocol, false)
  view.setInt32(4, ifindex, true)
  return address
}

/**
 * Opens a socket to receive and send, not bound yet: non-blocking, with virtio-net headers. Throws SYSCALL, PERMISSION.
 */
export function openPacketSocket(): number {
  const c = libc()
  // Protocol 0: nothing is received until bind, so no frame of another device slips in.
  const fd = check(c.socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket')
  try {
    setOption(fd, SOL_PACKET, PacketOption.VNET_HDR, int32(1), 'PACKET_VNET_HDR')
    setOption(fd, SOL_PACKET, PacketOption.IGNORE_OUTGOING, int32(1), 'PACKET_IGNORE_OUTGOING')
    // Not PACKET_QDISC_BYPASS: past the qdisc, a GSO frame for a device that cannot take it is lost instead of
    // segmented, and a tcpdump on the device does not see what is sent. On a veth or TAP it would save next to nothing.
    setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, int32(SOCKET_BUFFER_BYTES), 'SO_RCVBUFFORCE')
    setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, int32(SOCKET_BUFFER_BYTES), 'SO_SNDBUFFORCE')
    return fd
  } catch (error) {
    c.close(fd)
    throw error
  }
}

/** Has a device take all frames while the socket is open. It waits for rtnl. */
export function promiscuous(fd: number, ifindex: number, device: string): SlowOption {
  const value = new Uint8Array(16)
  new DataView(value.buffer).setInt32(0, ifindex, true)
  new DataView(value.buffer).setUint16(4, PACKET_MR_PROMISC, true)
  return { fd, level: SOL_PACKET, name: PacketOption.ADD_MEMBERSHIP, value, what: `make ${device} promiscuous` }
}

/** From here on the socket receives every frame of the device. */
export function bindPacketSocket(fd: number, ifindex: number, device: string): void {
  const address = linkAddress(ifindex, ETH_P_ALL)
  check(libc().bind(fd, address, address.length), `bind to ${device}`)
}

/** Room for some 50 of the longest frames. */
const ASIDE_BUFFER_BYTES = 4 * 1024 * 1024

/**
 * Opens a socket, not bound yet, for those frames that `filter` lets through: read one by one, with tags in auxiliary
 * data. Throws SYSCALL, PERMISSION.
 */
export function openAsideSocket(filter: (fd: number) => void): number {
  const c = libc()
  const fd = check(c.socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket')
  try {
    setVnetHeader(fd, true)
    setOption(fd, SOL_PACKET, PacketOption.AUXDATA, int32(1), 'PACKET_AUXDATA')
    setOption(fd, SOL_PACKET, PacketOption.IGNORE_OUTGOING, int32(1), 'PACKET_IGNORE_OUTGOING')
    setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, int32(ASIDE_BUFFER_BYTES), 'SO_RCVBUFFORCE')
    filter(fd)
    return fd
  } catch (error) {
    c.close(fd)
    throw error
  }
}

/** Whether frames are read with virtio-net headers. Not while the socket has a ring. */
export function setVnetHeader(fd: number, on: boolean): void {
  setOption(fd, SOL_PACKET, PacketOption.VNET_HDR, int32(on ? 1 : 0), 'PACKET_VNET_HDR')
}

/**
 * Opens a socket that only sends, with virtio-net headers, to a device or to any. Throws SYSCALL, PERMISSION,
 * DEVICE_MISSING.
 */
export function openSendSocket(to: { readonly ifindex: number; readonly device: string } | null): number {
  const c = libc()
  // Bound with protocol 0, or not at all, it receives nothing, and costs the receive path nothing.
  const fd = check(c.socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket')
  try {
    setOption(fd, SOL_PACKET, PacketOption.VNET_HDR, int32(1), 'PACKET_VNET_HDR')
    setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, int32(SOCKET_BUFFER_BYTES), 'SO_SNDBUFFORCE')
    if (to === null) return fd
    const address = linkAddress(to.ifindex, 0)
    check(c.bind(fd, address, address.length), `bind to ${to.device}`)
    return fd
  } catch (error) {
    c.close(fd)
    throw error
  }
}

/** struct ifreq: name, then what is asked for. */
const request = new Uint8Array(40)
const requestView = new DataView(request.buffer)
const REQUEST_VALUE = 16
const SIOCGIFNAME = 0x8910
const SIOCGIFMTU = 0x8921

/** The MTU that a device has now; null when it is gone. Two calls that wait for nobody (dev_ioctl: under RCU). */
export function readMtu(fd: number, ifindex: number): number | null {
  requestView.setInt32(REQUEST_VALUE, ifindex, true)
  if (libc().ioctl(fd, SIOCGIFNAME, request) < 0 || libc().ioctl(fd, SIOCGIFMTU, request) < 0) return null
  return requestView.getInt32(REQUEST_VALUE, true)
}

const SIOCGIFFLAGS = 0x8913
/** IFF_UP | IFF_RUNNING: it is up and has a carrier. */
const UP_AND_RUNNING = 0x41

/** Whether a device is up and has a carrier. Waits for nobody, as readMtu. */
export function isRunning(fd: number, ifindex: number): boolean {
  requestView.setInt32(REQUEST_VALUE, ifindex, true)
  if (libc().ioctl(fd, SIOCGIFNAME, request) < 0 || libc().ioctl(fd, SIOCGIFFLAGS, request) < 0) return false
  return (requestView.getUint16(REQUEST_VALUE, true) & UP_AND_RUNNING) === UP_AND_RUNNING
}

const ETHTOOL_GDRVINFO = 3
/** struct ethtool_drvinfo: command, then the driver's name. */
const DRVINFO_LENGTH = 196

/** The name of a device's driver ("veth", "tun"); empty when it is not known. Waits as `ethtool` does. */
export function driverOf(fd: number, ifindex: number): string {
  const information = mapArena(DRVINFO_LENGTH)
  try {
    information.view.setUint32(0, ETHTOOL_GDRVINFO, true)
    if (ethtool(fd, ifindex, information.address) < 0) return ''
    const name = information.bytes.slice(4, 36)
    return new TextDecoder().decode(name.subarray(0, name.indexOf(0)))
  } finally {
    releaseArena(information)
  }
}

/** What is asked of each port every second is written here. */
const answer = new Uint8Array(20)
const answerView = new DataView(answer.buffer)
const answerLength = new Int32Array(1)
const answerLengthBytes = new Uint8Array(answerLength.buffer)

/** Frames the kernel has dropped since the last call, for want of room in the receive buffer. */
export function readKernelDrops(fd: number): number {
  answerLength[0] = 8
  if (libc().getsockopt(fd, SOL_PACKET, PacketOption.STATISTICS, answer, answerLengthBytes) < 0) return 0
  return answerView.getUint32(4, true)
}

/**
 * Whether a socket is bound to a device still. The kernel unbinds it for good when the device goes or is moved to
 * another network namespace (packet_notifier in net/packet/af_packet.c), also when it comes back with the same index.
 */
export function isBoundTo(fd: number, ifindex: number): boolean {
  answerLength[0] = answer.length
  if (libc().getsockname(fd, answer, answerLengthBytes) < 0) return false
  return answerView.getInt32(4, true) === ifindex
}

/** Takes the pending error (ENETDOWN after the device went down), so that poll stops reporting it. 0: none. */
export function takeSocketError(fd: number): number {
  const value = int32(0)
  libc().getsockopt(fd, SOL_SOCKET, SO_ERROR, value, int32(4))
  return new DataView(value.buffer, value.byteOffset).getInt32(0, true)
}

/** Byte layouts that a datapath lays out by hand. 64-bit Linux. */
export const MessageLayout = {
  /** struct mmsghdr */
  STRIDE: 64,
  IOV: 16,
  IOV_COUNT: 24,
  CONTROL: 32,
  CONTROL_LENGTH: 40,
  LENGTH: 56,
  /** struct iovec */
  IOVEC: 16,
} as const

export const MSG_PEEK = 2
export const MSG_DONTWAIT = 0x40
