// The sockets of a switch port, opened and closed side by side with those of other ports, by a thread that forwards
// nothing. They are not bound: a port receives from when the datapath has mapped the rings and binds them.

import { closeInBackground, setOptionInBackground } from './background.js'
import type { SocketHandover } from './handover.js'
import { libc } from './libc.js'
import {
  type ReceiveShape,
  receiveRing,
  type SendShape,
  type SlowOption,
  sendShape,
  setNow,
  transmitRing,
} from './packet-ring.js'
import { openPacketSocket, openSendSocket, promiscuous } from './packet-socket.js'

export interface PortSockets {
  /** Receives by a ring and sends messages. */
  readonly receive: number
  /** Sends by a ring. */
  readonly transmit: number
  /** One that the datapath has opened besides; -1: none. */
  readonly aside?: number
  readonly receiveShape: ReceiveShape
  readonly transmitSlots: number
}

/** Memory for all receive rings together. */
const ALL_RECEIVE_BYTES = 160 * 1024 * 1024
/** So many frames may come while the datapath is elsewhere. */
const RECEIVE_SLOTS = 2048
/** Frames of up to some 1900 bytes, and of up to 180: longer ones take the way beside the ring. */
const LARGEST_SLOT = 2048
const SMALLEST_SLOT = 256
const MOST_TRANSMIT_SLOTS = 256
const FEWEST_TRANSMIT_SLOTS = 128

/**
 * What each of so many ports gets. The more there are, the shorter are the frames that fit a slot; as many frames wait
 * in each, whatever their length.
 */
export function ringsFor(ports: number): { receive: ReceiveShape; transmitSlots: number } {
  let slot = LARGEST_SLOT
  while (slot > SMALLEST_SLOT && slot * RECEIVE_SLOTS * ports > ALL_RECEIVE_BYTES) slot /= 2
  const transmitSlots = slot < LARGEST_SLOT ? FEWEST_TRANSMIT_SLOTS : MOST_TRANSMIT_SLOTS
  return { receive: { slots: RECEIVE_SLOTS, slot }, transmitSlots }
}

export interface PortDevice {
  readonly device: string
  readonly ifindex: number
  /** As rtnetlink says it ("veth", "tun"). No thread that forwards asks for the driver: that waits for a lock. */
  readonly kind?: string | null
  /** It stays in a bridge, which rules keep out of it. */
  readonly inBridge?: boolean
  /** From the beginning, the sockets take frames only when these say so. */
  readonly handover?: SocketHandover
  /** Our program is at its egress hook (egress-hook.ts). */
  readonly hooked?: boolean
}

/** What takes no time; the rest is still to be set. */
function begin({ device, ifindex }: PortDevice, ports: number): { sockets: PortSockets; slow: SlowOption[] } {
  const { receive: receiveShape, transmitSlots } = ringsFor(ports)
  const receive = openPacketSocket()
  try {
    const transmit = openSendSocket({ ifindex, device })
    const sockets = { receive, transmit, receiveShape, transmitSlots }
    const rings = [receiveRing(receive, receiveShape), transmitRing(transmit, sendShape(transmitSlots))]
    return { sockets, slow: [promiscuous(receive, ifindex, device), ...rings] }
  } catch (error) {
    libc().close(receive)
    throw error
  }
}

const descriptors = ({ receive, transmit, aside = -1 }: PortSockets) =>
  aside < 0 ? [receive, transmit] : [receive, transmit, aside]

/** For a port among `ports`. Throws SYSCALL, PERMISSION, DEVICE_MISSING: nothing is open then. */
export async function openPortSockets(device: PortDevice, ports: number): Promise<PortSockets> {
  const { sockets, slow } = begin(device, ports)
  await setAll(slow, descriptors(sockets))
  return sockets
}

/** The same, waiting for each step. */
export function openPortSocketsNow(device: PortDevice, ports: number): PortSockets {
  const { sockets, slow } = begin(device, ports)
  try {
    for (const option of slow) setNow(option)
    return sockets
  } catch (error) {
    for (const fd of descriptors(sockets)) libc().close(fd)
    throw error
  }
}

/** Nothing of them may be mapped, or they stay open. */
export async function closePortSockets(sockets: PortSockets): Promise<void> {
  await Promise.all(descriptors(sockets).map(closeInBackground))
}

export function closePortSocketsNow(sockets: PortSockets): void {
  for (const fd of descriptors(sockets)) libc().close(fd)
}

/** Sockets that send to any device, each with a ring. Throws SYSCALL, PERMISSION. */
export async function openSendRings(shapes: readonly SendShape[]): Promise<number[]> {
  const opened: number[] = []
  const slow: SlowOption[] = []
  try {
    for (const shape of shapes) {
      const fd = openSendSocket(null)
      opened.push(fd)
      slow.push(transmitRing(fd, shape))
    }
  } catch (error) {
    await Promise.all(opened.map(closeInBackground))
    throw error
  }
  await setAll(slow, opened)
  return opened
}

export async function closeAll(descriptors: readonly number[]): Promise<void> {
  await Promise.all(descriptors.map(closeInBackground))
}

/** When one fails, the others are waited for, and the descriptors closed. */
async function setAll(options: readonly SlowOption[], descriptors: readonly number[]): Promise<void> {
  const set = await Promise.allSettled(
    options.map(({ fd, level, name, value, what }) => setOptionInBackground(fd, level, name, value, what)),
  )
  const failed = set.find((outcome) => outcome.status === 'rejected')
  if (failed === undefined) return
  await closeAll(descriptors)
  throw failed.reason
}
