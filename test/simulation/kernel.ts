// A host's kernel as the fast path sees it (switch/datapath/kernel/kernel.ts): processors that forward by verdicts
// while the daemon does something else, the programs of bpf/fast-path.bpf.c in TypeScript, and the memory that they
// share with the production code. Now and then a fast frame takes a moment on its processor: judged by a verdict that
// may be void by then, redirected to a device, and behind a veth in a queue of the processor. No frame has a VLAN here.

import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Vnet } from '../../src/frame/vnet-header.js'
import { bucketOf } from '../../switch/datapath/kernel/buckets.js'
import type { FastPort, Kernel, KernelMemory, Waiting } from '../../switch/datapath/kernel/kernel.js'
import {
  COUNTS,
  Count,
  DEVICE_WORDS,
  DEVICES,
  KEPT,
  PORT_WORDS,
  PortWord,
  RUN_LEFT,
  RUN_WORDS,
  Value,
} from '../../switch/datapath/kernel/layout.js'
import { TAGGED } from '../../switch/datapath/kernel/vlan-tag.js'
import { MAX_PORTS } from '../../switch/forwarding/counters.js'
import type { Entry } from './timeline.js'
import { key, nameOf, VirtualTable } from './verdict-table.js'
import type { World } from './world.js'

const PROCESSORS = 2
/** On which the daemon runs. */
const DAEMONS = 0
/** As devices say: frames of the form `long` are longer, and never fast. */
const MTU = 1400
const TCP = 6
const HELD = 71
const HELD_FOR = 72
const QUEUED_FOR = 73
/** Of the frames that are fast, and of those that wait behind a veth, so many take a moment: of at most so long. */
const HELD_SHARE = 0.4
const MOMENT_MS = 0.6

/** A device with a port. */
export interface Device {
  readonly isRunning: () => boolean
  /** `serviceTci` < 0: no tag of ours. */
  transmit(copy: FrameCopy, serviceTci: number): void
}

/** What becomes of a frame by a verdict. */
export interface Redirect {
  readonly from: number
  readonly to: number
  readonly ifindex: number
  readonly push: number
  readonly pops: boolean
  readonly copy: FrameCopy
}

class Processor {
  readonly arrivals: { readonly port: number; readonly copy: FrameCopy }[] = []
  /** The frame that it is at; `hasActed`: its program has ended, the redirect is to come. */
  current: { readonly redirect: Redirect; hasActed: boolean } | null = null
  entry: Entry | null = null
  /** Behind veths. */
  readonly queue: (() => void)[] = []
  handled = 0
  /** Copies of verdicts, by bucket. */
  readonly kept: { readonly key: string; readonly verdict: DataView }[] = []
}

export class VirtualKernel implements Kernel {
  readonly processors = PROCESSORS
  readonly memory: KernelMemory = {
    // No more than there are ports.
    ports: new Int32Array(64 * PORT_WORDS),
    devices: new Int32Array(DEVICES * DEVICE_WORDS),
    runs: new Int32Array(PROCESSORS * RUN_WORDS),
    counters: new Uint32Array(((PROCESSORS - 1) * MAX_PORTS + 64) * COUNTS * 2),
  }
  readonly verdicts = new VirtualTable()
  /** By interface index. */
  readonly devices = new Map<number, Device>()
  readonly #world: World
  readonly #host: number
  readonly #cores = Array.from({ length: PROCESSORS }, () => new Processor())
  /** What comes to a port's socket. */
  readonly #receive: (port: number, copy: FrameCopy) => void
  /** Looks on: a frame has been judged, or leaves its processor. */
  readonly #watch: (redirect: Redirect, leaves: boolean) => void
  /** The daemon has been killed: its socket is gone, and `act` judges by itself. */
  isAlone = false
  #standing = DAEMONS
  #frames = 0
  #asked = -1

  constructor(
    world: World,
    host: number,
    receive: (port: number, copy: FrameCopy) => void,
    watch: (redirect: Redirect, leaves: boolean) => void,
  ) {
    this.#world = world
    this.#host = host
    this.#receive = receive
    this.#watch = watch
  }

  /** Frames that are on processors. */
  get inFlight(): number {
    return this.#cores.reduce(
      (sum, { arrivals, current, queue }) => sum + arrivals.length + queue.length + (current === null ? 0 : 1),
      0,
    )
  }

  // --- what frames meet ----------------------------------------------------------------------------------------------

  /** A frame has come to a device. Those of one device are one processor's. */
  arrive(port: number, copy: FrameCopy): void {
    const core = this.#cores[port % PROCESSORS]
    core.arrivals.push({ port, copy })
    if (core.current === null) this.#run(core)
  }

  /** Something is sent to a veth, by whoever is on a processor now. */
  queue(deliver: () => void): void {
    const core = this.#cores[this.#standing]
    core.queue.push(deliver)
    if (core.queue.length > 1) return
    const wait = this.#moment(QUEUED_FOR)
    if (wait === 0) this.#handle(core, 1)
    else this.#world.time.after(wait, () => this.#handle(core, Number.POSITIVE_INFINITY))
  }

  #handle(core: Processor, most: number): void {
    for (const deliver of core.queue.splice(0, most)) {
      core.handled++
      deliver()
    }
  }

  /** Mostly none. */
  #moment(what: number): number {
    const world = this.#world
    const nth = ++this.#frames
    return world.chance(HELD, this.#host, nth) < HELD_SHARE ? MOMENT_MS * world.chance(what, this.#host, nth) : 0
  }

  #run(core: Processor): void {
    for (let one = core.arrivals.shift(); one !== undefined; one = core.arrivals.shift()) {
      // A processor that is behind with its queue takes frames nevertheless: then one that must go through the daemon
      // may pass the fast one before it (docs/internals/fast-path.md). Not here, while a port is fast, or nothing could
      // be said of the order.
      if ((this.memory.ports[one.port * PORT_WORDS + PortWord.GENERATION] & 1) === 1)
        this.#handle(core, core.queue.length)
      const redirect = this.#decide(core, one.port, one.copy)
      if (redirect === null) continue
      this.#watch(redirect, false)
      core.current = { redirect, hasActed: false }
      const wait = this.#moment(HELD_FOR)
      if (wait === 0) {
        this.#act(core)
        this.#redirect(core)
        continue
      }
      const { time } = this.#world
      core.entry = time.after(wait, () => {
        this.#act(core)
        core.entry = time.after(wait, () => this.#leave(core))
      })
      return
    }
  }

  /** The program ends: the frame is counted. */
  #act(core: Processor): void {
    const { current } = core
    if (current === null || current.hasActed) return
    current.hasActed = true
    const { from, to, copy } = current.redirect
    const length = copy.bytes.length - VNET_HEADER_LENGTH
    const gso = gsoSize(copy)
    const segments = gso === 0 ? 1 : segmentsOf(copy, gso)
    const processor = this.#cores.indexOf(core)
    this.#count(processor, from, Count.IN_FRAMES, length, gso, segments)
    this.#count(processor, to, Count.OUT_FRAMES, length, gso, segments)
    this.memory.runs[processor * RUN_WORDS + RUN_LEFT] = this.memory.runs[processor * RUN_WORDS]
  }

  #count(processor: number, port: number, first: number, length: number, gso: number, segments: number): void {
    const at = (processor * MAX_PORTS + port) * COUNTS
    for (const [nth, number] of [1, length, gso === 0 ? 0 : 1, segments].entries())
      this.memory.counters[(at + first + nth) * 2] += number
  }

  #redirect(core: Processor): void {
    const { current } = core
    if (current === null) return
    core.current = null
    const { redirect } = current
    this.#watch(redirect, true)
    const { push, pops, copy } = redirect
    const plain = pops ? { ...copy, tagTpid: 0, tagTci: 0 } : copy
    const before = this.#standing
    this.#standing = this.#cores.indexOf(core)
    this.devices.get(redirect.ifindex)?.transmit(plain, push === 0 ? -1 : push)
    this.#standing = before
  }

  /** The processor has done with its frame, and goes on to the next. */
  #leave(core: Processor): void {
    if (core.entry !== null) core.entry.act = null
    core.entry = null
    this.#act(core)
    this.#redirect(core)
    this.#run(core)
  }

  // --- the programs --------------------------------------------------------------------------------------------------

  /** Null: the socket has the frame, or nobody. */
  #decide(core: Processor, port: number, copy: FrameCopy): Redirect | null {
    const processor = this.#cores.indexOf(core)
    const { runs, devices, ports } = this.memory
    const ifindex = ifindexOf(port)
    const at = (ifindex & (DEVICES - 1)) * DEVICE_WORDS
    if (devices[at] !== ifindex) {
      if (!this.isAlone) this.#receive(port, copy)
      return null
    }
    const number = devices[at + 1]
    runs[processor * RUN_WORDS]++
    const redirect = this.#judge(core, number, copy)
    if (redirect !== null) return redirect
    const { bytes } = copy
    if (this.isAlone) {
      runs[processor * RUN_WORDS + RUN_LEFT] = runs[processor * RUN_WORDS]
      return null
    }
    // Before the frame is in the ring: no later frame of this pair can miss it.
    if ((bytes[VNET_HEADER_LENGTH] & 1) === 0)
      ports[number * PORT_WORDS + PortWord.PUNTED + bucketOf(bytes, VNET_HEADER_LENGTH)]++
    this.#receive(port, copy)
    runs[processor * RUN_WORDS + RUN_LEFT] = runs[processor * RUN_WORDS]
    return null
  }

  #judge(core: Processor, number: number, copy: FrameCopy): Redirect | null {
    const { ports } = this.memory
    const { bytes, tagTpid, tagTci } = copy
    const start = VNET_HEADER_LENGTH
    const p = number * PORT_WORDS
    const type = (bytes[start + 12] << 8) | bytes[start + 13]
    const isTrunk = ports[p + PortWord.TRUNK] !== 0
    if (isTrunk && type === EtherType.CONTROL && tagTpid === 0) ports[p + PortWord.TOLD]++
    if ((bytes[start] & 1) !== 0) return null
    const generation = ports[p + PortWord.GENERATION]
    if ((generation & 1) === 0 || ports[p + PortWord.MISSED] !== 0 || !this.hasHeard(p)) return null
    const bucket = bucketOf(bytes, start)
    if (!this.hasSent(p, bucket)) return null
    if (type === EtherType.VLAN || type === EtherType.SERVICE_VLAN || type === EtherType.CONTROL) return null
    if (tagTpid !== 0 && tagTpid !== (isTrunk ? EtherType.SERVICE_VLAN : EtherType.VLAN)) return null
    if (isTrunk && tagTpid === 0) return null
    const gso = gsoSize(copy)
    if (gso !== 0 && (type !== EtherType.IPV4 || bytes[start + 23] !== TCP)) return null
    const tag = tagTci & 0xfff
    const vlan = isTrunk || tagTpid === 0 ? 0 : tag | TAGGED
    const wanted = key(number, vlan, isTrunk ? tag : 0, bytes, start)
    const verdict = this.#lookUp(core.kept, wanted, bucket % KEPT, generation, ports[p + PortWord.NOW])
    if (verdict === null) return null
    const to = verdict.getUint32(Value.TO, true)
    const q = to * PORT_WORDS
    if (ports[q + PortWord.GENERATION] !== verdict.getInt32(Value.TO_GENERATION, true)) return null
    if (this.isPaused(q)) return null
    if (gso === 0 && bytes.length - start > verdict.getUint32(Value.ROOM, true)) return null
    return {
      from: number,
      to,
      ifindex: verdict.getUint32(Value.IFINDEX, true),
      push: verdict.getUint16(Value.PUSH, true),
      pops: verdict.getUint16(Value.POP, true) !== 0,
      copy,
    }
  }

  /** `look_up` of the programs. */
  #lookUp(kept: Processor['kept'], wanted: Uint8Array, at: number, generation: number, now: number): DataView | null {
    const name = nameOf(wanted)
    const there = kept[at]
    const isOfNow = there?.verdict.getUint32(Value.SEEN, true) === now
    if (isOfNow && there.key === name && there.verdict.getInt32(Value.FROM_GENERATION, true) === generation)
      return there.verdict
    const verdict = this.verdicts.find(wanted)
    if (verdict === undefined || verdict.getInt32(Value.FROM_GENERATION, true) !== generation) return null
    verdict.setUint32(Value.SEEN, now, true)
    if (!isOfNow) kept[at] = { key: name, verdict: new DataView(verdict.buffer.slice(0)) }
    return verdict
  }

  /** What came before in the frame's bucket has been sent on. */
  hasSent(port: number, bucket: number): boolean {
    const { ports } = this.memory
    return ports[port + PortWord.PUNTED + bucket] === ports[port + PortWord.DONE + bucket]
  }

  /** What the peer switch has said has been read, or need not be. */
  hasHeard(port: number): boolean {
    const { ports } = this.memory
    return ports[port + PortWord.TOLD] === ports[port + PortWord.HEARD] || ports[port + PortWord.RUSHED] !== 0
  }

  isPaused(port: number): boolean {
    return this.memory.ports[port + PortWord.PAUSED] !== 0
  }

  // --- what the daemon asks ------------------------------------------------------------------------------------------

  /** Whoever asks twice at one moment waits for something: then programs go on to their end. */
  now(): number {
    const { now } = this.#world.time
    if (now === this.#asked) for (const core of this.#cores) this.#act(core)
    this.#asked = now
    return now
  }

  visit(processors: readonly number[]): boolean {
    for (const processor of processors) {
      const core = this.#cores[processor]
      if (core.current === null) continue
      this.#world.marks.add('fast frame waited for')
      this.#leave(core)
    }
    return true
  }

  waitForReaders(): boolean {
    return this.visit([...this.#cores.keys()])
  }

  waiting(): Waiting {
    const cores = this.#cores
    let due: number[] = []
    return {
      mark: () => {
        due = cores.map(({ queue, handled }) => (queue.length === 0 ? 0 : handled + queue.length))
        return due.every((count) => count === 0)
      },
      get passed() {
        return cores.every(({ queue, handled }, at) => queue.length === 0 || handled >= due[at])
      },
      drained: () => this.drain(),
    }
  }

  /** What waits behind veths is handled. */
  drain(): boolean {
    for (const core of this.#cores) this.#handle(core, core.queue.length)
    return true
  }

  front(): ReturnType<Kernel['front']> {
    return { program: -1, handOn: () => undefined }
  }

  mtu(): number {
    return MTU
  }

  isRunning({ ifindex }: FastPort): boolean {
    return this.devices.get(ifindex)?.isRunning() === true
  }

  close(): void {
    this.verdicts.clear()
  }
}

/** Each port's device. */
export const ifindexOf = (port: number): number => 100 + port

function gsoSize({ bytes }: FrameCopy): number {
  return bytes[Vnet.GSO_TYPE] === 0 ? 0 : bytes[Vnet.GSO_SIZE] | (bytes[Vnet.GSO_SIZE + 1] << 8)
}

/** Of TCP by IPv4. */
function segmentsOf({ bytes }: FrameCopy, size: number): number {
  const ip = VNET_HEADER_LENGTH + 14
  const tcp = ip + (bytes[ip] & 15) * 4
  const head = tcp + (bytes[tcp + 12] >> 4) * 4
  return bytes.length > head ? Math.ceil((bytes.length - head) / size) : 1
}
