// A run of two hosts made up from a seed: the production forwarders, joined by a trunk that keeps frames waiting, with
// guests that send at random, cut at different times and leave frames unread. Recorded like a real one.

import type {
  AuditCheck,
  AuditVerdict,
  ChannelClosure,
  LocalPart,
  Manifest,
  MemberPart,
  PortRules,
} from '../../src/api/schemas.js'
import { type AuditedHost, audit } from '../../src/audit/audit.js'
import { Book } from '../../src/audit/book.js'
import { channelEntries } from '../../src/audit/channel-run.js'
import { asSnapswitchError } from '../../src/errors/errors.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { type ChannelFrame, writeChannel } from '../../src/trace/channel.js'
import { readEvents } from '../../src/trace/event-reader.js'
import { EventTraceWriter } from '../../src/trace/event-writer.js'
import type { TracePort } from '../../src/trace/events.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { eventLogMemory, loggedEvents, logOverflow } from '../../switch/forwarding/event-log.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { ChannelClosed } from '../../switch/forwarding/snapshot/open-snapshot.js'
import { defaults, mac } from '../forwarding/rig.js'
import { type Recording, takeApart } from './tamper.js'

const MEMBERS = 2
const TRUNK = MEMBERS
/** A port to the outside, which is none of a trace's. */
const PLAIN = MEMBERS + 1
const EPOCH = 5
const CUT = EPOCH + 1

export interface SyntheticHost {
  readonly part: LocalPart
  readonly recording: Recording
  readonly channel: readonly ChannelFrame[]
}

export interface SyntheticRun {
  readonly manifest: Manifest
  readonly hosts: readonly SyntheticHost[]
}

interface Wire {
  readonly copy: FrameCopy
}

/** mulberry32 (Tommy Ettinger, public domain): numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

class Host {
  readonly name: string
  readonly number: number
  readonly forwarder: Forwarder
  readonly memory: SharedArrayBuffer
  readonly #by: 'trunk' | 'uplink'
  readonly sent: Wire[] = []
  readonly unread = [0, 0]
  readonly residue = [0, 0]
  closures: readonly ChannelClosed[] = []
  /** Of each member, in microseconds: gated, paused, cut, resumed (and released). */
  readonly times: number[][] = [[], []]

  constructor(name: string, number: number, entries: number, by: 'trunk' | 'uplink') {
    this.name = name
    this.number = number
    this.#by = by
    this.memory = eventLogMemory(entries)
    const bootId = (name.charCodeAt(0) % 10).toString().repeat(16)
    this.forwarder = new Forwarder({ ...defaults, host: name, bootId }, createCounters(), {
      early: () => undefined,
      peer: () => undefined,
      closed: (_epoch, closures) => {
        this.closures = closures
      },
    })
    for (let index = 0; index <= TRUNK; index++) {
      const isTrunk = index === TRUNK
      const kind = isTrunk ? by : 'member'
      const spec = { index, name: this.port(index), kind, vm: isTrunk ? null : this.port(index), epoch: EPOCH } as const
      const send = (frame: Frame, tci: number): boolean => {
        if (!isTrunk) this.unread[index]++
        else {
          const bytes = frame.bytes.slice(frame.vnet, frame.start + frame.length)
          const tag = tci < 0 ? { tagTpid: 0, tagTci: 0 } : { tagTpid: EtherType.SERVICE_VLAN, tagTci: tci }
          this.sent.push({ copy: { bytes, ...tag, color: 0 } })
        }
        return true
      }
      const uplink = { mtu: 1500, color: 'dscp' } as const
      const address = { mac: mac(0xff00 + number), ...(kind === 'uplink' ? { uplink } : {}) }
      this.forwarder.addPort({ ...spec, ...address }, { send })
    }
  }

  /** A port to the outside that no frame reaches: it has no room, or another VLAN. */
  addPlain(keptFrom: 'room' | 'vlan'): void {
    const rules: PortRules = keptFrom === 'vlan' ? { vlan: { pvid: 20 } } : {}
    const spec = { index: PLAIN, name: `eth-${this.name}`, kind: 'plain', vm: null, epoch: 0, rules } as const
    this.forwarder.addPort({ ...spec, mac: mac(0xfe00) }, { send: () => false })
  }

  /** The trace's number of a port. An uplink's peers have indexes of their own; it is none of the trace's itself. */
  traced(index: number): number {
    const isOutside = index === PLAIN || (index === TRUNK && this.#by === 'uplink')
    return isOutside ? -1 : Math.min(index, TRUNK)
  }

  port(index: number): string {
    return index === TRUNK ? `trunk-${this.name}` : `vm${this.number * MEMBERS + index}`
  }
}

export interface SyntheticOptions {
  /** Room of each recording. */
  readonly events?: number
  /** What joins the hosts: a cable of their own, or a LAN. */
  readonly by?: 'trunk' | 'uplink'
  /** Frames that a guest sent before its pause are read after its flip. */
  readonly undrained?: boolean
  /** Each host has a port to the outside, too, which floods do not reach; why. */
  readonly plain?: 'room' | 'vlan'
}

export function syntheticRun(
  seed: number,
  { events = 20_000, by = 'trunk', undrained, plain }: SyntheticOptions = {},
): SyntheticRun {
  const random = seeded(seed)
  const hosts = [new Host('a', 0, events, by), new Host('b', 1, events, by)]
  if (plain !== undefined) for (const host of hosts) host.addPlain(plain)
  let now = 1_700_000_000_000
  let id = 0
  const frame = new Frame()

  const send = (host: Host, index: number) => {
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + 60)
    const self = host.number * MEMBERS + index
    const to = (self + 1 + Math.floor(random() * (2 * MEMBERS - 1))) % (2 * MEMBERS)
    bytes.set(random() < 0.1 ? Uint8Array.of(255, 255, 255, 255, 255, 255) : mac(100 + to), VNET_HEADER_LENGTH)
    bytes.set(mac(100 + self), VNET_HEADER_LENGTH + 6)
    // Some frames look like others: resent, or ARP.
    const word = random() < 0.1 ? 1 : ++id + 1
    const view = new DataView(bytes.buffer)
    view.setUint16(VNET_HEADER_LENGTH + 12, EtherType.ARP)
    view.setUint32(VNET_HEADER_LENGTH + 30, word)
    host.forwarder.receive(index, frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: 0 }), now)
  }
  const carry = (from: Host, to: Host, most: number) => {
    for (const { copy } of from.sent.splice(0, most)) to.forwarder.receive(TRUNK, frame.pointAt(copy), now)
  }
  const paused = new Set<string>()
  const traffic = (steps: number) => {
    for (let step = 0; step < steps; step++) {
      now += 0.05
      const host = hosts[Math.floor(random() * 2)]
      const index = Math.floor(random() * MEMBERS)
      if (!paused.has(host.port(index))) {
        send(host, index)
        if (random() < 0.2) host.unread[index] = 0
      }
      if (random() < 0.5) carry(host, host === hosts[0] ? hosts[1] : hosts[0], Math.floor(random() * 6))
    }
  }
  const quiet = () => {
    for (let round = 0; round < 20; round++) {
      now += 5
      for (const host of hosts) host.forwarder.tick(now)
      carry(hosts[0], hosts[1], Number.POSITIVE_INFINITY)
      carry(hosts[1], hosts[0], Number.POSITIVE_INFINITY)
    }
  }

  for (let second = 0; second < 4; second++) {
    quiet()
    now += 1100
  }
  quiet()
  traffic(30)
  for (const host of hosts) {
    host.forwarder.snapshots.record(host.memory, now)
    host.forwarder.snapshots.arm([0, 1])
    traffic(40)
  }
  const steps = hosts.flatMap((host) => [0, 1].map((index) => ({ host, index, step: 0 })))
  while (steps.some(({ step }) => step < 4)) {
    traffic(Math.floor(random() * 25))
    const one = steps[Math.floor(random() * steps.length)]
    const { host, index } = one
    const { snapshots } = host.forwarder
    host.times[index].push(Math.round(now * 1000))
    switch (one.step++) {
      case 0:
        if (snapshots.openEpoch === null) snapshots.begin(CUT, 'buffer', now + 10_000, now)
        snapshots.gate([index], now)
        break
      case 1:
        paused.add(host.port(index))
        break
      case 2:
        host.residue[index] = snapshots.flip([index], CUT, [Math.min(host.unread[index], 3)], now)[0].recorded
        break
      case 3:
        if (undrained && host === hosts[0] && index === 0) send(host, index)
        now += 4
        host.times[index][3] = Math.round(now * 1000)
        paused.delete(host.port(index))
        snapshots.release([index], now)
    }
  }
  traffic(50)
  quiet()
  traffic(30)
  for (const host of hosts) {
    host.forwarder.snapshots.record(null, now)
    traffic(20)
  }
  return runOf(hosts)
}

function runOf(hosts: readonly Host[]): SyntheticRun {
  const made = hosts.map((host): SyntheticHost => {
    const channel = host.forwarder.snapshots.end().frames.map(
      ({ port, verdict, copy, at }): ChannelFrame => ({
        port: host.port(port),
        vm: host.port(port),
        color: copy.color,
        verdict,
        timeNs: BigInt(Math.round(at)) * 1_000_000n,
        vnetHeader: copy.bytes.subarray(0, VNET_HEADER_LENGTH),
        vlanTag: null,
        bytes: copy.bytes.subarray(VNET_HEADER_LENGTH),
      }),
    )
    const ports = Array.from({ length: MEMBERS + 1 }, (_, index): TracePort => {
      const isTrunk = index === TRUNK
      const kind = isTrunk ? 'trunk' : 'member'
      const peer = isTrunk ? (host.name === 'a' ? 'b' : 'a') : null
      return { name: host.port(index), kind, vm: isTrunk ? null : host.port(index), peer, lostAtDevice: 0 }
    })
    const head = { host: host.name, network: 'lab0', snapshot: 'made', epoch: CUT }
    const writer = new EventTraceWriter(head, ports)
    for (const event of loggedEvents(host.memory, (index) => host.traced(index))) writer.add(event)
    writer.end(logOverflow(host.memory))
    return { part: partOf(host, channel), recording: takeApart(writer.take()), channel }
  })
  const manifest: Manifest = {
    format: 1,
    network: 'lab0',
    name: 'made',
    state: 'complete',
    epoch: CUT,
    policy: 'buffer',
    createdAt: '',
    finishedAt: '',
    version: '',
    parts: made.map((host) => host.part),
    figures: null,
    error: null,
  }
  return { manifest, hosts: made }
}

const nothing = { path: '', bytes: 0, digest: '0'.repeat(64) }

function partOf(host: Host, channel: readonly ChannelFrame[]): LocalPart {
  const members = [0, 1].map((index): MemberPart => {
    const vm = host.port(index)
    const [gatedAtUs, pausedAtUs, cutAtUs, resumedAtUs] = host.times[index]
    const times = { gatedAtUs, pausedAtUs, cutAtUs, resumedAtUs, releasedAtUs: resumedAtUs, sealedAtUs: resumedAtUs }
    const address = [...mac(100 + host.number * MEMBERS + index)].map((byte) => byte.toString(16).padStart(2, '0'))
    return {
      vm,
      ports: [{ name: vm, device: vm, mac: address.join(':') }],
      definition: null,
      memory: nothing,
      disks: [],
      captureMode: 'background',
      ...times,
      held: 0,
      early: 0,
      recorded: channel.filter((frame) => frame.vm === vm).length,
      residue: host.residue[index],
      lost: 0,
    }
  })
  const closures = host.closures.map(
    ({ port, host: peer, ...counts }): ChannelClosure => ({ port: host.port(port), host: peer, ...counts }),
  )
  return {
    host: host.name,
    bootId: '',
    network: 'lab0',
    snapshot: 'made',
    epoch: CUT,
    members,
    channel: nothing,
    closures,
  }
}

/** Writes every file, reads it again and judges, as the coordinator does. */
export function judge(run: SyntheticRun): { verdict: AuditVerdict; checks: AuditCheck[] } {
  const book = new Book()
  const hosts = run.hosts.map(({ part, recording, channel }): AuditedHost => {
    const writer = new EventTraceWriter(recording.head, recording.ports)
    for (const event of recording.events) writer.add(event)
    writer.end(recording.overflow)
    try {
      return { part, events: finish(readEvents(writer.take())), channel: channelEntries(writeChannel(channel)) }
    } catch (thrown) {
      book.violated('events', { what: asSnapswitchError(thrown).message, host: part.host })
      return { part, events: null, channel: null }
    }
  })
  return finish(audit(run.manifest, hosts, book))
}

function finish<T>(work: Generator<void, T, undefined>): T {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}
