// A forwarder under mutated frames and random commands. It must not throw, and every frame is accounted for: sent,
// held, dropped under a reason, or filtered for a reason that the forwarding rules give. Queues and tables stay in
// their bounds, and nothing that enters a port leaves a trunk looking like a color or a control frame of ours.

import assert from 'node:assert/strict'
import { colorVid, generationOfVid } from '../../../src/frame/color-tag.js'
import { type ControlMessage, ControlType, encodeControl } from '../../../src/frame/control.js'
import {
  announcement,
  EtherType,
  innerEtherType,
  isGroup,
  isWellFormed,
  macHigh,
  macLow,
  vlanId,
} from '../../../src/frame/ethernet.js'
import { copyFrame, Frame, MAX_FRAME_LENGTH, NO_COLOR, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { encodeSealed } from '../../../src/frame/sealed-control.js'
import { Counter, createCounters, Drop, dropReasons, MAX_PORTS, ROW } from '../../../switch/forwarding/counters.js'
import { Forwarder } from '../../../switch/forwarding/forwarder.js'
import type { NetworkOptions } from '../../../switch/forwarding/network.js'
import type { Output, PortState } from '../../../switch/forwarding/port-state.js'
import type { Random } from '../../simulation/chance.js'
import { mutate, randomBytes } from './mutate.js'

const STEPS = 400
const PORTS = 8
const GROUP = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
const KEY = new Uint8Array(32).fill(7)
const PEERS = ['bbbbbbbbbbbbbbbb', 'cccccccccccccccc']
const TYPES = [
  EtherType.IPV4,
  EtherType.ARP,
  EtherType.IPV6,
  EtherType.VLAN,
  EtherType.SERVICE_VLAN,
  EtherType.CONTROL,
  0,
  0xffff,
]

const INGRESS = [
  'malformed',
  'bad-source',
  'link-local',
  'pause',
  'tag-unknown',
  'control-malformed',
  'control-version',
] as const
const CONTROL = ['control-unexpected', 'control-unauthenticated', 'control-replayed'] as const
const INGRESS_DROPS = [...INGRESS, ...CONTROL, 'other-generation'] as const
const EGRESS_DROPS = ['hold-overflow', 'early-dropped', 'fenced'] as const

/** Shared by all cases, so that frames too long for anything cost no memory of their own. */
const huge = new Uint8Array(MAX_FRAME_LENGTH + 64).fill(0x5a)

class CountingOutput implements Output {
  forwarded = 0
  control = 0
  refuses = false
  port!: PortState

  send(frame: Frame, serviceTci: number): boolean {
    assert.ok(frame.length >= 14 && frame.start + frame.length <= frame.bytes.length, 'a frame lies in its memory')
    assert.equal(frame.start, frame.vnet + VNET_HEADER_LENGTH, 'the virtio-net header lies before its frame')
    if (!this.port.isTrunk) assert.equal(serviceTci, -1, 'colors stay on trunks')
    else if (frame.color !== NO_COLOR) assert.equal(serviceTci - generationOfVid(serviceTci), colorVid(frame.color))
    const outer = frame.tagTpid !== 0 ? frame.tagTpid : innerEtherType(frame)
    const naked = serviceTci < 0 && this.port.isTrunk
    if (naked && outer === EtherType.CONTROL) {
      assert.deepEqual(
        frame.bytes.slice(frame.start + 6, frame.start + 12),
        this.port.spec.mac,
        'a forged control frame',
      )
      this.control++
      return true
    }
    if (naked) assert.notEqual(outer, EtherType.SERVICE_VLAN, 'a forged color')
    this.forwarded++
    return !this.refuses
  }
}

interface Sums {
  forwarded: number
  held: number
  waiting: number
  egressDrops: number
  ingressDrops: number
}

class Run {
  readonly #random: Random
  readonly #counters = createCounters()
  readonly #options: NetworkOptions
  readonly #forwarder: Forwarder
  readonly #outputs = new Map<number, CountingOutput>()
  readonly #frame = new Frame()
  readonly #received = new Float64Array(PORTS)
  readonly #earlies = new Set<string>()
  readonly #longestHold = new Float64Array(PORTS)
  #now = 1_700_000_000_000
  #sequence = 0

  constructor(random: Random) {
    this.#random = random
    this.#options = {
      network: 'lab0',
      host: 'a',
      bootedAt: 0,
      bootId: 'aaaaaaaaaaaaaaaa',
      linkLocal: random.pick(['forward', 'drop']),
      pause: random.pick(['forward', 'drop']),
      transit: random.chance(0.3),
      fdb: { capacity: random.integer(1, 40), perPort: random.integer(1, 20), ageing: random.integer(1, 300) },
      hold: { frames: random.integer(0, 40), bytes: random.integer(0, 20_000) },
      networkHold: { frames: random.integer(0, 80), bytes: random.integer(0, 40_000) },
      record: { frames: random.integer(0, 40), bytes: random.integer(0, 20_000) },
      closureDeadline: 200,
      controlKey: random.chance(0.25) ? KEY : null,
    }
    this.#forwarder = new Forwarder(this.#options, this.#counters, {
      early: (port, epoch) => {
        const key = `${port} ${epoch}`
        assert.ok(!this.#earlies.has(key), 'early is said once per port and epoch')
        this.#earlies.add(key)
      },
      peer: () => undefined,
      closed: (epoch) => assert.equal(epoch, this.#forwarder.snapshots.openEpoch),
    })
    this.#forwarder.network.raiseEpoch(random.integer(0, random.pick([3, 5000, 1e6])))
    for (let index = 0; index < PORTS; index++) if (index < 2 || random.chance(0.6)) this.#addPort(index)
  }

  go(): void {
    for (let step = 0; step < STEPS; step++) {
      if (this.#random.chance(0.8)) this.#stepFrame()
      else this.#stepCommand()
      this.#checkBounds()
    }
    this.#checkCounters()
  }

  #addPort(index: number): void {
    const random = this.#random
    this.#counters.fill(0, index * ROW, (index + 1) * ROW)
    this.#received[index] = 0
    this.#longestHold[index] = 0
    for (const key of this.#earlies) if (key.startsWith(`${index} `)) this.#earlies.delete(key)
    const kind = random.pick(['member', 'member', 'plain', 'trunk'] as const)
    const output = new CountingOutput()
    const vm = kind === 'member' ? `vm${index}` : null
    const mac = Uint8Array.of(6, 0, 0, 0, 0, index)
    output.port = this.#forwarder.addPort(
      { index, name: `p${index}`, kind, vm, epoch: this.#forwarder.network.epoch, mac },
      output,
    )
    this.#outputs.set(index, output)
  }

  // --- frames

  #stepFrame(): void {
    const random = this.#random
    const forwarder = this.#forwarder
    if (forwarder.ports.length === 0) return
    const port = random.pick(forwarder.ports)
    this.#place(this.#makeFrame())
    if (random.chance(0.3)) {
      this.#frame.tagTpid = random.pick([EtherType.VLAN, EtherType.SERVICE_VLAN])
      this.#frame.tagTci = random.chance(0.8) ? random.integer(0, 5) : random.integer(0, 0xffff)
      if (port.isTrunk && random.chance(0.7)) this.#nearColor()
    }
    for (const output of this.#outputs.values()) output.refuses = random.chance(0.05)
    this.#accountFor(port, () => forwarder.receive(port.index, this.#frame, this.#now))
  }

  /** A color that is in use, or nearly. */
  #nearColor(): void {
    this.#frame.tagTpid = EtherType.SERVICE_VLAN
    this.#frame.tagTci = colorVid(
      Math.max(0, this.#forwarder.network.epoch + this.#random.integer(-2, 2)),
      this.#random.integer(0, 3),
    )
  }

  #address(): number[] {
    const random = this.#random
    if (random.chance(0.2)) return GROUP
    if (random.chance(0.05)) return [0x01, 0x80, 0xc2, 0, 0, random.integer(0, 31)]
    return [2, 0, 0, 0, 0, random.integer(0, 60)]
  }

  #makeFrame(): Uint8Array {
    const random = this.#random
    if (random.chance(0.02)) return huge.subarray(0, MAX_FRAME_LENGTH + random.integer(-2, 3))
    if (random.chance(0.15)) {
      const message = {
        type: random.pick(Object.values(ControlType)),
        bootedAt: 0,
        bootId: random.pick(random.chance(0.1) ? [this.#options.bootId] : PEERS),
        network: random.chance(0.95) ? 'lab0' : 'lab1',
        host: 'b',
        number: random.integer(0, 3),
        heard: { bootId: random.chance(0.7) ? this.#options.bootId : random.pick(PEERS), number: random.integer(0, 4) },
        accepts: random.integer(0, 3),
        sends: random.integer(0, 3),
        takes: random.chance(0.7),
        epoch: Math.max(0, this.#forwarder.network.epoch + random.integer(-2, 2)),
        count: random.integer(0, 50),
      }
      const bytes = this.#encode(message, Uint8Array.from(this.#address()), Uint8Array.from([2, 0, 0, 0, 1, 1]))
      return random.chance(0.4) ? mutate(random, bytes) : bytes
    }
    const type = random.pick(TYPES)
    const payload = randomBytes(random, random.pick([0, 1, 2, 3, 4, 46, 100]))
    const bytes = Uint8Array.of(...this.#address(), ...this.#address(), type >> 8, type & 0xff, ...payload)
    return random.chance(0.3) ? mutate(random, bytes) : bytes
  }

  /** In a network with a key mostly sealed: by its key or another, for us or another, in good order or not. */
  #encode(message: ControlMessage, to: Uint8Array, from: Uint8Array): Uint8Array {
    const random = this.#random
    const options = this.#options
    if (options.controlKey === null || random.chance(0.2)) return encodeControl(message, to, from)
    this.#sequence += random.integer(-1, 5)
    const bootId = random.pick([options.bootId, options.bootId, ...PEERS])
    const heard = { bootId, sequence: Math.floor(this.#now * 1000) - random.pick([0, 1e6, 4e6]) }
    const key = random.chance(0.9) ? KEY : new Uint8Array(32)
    return encodeSealed({ message, sequence: Math.max(0, this.#sequence), heard }, key, to, from)
  }

  /** Somewhere in a larger memory, as in a ring: what lies around must not matter. */
  #place(bytes: Uint8Array): void {
    const random = this.#random
    const frame = this.#frame
    const vnet = random.integer(0, 7)
    frame.bytes = randomBytes(random, vnet + VNET_HEADER_LENGTH + 4)
    if (bytes.length < 1000) {
      const memory = randomBytes(random, vnet + VNET_HEADER_LENGTH + bytes.length + random.integer(0, 8))
      memory.set(bytes, vnet + VNET_HEADER_LENGTH)
      frame.bytes = memory
      frame.vnet = vnet
    } else {
      frame.bytes = huge
      frame.vnet = 0
    }
    frame.address = 0
    frame.start = frame.vnet + VNET_HEADER_LENGTH
    frame.length = bytes.length
    frame.tagTpid = 0
    frame.tagTci = 0
    frame.color = random.integer(-1, 100)
  }

  #accountFor(from: PortState, receive: () => void): void {
    const forwarder = this.#forwarder
    const frame = this.#frame
    const before = new Map(forwarder.ports.map((port) => [port, this.#sums(port)]))
    const { tagTpid } = frame
    const wellFormed = isWellFormed(frame)
    const control = from.isTrunk && tagTpid === 0 && wellFormed && innerEtherType(frame) === EtherType.CONTROL
    receive()
    this.#received[from.index]++
    const droppedHere = this.#sums(from).ingressDrops - before.get(from)!.ingressDrops
    assert.ok(droppedHere === 0 || droppedHere === 1, 'one reason a frame')
    if (!wellFormed) assert.equal(droppedHere, 1, 'malformed frames go no further')
    const expected = droppedHere === 1 || control ? [] : this.#destinations(from)
    for (const port of forwarder.ports) {
      const was = before.get(port)!
      const is = this.#sums(port)
      const waiting = is.waiting - was.waiting
      assert.equal(is.held - was.held, waiting, 'what is counted as held is held')
      const fate = is.forwarded - was.forwarded + waiting + is.egressDrops - was.egressDrops
      assert.equal(fate, expected.includes(port) ? 1 : 0, `fate of a frame at ${port.spec.kind} ${port.index}`)
      if (port !== from) assert.equal(is.ingressDrops, was.ingressDrops)
    }
  }

  /** By the rules: the port that the address was learned at, or all; never back, nor from trunk to trunk. */
  #destinations(from: PortState): PortState[] {
    const options = this.#options
    const forwarder = this.#forwarder
    const frame = this.#frame
    const { bytes, start } = frame
    const allowed = (port: PortState) => port !== from && !(from.isTrunk && port.isTrunk && !options.transit)
    if (!isGroup(bytes, start)) {
      const seconds = Math.floor(this.#now / 1000)
      const to = forwarder.fdb.lookUp(macHigh(bytes, start), macLow(bytes, start), vlanId(frame), seconds)
      if (to >= 0) return forwarder.ports.filter((port) => port.index === to && allowed(port))
    }
    return forwarder.ports.filter(allowed)
  }

  #sums(port: PortState): Sums {
    const sum = (reasons: readonly (keyof typeof Drop)[]) =>
      reasons.reduce((total, reason) => total + this.#counters[port.row + Drop[reason]], 0)
    return {
      forwarded: this.#outputs.get(port.index)!.forwarded,
      held: this.#counters[port.row + Counter.held],
      waiting: port.hold.length,
      egressDrops: sum(EGRESS_DROPS),
      ingressDrops: sum(INGRESS_DROPS),
    }
  }

  // --- commands

  #stepCommand(): void {
    const random = this.#random
    const forwarder = this.#forwarder
    const { snapshots } = forwarder
    const some = () => Array.from({ length: random.integer(0, 4) }, () => random.integer(0, PORTS))
    const near = () => Math.max(0, forwarder.network.epoch + random.integer(-1, 2))
    const gates = some()
    const commands = [
      () => snapshots.begin(near(), random.pick(['buffer', 'drop']), this.#now + 500, this.#now),
      () => snapshots.arm(some()),
      () => snapshots.gate(some(), this.#now),
      () => {
        const residue = gates.map(() => random.integer(0, 50))
        snapshots.flip(gates, near(), residue, this.#now)
      },
      () => snapshots.release(some(), this.#now, random.pick([[], [0, 1, 2, 3], [7, 7, 7, 7]])),
      () => snapshots.drain(some(), this.#now, [random.integer(0, 9)]),
      () => this.#end(),
      () => snapshots.advance(near(), this.#now),
      () => snapshots.fence(some(), near(), this.#now),
      () => this.#pass(random.pick([0, 1, 5, 100, 4000, 400_000])),
    ] as const
    const others = [() => this.#preload(), () => this.#announce(), () => this.#plug()] as const
    if (random.chance(0.3)) random.pick(others)()
    else this.#conserves(random.pick(commands))
  }

  /** Commands make no frames: what leaves comes out of the hold queues, and what left them was sent or fenced. */
  #conserves(command: () => unknown): void {
    const before = new Map(this.#forwarder.ports.map((port) => [port, this.#sums(port)]))
    command()
    for (const [port, was] of before) {
      const is = this.#sums(port)
      const gone = was.waiting - is.waiting
      assert.ok(gone >= 0, 'no command adds to a hold queue')
      assert.equal(
        is.forwarded - was.forwarded + is.egressDrops - was.egressDrops,
        gone,
        'held frames are accounted for',
      )
    }
  }

  #end(): void {
    const { frames } = this.#forwarder.snapshots.end()
    const { record } = this.#options
    const crossing = frames.filter(({ verdict }) => verdict === 'in-transit')
    assert.ok(crossing.length <= record.frames, 'the channel state is bounded')
    const bytes = crossing.reduce((sum, { copy }) => sum + copy.bytes.length, 0)
    assert.ok(bytes <= record.bytes + VNET_HEADER_LENGTH, 'in bytes, too')
  }

  #pass(milliseconds: number): void {
    this.#now += milliseconds
    this.#forwarder.tick(this.#now)
  }

  #preload(): void {
    const random = this.#random
    const index = random.integer(0, PORTS)
    const port = this.#forwarder.byIndex[index]
    this.#place(Uint8Array.from([...GROUP, 2, 0, 0, 0, 0, 1, 8, 0, 1, 2, 3]))
    const { color: _, ...copy } = copyFrame(this.#frame)
    const before = port?.hold.length ?? 0
    // Only behind a gate: a restore closes it first.
    if (port !== undefined) this.#forwarder.snapshots.gate([index], this.#now)
    this.#forwarder.snapshots.preload(index, [copy, copy])
    if (port === undefined) return
    assert.equal(port.hold.length, before + 2)
    this.#longestHold[index] = Math.max(this.#longestHold[index], port.hold.length)
  }

  #announce(): void {
    const random = this.#random
    const forwarder = this.#forwarder
    const members = forwarder.ports.filter((port) => port.isMember)
    if (members.length === 0) return
    const port = random.pick(members)
    const mac = Uint8Array.from([2, 0, 0, 0, 0, random.integer(0, 60)])
    this.#place(announcement(mac))
    this.#accountFor(port, () => forwarder.announce(port.index, mac, this.#now))
  }

  #plug(): void {
    const index = this.#random.integer(0, PORTS - 1)
    if (this.#forwarder.byIndex[index] === undefined) {
      this.#addPort(index)
      return
    }
    this.#forwarder.removePort(index)
    this.#outputs.delete(index)
  }

  // --- what holds always

  #checkBounds(): void {
    const { fdb, ports, byIndex } = this.#forwarder
    assert.ok(fdb.size <= this.#options.fdb.capacity, 'the FDB is bounded')
    let entries = 0
    fdb.visit(
      (_high, _low, _vlan, port) => {
        entries++
        assert.ok(byIndex[port] !== undefined, 'no address is known at a port that is gone')
      },
      Math.floor(this.#now / 1000),
    )
    assert.ok(entries <= fdb.size)
    for (const port of ports) {
      const most = Math.max(this.#options.hold.frames, this.#longestHold[port.index])
      assert.ok(port.hold.length <= most, 'hold queues are bounded')
    }
  }

  #checkCounters(): void {
    const counters = this.#counters
    const received = this.#received
    for (const port of this.#forwarder.ports) {
      assert.equal(counters[port.row + Counter.rxFrames], received[port.index], 'every frame is counted')
    }
    for (let at = 0; at < MAX_PORTS * ROW; at++) {
      assert.ok(Number.isSafeInteger(counters[at]) && counters[at] >= 0, 'counters count')
      if (at >= PORTS * ROW) assert.equal(counters[at], 0, 'a row belongs to its port')
    }
    assert.ok(dropReasons.every((reason) => Drop[reason] < ROW))
  }
}

export function forwarder(random: Random): void {
  new Run(random).go()
}
