// Forwarders on a LAN: hosts with members, outside hosts, and between them a switch that learns addresses and floods
// what it does not know, as any. Frames wait on the LAN until it runs, so that a test can look at them and lose them.

import { EtherType } from '../../src/frame/ethernet.js'
import { copyFrame, Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { createCounters, Drop, ROW } from '../../switch/forwarding/counters.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { NetworkOptions } from '../../switch/forwarding/network.js'
import type { ChannelClosed } from '../../switch/forwarding/snapshot/open-snapshot.js'
import { defaults, type FrameWords, frame, mac, RecordingOutput } from './rig.js'

export const UPLINK = 0
/** Members of a host are the ports from here on. */
export const MEMBERS = 1

export interface OnLan extends FrameCopy {
  readonly from: string
}

export interface HostOptions extends Partial<NetworkOptions> {
  readonly color?: 'dscp' | 'carrier'
  readonly mtu?: number
  readonly plain?: number
}

export class LanHost {
  readonly name: string
  readonly forwarder: Forwarder
  readonly outputs: RecordingOutput[] = []
  readonly counters = createCounters()
  readonly closed: { epoch: number; closures: readonly ChannelClosed[] }[] = []
  readonly early: number[] = []
  readonly heard: string[] = []
  readonly plainPort: number
  /** Its way onto the LAN. */
  readonly device = {
    send: (sent: Frame): boolean => {
      this.#lan.put(this.name, sent)
      return true
    },
  }
  readonly #lan: Lan

  constructor(lan: Lan, name: string, boot: string, members: number, options: HostOptions, epoch: number) {
    this.#lan = lan
    this.name = name
    const { color = 'dscp', mtu = 1500, plain = 0, ...rest } = options
    this.forwarder = new Forwarder(
      { ...defaults, bootedAt: lan.now, ...rest, host: name, bootId: boot },
      this.counters,
      {
        early: (_port, epoch) => this.early.push(epoch),
        peer: (_port, host) => this.heard.push(host),
        closed: (epoch, closures) => this.closed.push({ epoch, closures }),
      },
    )
    this.forwarder.network.raiseEpoch(epoch)
    const spec = { vm: null, epoch: 0, mac: this.mac }
    const uplink = { index: UPLINK, name: 'uplink', kind: 'uplink' as const, ...spec, uplink: { mtu, color } }
    this.forwarder.addPort(uplink, this.device)
    for (let i = 0; i < members + plain; i++) {
      const index = MEMBERS + i
      const kind = i < members ? ('member' as const) : ('plain' as const)
      this.outputs[index] = new RecordingOutput()
      const port = { index, name: `${name}${index}`, kind, vm: kind === 'member' ? `${name}${index}` : null, epoch }
      this.forwarder.addPort({ ...port, mac: mac(0) }, this.outputs[index])
    }
    this.plainPort = MEMBERS + members
  }

  /** The address of its switch on the LAN. */
  get mac(): Uint8Array {
    return mac(0xff00 + this.name.charCodeAt(0))
  }

  /** The address of a member's machine. */
  macOf(member: number): Uint8Array {
    return mac(this.name.charCodeAt(0) * 16 + member)
  }

  /** A member sends. */
  send(member: number, words: FrameWords): void {
    this.forwarder.receive(member, frame({ from: this.macOf(member), ...words }), this.#lan.now)
  }

  drops(reason: keyof typeof Drop): number {
    return this.counters[UPLINK * ROW + Drop[reason]]
  }

  get peers(): { host: string | null; alive: boolean }[] {
    return this.forwarder.ports
      .filter((port) => port.peer !== null)
      .map((port) => ({ host: port.channel!.host, alive: this.forwarder.trunks.isAlive(port, this.#lan.now) }))
  }
}

export class Lan {
  now = 1_700_000_000_000
  readonly hosts = new Map<string, LanHost>()
  /** What each outside host has been given. */
  readonly outside = new Map<string, FrameCopy[]>()
  readonly wire: OnLan[] = []
  /** All that was ever put on it since the last `forget`. */
  seen: OnLan[] = []
  readonly #learned = new Map<string, string>()

  host(name: string, members: number, options: HostOptions = {}, epoch = 0, boot = name.repeat(16)): LanHost {
    const host = new LanHost(this, name, boot, members, options, epoch)
    this.hosts.set(name, host)
    return host
  }

  outsider(name: string): void {
    this.outside.set(name, [])
  }

  put(from: string, sent: Frame): void {
    const copy = { ...copyFrame(sent), from }
    this.wire.push(copy)
    this.seen.push(copy)
  }

  /** An outside host sends. */
  send(from: string, words: FrameWords): void {
    this.put(from, frame(words))
  }

  /** Delivers what is on the LAN, and what comes of it, to the end; `lose` says which frames get lost. */
  run(lose: (copy: OnLan) => boolean = () => false): void {
    for (let copy = this.wire.shift(); copy !== undefined; copy = this.wire.shift()) if (!lose(copy)) this.deliver(copy)
  }

  /** Lets time pass in steps, frames and all. */
  pass(ms: number, step = 100): void {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += step
      for (const host of this.hosts.values()) host.forwarder.tick(this.now)
      this.run()
    }
  }

  forget(): void {
    this.seen = []
    for (const frames of this.outside.values()) frames.length = 0
    for (const host of this.hosts.values()) for (const output of host.outputs) output?.take()
  }

  /** Whom the LAN gives a frame to. */
  receivers(copy: OnLan): string[] {
    const text = (offset: number) => Buffer.from(copy.bytes.subarray(offset, offset + 6)).toString('hex')
    const to = text(VNET_HEADER_LENGTH)
    this.#learned.set(text(VNET_HEADER_LENGTH + 6), copy.from)
    const isGroup = (copy.bytes[VNET_HEADER_LENGTH] & 1) === 1
    const known = isGroup ? undefined : this.#learned.get(to)
    const others = [...this.hosts.keys(), ...this.outside.keys()].filter((name) => name !== copy.from)
    return known === undefined ? others : others.filter((name) => name === known)
  }

  give(name: string, copy: OnLan): void {
    this.outside.get(name)?.push(copy)
    // Each receiver has memory of its own.
    const frame = new Frame().pointAt({ ...copy, bytes: copy.bytes.slice() })
    this.hosts.get(name)?.forwarder.receive(UPLINK, frame, this.now)
  }

  deliver(copy: OnLan): void {
    for (const name of this.receivers(copy)) this.give(name, copy)
  }
}

/** An IPv4 or IPv6 packet with a good header checksum: `id` in the first four bytes after the header. */
export function packet(version: 4 | 6, id: number, trafficClass = 0, length = 46): Uint8Array {
  const header = version === 4 ? 20 : 40
  const bytes = new Uint8Array(Math.max(length, header + 4))
  const view = new DataView(bytes.buffer)
  if (version === 4) {
    bytes.set([0x45, trafficClass])
    view.setUint16(2, bytes.length)
    bytes.set([64, 17], 8)
    bytes.set([10, 0, 0, 1, 10, 0, 0, 2], 12)
    view.setUint16(10, headerChecksum(bytes))
  } else {
    view.setUint32(0, 0x60000000 | (trafficClass << 20) | 0xabcde)
    view.setUint16(4, bytes.length - 40)
    bytes.set([17, 64], 6)
  }
  view.setUint32(header, id)
  return bytes
}

/** The checksum that an IPv4 header should have (RFC 791), whatever is in its field. */
export function headerChecksum(packet: Uint8Array): number {
  let sum = 0
  for (let at = 0; at < (packet[0] & 0xf) * 4; at += 2) if (at !== 10) sum += (packet[at] << 8) | packet[at + 1]
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}

/** Words of a frame with such a packet. */
export function ip(version: 4 | 6, id: number, trafficClass = 0, length = 46): FrameWords {
  const type = version === 4 ? EtherType.IPV4 : EtherType.IPV6
  return { type, payload: packet(version, id, trafficClass, length) }
}

/** The id of what a member or an outside host was given. */
export function idOf(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const type = view.getUint16(12)
  return view.getUint32(type === EtherType.IPV4 ? 34 : type === EtherType.IPV6 ? 54 : 14)
}

export interface SegmentWords {
  /** Bytes behind the TCP header. */
  readonly payload: number
  /** What the virtio-net header says of cutting it up; 0: nothing. */
  readonly size: number
  readonly type?: number
  readonly to?: Uint8Array
  readonly from?: Uint8Array
}

/** A TCP packet in IPv4, as a guest with offloads gives it. */
export function tcpSegment({ payload, size, type = 1, ...addresses }: SegmentWords): Frame {
  const made = frame({ ...addresses, payload: packet(4, 0, 0, 20 + 20 + payload) })
  made.bytes[made.start + 14 + 20 + 12] = 5 << 4
  const header = new DataView(made.bytes.buffer, made.vnet)
  header.setUint8(0, 1)
  header.setUint8(1, type)
  header.setUint16(4, size, true)
  header.setUint16(6, 14 + 20, true)
  return made
}
