// A raw endpoint: a packet socket on a device in another network namespace, driven from the test itself.

import { closeSync, openSync } from 'node:fs'
import koffi from 'koffi'
import type { Test } from 'tap'
import { copyFrame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { check, Errno, errnoName, libc } from '../../src/linux/libc.js'
import { closePortSocketsNow, openPortSocketsNow, type PortSockets } from '../../src/linux/port-sockets.js'
import { PacketPort } from '../../switch/datapath/port/packet-port.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { sleep, until } from '../lab/command.js'

const CLONE_NEWNET = 0x40000000

let setns: ((fd: number, kind: number) => number) | undefined

/** Runs `act` with the main thread in a named namespace; what it opens stays there. */
export function inNamespace<T>(name: string, act: () => T): T {
  setns ??= koffi.load('libc.so.6').func('int setns(int, int)')
  const own = openSync('/proc/thread-self/ns/net', 'r')
  try {
    const other = openSync(`/run/netns/${name}`, 'r')
    try {
      check(setns(other, CLONE_NEWNET), `enter namespace ${name}`)
    } finally {
      closeSync(other)
    }
    try {
      return act()
    } finally {
      check(setns(own, CLONE_NEWNET), 'return from a namespace')
    }
  } finally {
    closeSync(own)
  }
}

export class Station {
  readonly port: PacketPort
  readonly counters = createCounters()
  readonly #sockets: PortSockets
  readonly #frames: FrameCopy[] = []

  constructor(namespace: string, device: string) {
    const ifindex = inNamespace(namespace, () => libc().if_nametoindex(device))
    const place = { device, ifindex, kind: 'veth' }
    this.#sockets = inNamespace(namespace, () => openPortSocketsNow(place, 1))
    try {
      // A station's own frames go by `send`, as they are: it needs none of a port's ways for the longest.
      const oversize = { send: () => Errno.EMSGSIZE }
      this.port = inNamespace(namespace, () => new PacketPort(0, device, place, this.#sockets, oversize, this.counters))
    } catch (thrown) {
      closePortSocketsNow(this.#sockets)
      throw thrown
    }
  }

  /** Sends bytes from the destination address on, as they are. Returns null, or the name of the errno. */
  send(bytes: Uint8Array, header: Uint8Array = new Uint8Array(VNET_HEADER_LENGTH)): string | null {
    const whole = new Uint8Array(header.length + bytes.length)
    whole.set(header)
    whole.set(bytes, header.length)
    if (libc().send(this.port.fd, whole, whole.length, 0) === whole.length) return null
    return errnoName(koffi.errno())
  }

  /** Frames that have come since the last call. */
  received(): FrameCopy[] {
    const sink = {
      receive: (_port: number, frame: Parameters<typeof copyFrame>[0]) => this.#frames.push(copyFrame(frame)),
    }
    while (this.port.receive(sink, 0) > 0) this.port.release()
    return this.#frames.splice(0)
  }

  /** Waits for `count` frames that `wanted` says yes to; others are dropped. Fewer when they do not come. */
  async collect(count: number, wanted: (frame: FrameCopy) => boolean = isOurs, timeoutMs = 2000): Promise<FrameCopy[]> {
    const found: FrameCopy[] = []
    const enough = () => {
      found.push(...this.received().filter(wanted))
      return found.length >= count ? true : undefined
    }
    await until('frames', timeoutMs, enough, 5).catch(() => undefined)
    return found
  }

  close(): void {
    this.port.close()
    closePortSocketsNow({ ...this.#sockets, aside: this.port.asideFd })
  }
}

let probes = 0x4000_0000

/**
 * Returns when a way is open: when a frame that `write` sends has come to each station. It is repeated, each time with
 * another id, until the last one sent is there: what was sent before it has come by then, too, or is lost, and no copy
 * comes later. What else the stations have received is dropped.
 */
export async function opensWay(write: (frame: Uint8Array) => unknown, ...stations: Station[]): Promise<void> {
  await until('the way to be open', 10_000, async () => {
    const id = probes++
    write(testFrame(id))
    const arrived = stations.map((station) => station.collect(1, (copy) => isOurs(copy) && idOf(copy) === id, 200))
    return (await Promise.all(arrived)).every((frames) => frames.length > 0) ? true : undefined
  })
  for (const station of stations) station.received()
}

/** Drops what the stations receive, until nothing has come for a moment. */
export async function untilQuiet(...stations: Station[]): Promise<void> {
  await until('silence', 10_000, async () => {
    for (const station of stations) station.received()
    await sleep(200)
    return stations.every((station) => station.received().length === 0) ? true : undefined
  })
}

/** Stations on `eth0` of endpoints, closed when the test ends. */
export function stations(
  t: { teardown(end: () => void): void },
  world: { name(label: string): string },
  ...labels: string[]
): Station[] {
  const made = labels.map((label) => new Station(world.name(label), 'eth0'))
  t.teardown(() => {
    for (const station of made) station.close()
  })
  return made
}

/** The EtherType of test frames: IEEE local experimental 2, which no stack answers. */
const TYPE = [0x88, 0xb6]

/** A frame of the experimental type; `id` is in its first four payload bytes, `tags` in the frame. */
export function testFrame(id: number, options: { to?: number; from?: number; length?: number; tags?: number[] } = {}) {
  const { to = 0xff, from = 1, length = 60, tags = [] } = options
  const address = (n: number) => (n === 0xff ? new Array(6).fill(0xff) : [2, 0, 0, 0, 0, n])
  const bytes = new Uint8Array(length)
  const head = [...address(to), ...address(from), ...tags, ...TYPE]
  bytes.set(head)
  new DataView(bytes.buffer).setUint32(head.length, id)
  return bytes
}

export function isOurs({ bytes }: FrameCopy): boolean {
  let at = VNET_HEADER_LENGTH + 12
  while ((bytes[at] === 0x81 && bytes[at + 1] === 0) || (bytes[at] === 0x88 && bytes[at + 1] === 0xa8)) at += 4
  return bytes[at] === TYPE[0] && bytes[at + 1] === TYPE[1]
}

/** The id of a test frame, tags in front of it or not. */
export function idOf({ bytes }: FrameCopy): number {
  let at = VNET_HEADER_LENGTH + 12
  while (bytes[at] !== TYPE[0] || bytes[at + 1] !== TYPE[1]) at += 4
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at + 2)
}

/**
 * Frames 0, 1, 2 without a tag, with one, and with two, as long as the MTU lets them be: they arrive as they were sent.
 */
export async function tagsArrive(t: Pick<Test, 'equal' | 'same'>, sender: Station, receiver: Station): Promise<void> {
  const tags = [[], [0x81, 0, 0x60, 100], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100]]
  for (const [id, inner] of tags.entries()) {
    t.equal(sender.send(testFrame(id, { tags: inner, length: 1514 + (inner.length === 4 ? 4 : 0) })), null)
  }
  const frames = await receiver.collect(3)
  t.same(frames.map(idOf), [0, 1, 2])
  t.same(
    frames.map(({ tagTpid, tagTci, bytes }) => [tagTpid, tagTci, bytes.length - 10]),
    [
      [0, 0, 1514],
      [0x8100, 0x6064, 1514],
      [0x88a8, 200, 1510],
    ],
  )
}
